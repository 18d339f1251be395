"""How a table comes to be and how it ends: by its row there, then in its shard.

    nothing --add--> row --make_in_shard--> row and table --remove--> deletion and table --finish_deletion--> nothing

A coordinator can die between two steps, so whoever finds a row without a table makes the table, and whoever finds a
deletion finishes it; the shard takes either twice without harm. A creation that comes late finds its id dead there: the
shard refuses it, so nobody brings back what was deleted. Nobody else in the coordinator knows that there are two steps.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from coordinator.catalog.contents import Contents, read_contents
from coordinator.catalog.rows import CALL_TIMEOUT_S, Rows, delete, if_absent, if_changed_at, put
from coordinator.catalog.survey import survey_shards
from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from coordinator.shards.own_calls import OwnCalls
    from coordinator.shards.replica_status import ReplicaStatuses
    from proto.catalog import TableEntry, TableSettings
    from proto.ids import ShardId

GONE_TIMEOUT_S: Final = 1.0
"""How long a deletion waits for the replicas that answer to have applied it. They do so within milliseconds."""
GONE_CHECK_S: Final = 0.01
"""Before it is looked again; doubled from one time to the next."""

log = structlog.get_logger()


class Tables:
    """Reads and changes the catalog in its shard, and makes tables in theirs."""

    def __init__(
        self,
        calls: OwnCalls,
        statuses: ReplicaStatuses,
        *,
        shards: Sequence[ShardId],
        named: Collection[str],
    ) -> None:
        """shards are those that can hold tables, named what the cluster file calls for."""
        self._calls = calls
        self._rows = Rows(calls)
        self._statuses = statuses
        self._shards = shards
        self._named = named

    async def load(self, *, linearizable: bool) -> Contents:
        """What the catalog says now, or without linearizable what the nearest replica knows of it."""
        return await read_contents(self._rows, self._shards, linearizable=linearizable)

    # ---- a table's row ----------------------------------------------------------------------------------------------

    async def add(
        self, name: str, settings: TableSettings, *, seen: Contents, again: bool = False
    ) -> TableEntry | None:
        """One try to add a row to the catalog as it was seen. Returns None if somebody else was faster.

        again: though a table of this name was deleted by hand. Raises TableContradicted if a shard holds a table of
        this name that the catalog does not know, NoLeader if not all shards can say what they hold: an id is never
        given twice, even if the catalog is not what it was."""
        survey = await survey_shards(self._statuses, self._shards)
        for other in survey.tables:
            if other.name == name and await self.is_in_shard(other, linearizable=True):
                raise errors.TableContradicted(
                    f"shard {other.shard} holds a table {name!r} (id {other.id}) that the catalog does not name"
                )
        free = max(seen.next_id, survey.highest_id + 1)
        shard = settings.shard or survey.emptiest(seen)
        entry = catalog.TableEntry(
            name,
            free,
            shard,
            settings.history,
            is_local=settings.is_local,
            owner=settings.owner,
            origin=settings.origin,
            quota=settings.quota,
        )
        key, deleted = catalog.row_key(name), catalog.deleted_name_key(name)
        txn = etcd.TxnRequest()
        if_absent(txn, key)
        if_changed_at(txn, catalog.NEXT_ID, seen.next_id_revision)
        if again:
            delete(txn, deleted)
        else:
            if_absent(txn, deleted)
        put(txn, key, catalog.encode_row(entry))
        put(txn, catalog.NEXT_ID, b"%d" % (free + 1))
        return entry if await self._rows.commit(txn) else None

    async def remove(self, entry: TableEntry, *, seen: Contents) -> bool:
        """One try to put a deletion in the place of a table's row as it was seen. Returns whether that was done; if
        not, somebody else was faster. From here on the table is being deleted, whatever happens to us."""
        key = catalog.row_key(entry.name)
        txn = etcd.TxnRequest()
        if_changed_at(txn, key, seen.row_revisions[entry.name])
        if_absent(txn, catalog.move_key(entry.id))
        delete(txn, key)
        put(txn, catalog.deleted_id_key(entry.id), catalog.encode_deletion(entry))
        if entry.name in self._named:
            put(txn, catalog.deleted_name_key(entry.name), b"%d" % entry.id)
        return await self._rows.commit(txn)

    async def origin_in_shard(self, entry: TableEntry) -> int:
        """What the table copies by its shard, which is what counts; by its row where it is made or deleted just now.
        Raises what a linearizable read may."""
        try:
            reply = await self._status(entry, linearizable=True)
        except errors.TableNotFound:
            return entry.origin
        return frames.TableStatus.FromString(reply.body).origin

    async def change_origin(
        self, entry: TableEntry, held: int, changed: TableEntry, *, seen: Contents
    ) -> bool:
        """Have a table copy another one from now on, or none: first in its shard. held: what it copies there now.
        Returns whether the row, as it was seen, says so as well."""
        told = frames.TableOrigin(table_id=entry.id, was=held, origin=changed.origin)
        await self._write(frames.TABLE_ORIGIN, entry, told.SerializeToString())
        key = catalog.row_key(entry.name)
        txn = etcd.TxnRequest()
        if_changed_at(txn, key, seen.row_revisions[entry.name])
        put(txn, key, catalog.encode_row(changed))
        return await self._rows.commit(txn)

    async def restore(self, seen: Contents) -> bool:
        """Write a lost catalog anew from what the shards hold. Returns whether there was anything to restore.

        One that never gave out an id is new, or was lost; then no table in a shard can have come from it. A name that
        two tables bear is left out: nobody knows which of them it means."""
        if seen.next_id_revision:
            return False
        survey = await survey_shards(self._statuses, self._shards)
        if survey.highest_id < catalog.FIRST_TABLE_ID:
            return False
        held = [entry for entry in survey.tables if await self.is_in_shard(entry, linearizable=True)]
        bearers = Counter(entry.name for entry in held)
        txn = etcd.TxnRequest()
        if_absent(txn, catalog.NEXT_ID)
        for entry in held:
            if bearers[entry.name] == 1:
                put(txn, catalog.row_key(entry.name), catalog.encode_row(entry))
                going = survey.moves.get((entry.id, entry.shard))
                if going is not None:
                    put(
                        txn, catalog.move_key(entry.id), catalog.encode_move(catalog.TableMove(entry, *going))
                    )
        put(txn, catalog.NEXT_ID, b"%d" % (survey.highest_id + 1))
        await self._rows.commit(txn)
        log.error("the catalog was lost, and is restored from what the shards hold", tables=len(held))
        return True

    # ---- a table in its shard ---------------------------------------------------------------------------------------

    async def is_in_shard(self, entry: TableEntry, *, linearizable: bool) -> bool:
        """Whether its shard has the table; without linearizable a replica that lags may say no. Raises
        TableContradicted if what the shard has under its id is another table."""
        try:
            reply = await self._status(entry, linearizable=linearizable)
        except errors.TableNotFound:
            return False
        found = frames.TableStatus.FromString(reply.body)
        # Not its origin: that is changed here and there one after the other, and the shard goes by its own.
        if (found.name, found.history) != (entry.name, entry.history):
            raise errors.TableContradicted(
                f"the catalog says that table {entry.name!r} has id {entry.id} and history {entry.history}, but in "
                f"shard {entry.shard} that is {found.name!r} with history {found.history}"
            )
        return True

    async def make_in_shard(self, entry: TableEntry) -> None:
        """The second step. No harm if the table is there."""
        spec = frames.TableSpec(id=entry.id, name=entry.name, history=entry.history, origin=entry.origin)
        await self._write(frames.TABLE_CREATE, entry, spec.SerializeToString())
        log.info("made a table", table=entry.name, id=entry.id, shard=entry.shard)

    async def finish_deletion(self, entry: TableEntry) -> None:
        """What is left to do once the row is gone, by whoever. No harm if it is done.

        When it returns no replica that answers serves the table, and nobody can bring it back."""
        spec = frames.TableSpec(id=entry.id, name=entry.name)
        await self._write(frames.TABLE_DELETE, entry, spec.SerializeToString())
        await self._wait_until_gone(entry)
        await self._rows.delete(catalog.deleted_id_key(entry.id))
        log.info("deleted a table", table=entry.name, id=entry.id, shard=entry.shard)

    async def _wait_until_gone(self, entry: TableEntry) -> None:
        """A replica that lags answers reads that may be stale from the deleted table still. One that lags for longer
        than GONE_TIMEOUT_S is not waited for."""
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + GONE_TIMEOUT_S, GONE_CHECK_S
        while loop.time() < deadline:
            replicas = await self._statuses.everywhere(entry.shard)
            if not any(table.id == entry.id for replica in replicas for table in replica.tables):
                return
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def _status(self, entry: TableEntry, *, linearizable: bool) -> frames.Reply:
        if not linearizable:
            return await self._calls.ask_nearest(frames.TABLE_STATUS, entry, b"", CALL_TIMEOUT_S)
        return await self._calls.ask(Access.READ, frames.TABLE_STATUS, entry, b"", CALL_TIMEOUT_S)

    async def _write(self, method: frames.Method.ValueType, table: TableEntry, body: bytes) -> None:
        await self._calls.ask(Access.WRITE, method, table, body, CALL_TIMEOUT_S)
