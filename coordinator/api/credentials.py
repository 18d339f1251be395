"""Whose call it is, as a shard is told. Whether that matters the shard decides: it knows whether its table asks."""

from __future__ import annotations

from typing import Final, NamedTuple


class Credentials(NamedTuple):
    """What a client has shown of himself; see frames.Request."""

    token: bytes = b""
    """What the shard knows his simple token by."""
    user: str = ""
    """He has proved to be this one, by a signed token or a certificate."""
    auth_revision: int = 0
    """To which his proof is bound; 0 = to none."""
    is_system: bool = False
    """It is no client's: this process reads on its own account."""
    passed_on: int = 0
    """By how many follower clusters, one after the other, which say whose call it is."""

    @property
    def is_nobody(self) -> bool:
        """Whether he has shown nothing, however he came here."""
        return self._replace(passed_on=0) == NOBODY

    @property
    def may_be_looked_at_again(self) -> bool:
        """Whether the same proof is as good after users or permissions have changed."""
        return self.auth_revision == 0


NOBODY: Final = Credentials()
SYSTEM: Final = Credentials(is_system=True)
