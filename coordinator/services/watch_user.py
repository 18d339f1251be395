"""Whose watch stream it is, and what he may hear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.api import outcomes
from coordinator.api.credentials import Credentials
from coordinator.watch.rechecks import Readable
from proto import errors
from proto.codes import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.auth.authenticator import Authenticator
    from proto.catalog import TableEntry

_TOLD: Final = (errors.InvalidAuthToken, errors.AuthOldRevision, errors.UserEmpty)
"""Refusals that a watch tells as they are; any other reads as a permission that is missing."""
_IN_GO: Final = {
    Code.PERMISSION_DENIED: "PermissionDenied",
    Code.UNAUTHENTICATED: "Unauthenticated",
    Code.INVALID_ARGUMENT: "InvalidArgument",
}


class WatchUser:
    """The user of one stream. A watch may last longer than what he proved himself with: once he has, he is known. To
    make another one that has to hold still, as in etcd: a user of the same name may be another one by now."""

    def __init__(
        self,
        authenticator: Authenticator,
        table: TableEntry,
        shown: Callable[[], Credentials],
        deadline: Callable[[], float],
    ) -> None:
        """shown: what is known of him by what he has shown, if that holds now. deadline: of one question that is asked
        now."""
        self._authenticator = authenticator
        self._table = table
        self._shown = shown
        self._who = shown()
        self._deadline = deadline

    @property
    def who(self) -> Credentials:
        """What is known of him."""
        return self._who

    async def readable(self, at_least: int) -> Readable:
        """Now, and not before this auth version of the table unless its leader knows of none so new. Raises what
        Authenticator.rights does."""
        return await self._ask(self._who, at_least)

    async def readable_anew(self, at_least: int) -> Readable:
        """As readable, but by what he has shown. Raises what Authenticator.credentials does, too."""
        return await self._ask(self._shown(), at_least)

    def handle_known(self, user: str) -> None:
        """What he has shown was found to be this user's; empty: nobody's, since authentication is off."""
        if user:
            self._who = Credentials(user=user)

    async def _ask(self, who: Credentials, at_least: int) -> Readable:
        rights = await self._authenticator.rights(who, self._table, self._deadline(), at_least=at_least)
        self.handle_known(rights.user)
        return Readable(rights.user, rights.auth_version, rights.readable)


def why_forbidden(error: errors.AuthError) -> str:
    """The reason in a response, as etcd words it."""
    told = error if isinstance(error, _TOLD) else errors.PermissionDenied()
    row = outcomes.to_status(outcomes.ETCD, told)
    return f"rpc error: code = {_IN_GO[row.code]} desc = {row.text}"
