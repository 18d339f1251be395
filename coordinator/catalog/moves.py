"""The rows of tables on their way to another shard. What is done between their beginning and end is in moves/."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from coordinator.catalog.rows import Rows, delete, if_absent, if_changed_at, put
from coordinator.catalog.survey import leader_status
from proto import catalog
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from coordinator.catalog.contents import Contents
    from coordinator.shards.own_calls import OwnCalls
    from coordinator.shards.replica_status import ReplicaStatuses
    from proto.catalog import TableEntry, TableMove
    from proto.ids import ShardId


class MoveRows:
    """See the module."""

    def __init__(self, calls: OwnCalls, statuses: ReplicaStatuses) -> None:
        self._rows = Rows(calls)
        self._statuses = statuses

    async def begin(self, entry: TableEntry, target: ShardId, *, seen: Contents) -> TableMove | None:
        """One try to put down that a table is to go to another shard. Returns None if somebody else was faster. Raises
        NoLeader if either shard has no leader.

        Its number is above all that its shards have heard of, whatever became of the catalog."""
        states = [
            state
            for shard in (entry.shard, target)
            for state in (await leader_status(self._statuses, shard)).moves
            if state.table_id == entry.id
        ]
        row_revision = seen.row_revisions[entry.name]
        number = max([row_revision, *(state.number + 1 for state in states)])
        move = catalog.TableMove(entry, target, number)
        key = catalog.move_key(entry.id)
        txn = etcd.TxnRequest()
        if_changed_at(txn, catalog.row_key(entry.name), row_revision)
        if_absent(txn, key)
        put(txn, key, catalog.encode_move(move))
        return move if await self._rows.commit(txn) else None

    async def cancel(self, move: TableMove, *, seen: Contents) -> bool:
        """One try to put down that a table is to stay after all."""
        txn = _if_moving(move, seen)
        put(txn, catalog.move_key(move.entry.id), catalog.encode_move(replace(move, cancelled=True)))
        return await self._rows.commit(txn)

    async def end(self, move: TableMove, shard: ShardId, *, term: int, seen: Contents) -> bool:
        """One try to put down that a move has ended, with the table in this shard, and the source in this term. Its row
        is written in any case, so that its next move gets a higher number."""
        txn = _if_moving(move, seen)
        delete(txn, catalog.move_key(move.entry.id))
        entry = seen.entries.get(move.entry.name)
        if entry is not None and entry.id == move.entry.id:
            row, revision = catalog.row_key(entry.name), seen.row_revisions[entry.name]
            if_changed_at(txn, row, revision)
            ended = replace(entry, shard=shard, term_before=max(entry.term_before, term))
            put(txn, row, catalog.encode_row(ended))
        return await self._rows.commit(txn)


def _if_moving(move: TableMove, seen: Contents) -> etcd.TxnRequest:
    txn = etcd.TxnRequest()
    table_id = move.entry.id
    if_changed_at(txn, catalog.move_key(table_id), seen.move_revisions[table_id])
    return txn
