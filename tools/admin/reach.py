"""How the coordinators of a cluster are reached: as data, whoever says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl

    import grpc


@dataclass(frozen=True, slots=True)
class Reach:
    """What the user has said of it, or his environment, apart from where they are."""

    credentials: grpc.ChannelCredentials | None = None
    """None: in the clear."""
    tls: ssl.SSLContext | None = None
    """The same for HTTP pages."""
    token: str = ""
    """Of a table's user; "" for none."""

    def channel(self, endpoint: str) -> grpc.Channel:
        """A new channel; whoever opens it closes it."""
        from tools.admin.client import open_channel  # with gRPC, which who only reads pages does without

        return open_channel(endpoint, self.credentials)

    @property
    def login(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call."""
        return (("authorization", self.token),) if self.token else ()


@dataclass(frozen=True, slots=True)
class Connection:
    """Coordinators, and how they are reached."""

    addresses: tuple[str, ...]
    credentials: grpc.ChannelCredentials | None
    """None: in the clear."""
    token: str
    """Of a table's user; "" for none."""


IN_THE_CLEAR: Final = Reach()
