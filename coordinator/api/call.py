"""One call of a method, whoever carries it: gRPC over HTTP/2, the JSON gateway, or another service in this process.

A service is a set of functions from a Call to an answer. It never learns how the call came, so each transport reaches
all of them, and a test calls them without any.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from coordinator.api.meter import CallMeter

if TYPE_CHECKING:
    from coordinator.api import outcomes
    from proto.methods import Method

Metadata = Mapping[str, str]
"""By lower-case name, the first value of each, as Go's metadata users take it; `-bin` values are left in base64."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end, as far as a call's transport knows. What he says himself is in the metadata."""

    common_name: str = ""
    """Of the certificate that he has shown; empty if he has shown none, or was not asked."""
    is_system: bool = False
    """Nobody is: the process calls on its own account."""


ANYBODY: Final = Identity()
SYSTEM: Final = Identity(is_system=True)


class Call(Protocol):
    """What a handler gets to see of a call."""

    @property
    def body(self) -> bytes:
        """The request message of a unary or server-streaming call, decompressed; empty for the other kinds."""

    @property
    def metadata(self) -> Metadata: ...

    @property
    def deadline(self) -> float:
        """On the event loop's clock; infinite for a stream whose client set none."""

    @property
    def peer(self) -> str:
        """The client's address as people write it, for logs and limits."""

    @property
    def identity(self) -> Identity: ...

    table: str
    """Name of the table that it is about, once its handler has found it: for figures."""

    def messages(self) -> AsyncIterator[bytes]:
        """The request messages of a client-streaming or bidirectional call; ends when the client has no more to say."""

    async def take_messages(self, count_max: int) -> Sequence[bytes]:
        """As of messages(): those that have come by now, at most so many, the first of which is waited for. Empty: the
        client has no more to say."""

    def add_header(self, name: str, value: str) -> None:
        """Metadata for the client, ahead of the first answer. A `-bin` value is given in base64."""

    def add_trailer(self, name: str, value: str) -> None:
        """Metadata for the client, beside the status."""

    async def send(self, message: bytes) -> None:
        """One answer of a server-streaming or bidirectional call. Waits while more is queued than a stream may hold.

        Raises StreamEnded once nobody can hear it."""

    async def send_all(self, messages: Sequence[bytes]) -> None:
        """As send() of one after the other, for less."""

    def send_now(self, messages: Sequence[bytes]) -> bool:
        """As send_all(), where that would not wait. False, and nothing is sent, if it would, or the call has ended."""


class Alike(list[bytes]):
    """Messages that more than one stream is sent, so nobody changes them: what is worked out of them is kept for the
    next stream."""

    __slots__ = ("size_bytes", "written")

    def __init__(self, messages: Iterable[bytes]) -> None:
        super().__init__(messages)
        self.size_bytes = sum(map(len, self))
        """Of all of them."""
        self.written = b""
        """As a transport writes them. Empty = none has yet."""


Unary = Callable[[Call], Awaitable[bytes]]
"""Of a unary or client-streaming method: the answer is its result."""
Stream = Callable[[Call], Awaitable[None]]
"""Of a server-streaming or bidirectional method: answers go through Call.send, returning ends the call with OK.

A handler is cancelled when its client cancels, goes away, or the deadline passes, and must let go of what it holds."""
Handler = Unary | Stream


class StreamEnded(Exception):
    """The client of a stream has gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """What all methods of one API share."""

    outcomes: outcomes.Table
    message_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One served method."""

    path: str
    """/package.Service/Method."""
    method: Method
    api: Api
    handler: Handler
    timeout_s: float | None
    """A call's deadline, unless its client set an earlier one; None for a stream that may last."""
    meter: CallMeter = field(default_factory=CallMeter, compare=False)
    """Of its clients' calls."""
