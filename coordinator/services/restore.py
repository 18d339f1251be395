"""boathouse.v1.Restore: filling a new table with what a snapshot of one holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.services.etcd_tables import EtcdTables


class Restore:
    """Load."""

    def __init__(self, calls: TableCalls, tables: EtcdTables, authenticator: Authenticator) -> None:
        self._calls = calls
        self._tables = tables
        self._authenticator = authenticator

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {"/boathouse.v1.Restore/Load": self.load}

    async def load(self, call: Call) -> bytes:
        """One piece, which the table's shard checks and appends."""
        table = await self._tables.find(call)
        _, reply = await self._calls.write(self._authenticator.asked(call, table, frames.TABLE_LOAD))
        return reply.body
