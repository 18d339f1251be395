"""Methods that no shard sees: who may call them is asked before they begin.

What each method needs is in METHODS. One that ends at a shard is checked there, with everything that it is about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames
from proto.methods import METHODS, Access, ApiName, Permission

if TYPE_CHECKING:
    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator, Need
    from coordinator.services.etcd_tables import EtcdTables

_NEEDS: Final[dict[Permission, Need.ValueType]] = {
    Permission.USER: frames.RightsRequest.USER,
    Permission.ROOT: frames.RightsRequest.ROOT,
}

_GUARDED: Final = frozenset({ApiName.ETCD, ApiName.ETCD_ADMIN})
"""Whose calls mean one table, by their metadata."""


class Guard:
    """Stands before handlers."""

    def __init__(self, tables: EtcdTables, authenticator: Authenticator) -> None:
        self._tables = tables
        self._authenticator = authenticator

    def guarded(self, path: str, handler: Handler) -> Handler:
        """The handler of this path, behind the guard if it needs one."""
        method = METHODS[path]
        need = _NEEDS.get(method.permission)
        if need is None or method.access is not Access.COORDINATOR or method.api not in _GUARDED:
            return handler

        async def checked(call: Call) -> bytes | None:
            await self.check(call, need)
            return await handler(call)

        return checked  # type: ignore[return-value]  # it answers as the handler does

    async def check(self, call: Call, need: Need.ValueType) -> None:
        """Raises what he is told who is not what is needed."""
        table = await self._tables.find(call)
        who = self._authenticator.credentials(call, table)
        deadline = self._tables.step_deadline(call)
        await self._authenticator.rights(who, table, deadline, need=need)
