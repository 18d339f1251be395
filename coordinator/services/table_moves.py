"""boathouse.v1.Moves: tables that go to another shard while they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.services.decoding import decode
from proto import errors
from proto.boathouse import moves_pb2 as api
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.moves.moves import Check, TableMoves
    from proto.catalog import TableEntry


class Moves:
    """Move, Cancel. Where a table has users, only its root may do this."""

    def __init__(self, moves: TableMoves, authenticator: Authenticator) -> None:
        self._moves = moves
        self._authenticator = authenticator

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {"/boathouse.v1.Moves/Move": self.move, "/boathouse.v1.Moves/Cancel": self.cancel}

    async def move(self, call: Call) -> bytes:
        """Begun if it is not under way, and how far it is."""
        request = decode(api.MoveRequest.FromString, call.body)
        if not request.table:
            raise errors.EmptyName
        progress = await self._moves.move(request.table, ShardId(request.shard), self._is_his(call))
        return progress.SerializeToString()

    async def cancel(self, call: Call) -> bytes:
        """The table stays when this is answered."""
        request = decode(api.CancelMoveRequest.FromString, call.body)
        if not request.table:
            raise errors.EmptyName
        await self._moves.cancel(request.table, self._is_his(call))
        return api.CancelMoveResponse().SerializeToString()

    def _is_his(self, call: Call) -> Check:
        def check(table: TableEntry) -> Awaitable[object]:
            who = self._authenticator.credentials(call, table)
            return self._authenticator.rights(who, table, call.deadline, need=frames.RightsRequest.ROOT)

        return check
