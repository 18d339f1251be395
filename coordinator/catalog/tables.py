"""What the catalog's own shard holds, how a table comes to be and how it ends: by its row there, then in its shard.

    nothing --add--> row --make_in_shard--> row and table --remove--> deletion and table --finish_deletion--> nothing

A coordinator can die between two steps, so whoever finds a row without a table makes the table, and whoever finds a
deletion finishes it; the shard takes either twice without harm. A creation that comes late finds its id dead there: the
shard refuses it, so nobody brings back what was deleted. Nobody else in the coordinator knows that there are two steps.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
from google.protobuf.message import DecodeError

from coordinator.shards.router import LEADER, NEAREST, Call
from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from coordinator.shards.driver import Driver
    from coordinator.shards.replica_status import ReplicaStatuses
    from coordinator.shards.request_ids import RequestIds
    from proto.catalog import TableEntry, TableMove, TableSettings

CALL_TIMEOUT_S: Final = 7.0

GONE_TIMEOUT_S: Final = 1.0
"""How long a deletion waits for the replicas that answer to have applied it. They do so within milliseconds."""
GONE_CHECK_S: Final = 0.01
"""Before it is looked again; doubled from one time to the next."""

BYTES_STEP: Final = 64 << 20
KEYS_STEP: Final = 100_000
"""Shards that differ by less have the same load: logs and free pages alone come to as much."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Contents:
    """The catalog at one of its revisions."""

    revision: int
    entries: Mapping[str, TableEntry]
    """By name, the catalog itself included."""
    next_id: int
    next_id_revision: int
    """Of the counter's last change, which may be newer than `revision`: the two are read one after the other. Adding
    a table compares it, and loses then at worst once more than needed."""
    row_revisions: Mapping[str, int] = field(default_factory=dict)
    """When each table's row was last changed."""
    deletions: Sequence[TableEntry] = ()
    """Tables that have no row any more, and that their shards may still have."""
    deleted_names: frozenset[str] = frozenset()
    """Of tables that the cluster file names, and that were deleted by hand. Read after the rows: a name that is in
    neither was not deleted in between."""
    moves: Mapping[int, TableMove] = field(default_factory=dict)
    """Of tables on their way to another shard, by table id. Read after the rows."""
    move_revisions: Mapping[int, int] = field(default_factory=dict)
    """When the row of each was last changed."""


class _Load(NamedTuple):
    """What a shard has to carry, the heaviest part first."""

    bytes_steps: int = 0
    keys_steps: int = 0


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the shards hold, whatever the catalog says of it."""

    tables: Sequence[TableEntry]
    """By id. One that a replica alone still has, because it lags, is among them; one on its way to another shard is
    only where it comes from."""
    moves: Mapping[tuple[int, ShardId], tuple[ShardId, int]]
    """Of tables on their way, by table id and where they come from: where they go, and the move's number."""
    highest_id: int
    """Of these tables, and of those that were deleted."""
    loads: Mapping[ShardId, _Load]


class Tables:
    """Reads and changes the catalog in its shard, and makes tables in theirs."""

    def __init__(
        self,
        driver: Driver,
        statuses: ReplicaStatuses,
        request_ids: RequestIds,
        *,
        shards: Sequence[ShardId],
        named: Collection[str],
    ) -> None:
        """shards are those that can hold tables, named what the cluster file calls for."""
        self._driver = driver
        self._statuses = statuses
        self._request_ids = request_ids
        self._shards = shards
        self._named = named

    async def load(self, *, linearizable: bool) -> Contents:
        """What the catalog says now, or without linearizable what the nearest replica knows of it."""
        rows = await self._range(catalog.TABLES_PREFIX, catalog.TABLES_END, linearizable=linearizable)
        counter = await self._range(catalog.NEXT_ID, b"", linearizable=linearizable)
        deleted = await self._range(catalog.DELETED_PREFIX, catalog.DELETED_END, linearizable=linearizable)
        moving = await self._range(catalog.MOVES_PREFIX, catalog.MOVES_END, linearizable=linearizable)
        entries = {catalog.CATALOG_NAME: catalog.CATALOG}
        row_revisions = {}
        for row in rows[1].kvs:
            entry = self._parse(row.key, row.value)
            if isinstance(entry, catalog.TableEntry):
                entries[entry.name], row_revisions[entry.name] = entry, row.mod_revision
        gone = [self._parse(row.key, row.value) for row in deleted[1].kvs]
        next_id, next_id_revision = catalog.FIRST_TABLE_ID, 0
        for row in counter[1].kvs:
            if row.value.isdigit():
                next_id, next_id_revision = int(row.value), row.mod_revision
        moves = {}
        move_revisions = {}
        for row in moving[1].kvs:
            move = _parse_move(row.key, row.value)
            if move is not None:
                moves[move.entry.id], move_revisions[move.entry.id] = move, row.mod_revision
        return Contents(
            rows[0],
            entries,
            next_id,
            next_id_revision,
            row_revisions,
            deletions=[entry for entry in gone if isinstance(entry, catalog.TableEntry)],
            deleted_names=frozenset(name for name in gone if isinstance(name, str)),
            moves=moves,
            move_revisions=move_revisions,
        )

    def _parse(self, key: bytes, value: bytes) -> TableEntry | str | None:
        """A table, or the name of a deleted one. None for a row that can't be read or is out of range: it must not
        take the others with it."""
        parse = catalog.parse_deleted if key.startswith(catalog.DELETED_PREFIX) else catalog.parse_row
        try:
            entry = parse(key, value)
        except catalog.UnreadableRow as error:
            log.warning("skipped an unreadable row of the catalog", key=key, value=value, detail=str(error))
            return None
        if isinstance(entry, catalog.TableEntry) and (entry.is_reserved or entry.shard not in self._shards):
            log.warning("skipped a row of the catalog that is out of range", key=key, value=value)
            return None
        return entry

    # ---- a table's row ----------------------------------------------------------------------------------------------

    async def add(
        self, name: str, settings: TableSettings, *, seen: Contents, again: bool = False
    ) -> TableEntry | None:
        """One try to add a row to the catalog as it was seen. Returns None if somebody else was faster.

        again: though a table of this name was deleted by hand. Raises TableContradicted if a shard holds a table of
        this name that the catalog does not know, NoLeader if not all shards can say what they hold: an id is never
        given twice, even if the catalog is not what it was."""
        survey = await self._survey()
        for other in survey.tables:
            if other.name == name and await self.is_in_shard(other, linearizable=True):
                raise errors.TableContradicted(
                    f"shard {other.shard} holds a table {name!r} (id {other.id}) that the catalog does not name"
                )
        free = max(seen.next_id, survey.highest_id + 1)
        shard = settings.shard or self._emptiest(seen, survey)
        entry = catalog.TableEntry(
            name,
            free,
            shard,
            settings.history,
            is_local=settings.is_local,
            owner=settings.owner,
            origin=settings.origin,
        )
        key, deleted = catalog.row_key(name), catalog.deleted_name_key(name)
        txn = etcd.TxnRequest()
        txn.compare.add(key=key, target=etcd.Compare.CREATE, create_revision=0)
        txn.compare.add(key=catalog.NEXT_ID, target=etcd.Compare.MOD, mod_revision=seen.next_id_revision)
        if again:
            txn.success.add().request_delete_range.CopyFrom(etcd.DeleteRangeRequest(key=deleted))
        else:
            txn.compare.add(key=deleted, target=etcd.Compare.CREATE, create_revision=0)
        _put(txn, key, catalog.encode_row(entry))
        _put(txn, catalog.NEXT_ID, b"%d" % (free + 1))
        return entry if await self._commit(txn) else None

    async def remove(self, entry: TableEntry, *, seen: Contents) -> bool:
        """One try to put a deletion in the place of a table's row as it was seen. Returns whether that was done; if
        not, somebody else was faster. From here on the table is being deleted, whatever happens to us."""
        key = catalog.row_key(entry.name)
        txn = etcd.TxnRequest()
        txn.compare.add(key=key, target=etcd.Compare.MOD, mod_revision=seen.row_revisions[entry.name])
        txn.compare.add(key=catalog.move_key(entry.id), target=etcd.Compare.CREATE, create_revision=0)
        txn.success.add().request_delete_range.CopyFrom(etcd.DeleteRangeRequest(key=key))
        _put(txn, catalog.deleted_id_key(entry.id), catalog.encode_deletion(entry))
        if entry.name in self._named:
            _put(txn, catalog.deleted_name_key(entry.name), b"%d" % entry.id)
        return await self._commit(txn)

    async def change_origin(self, entry: TableEntry, origin: int, *, seen: Contents) -> bool:
        """Have a table copy another one from now on, or with 0 none: first in its shard, which is what counts. Returns
        whether the row, as it was seen, says so as well."""
        told = frames.TableOrigin(table_id=entry.id, was=entry.origin, origin=origin)
        await self._write(frames.TABLE_ORIGIN, entry, told.SerializeToString())
        key = catalog.row_key(entry.name)
        txn = etcd.TxnRequest()
        txn.compare.add(key=key, target=etcd.Compare.MOD, mod_revision=seen.row_revisions[entry.name])
        _put(txn, key, catalog.encode_row(replace(entry, origin=origin)))
        return await self._commit(txn)

    # ---- who leads --------------------------------------------------------------------------------------------------

    async def lead(self) -> tuple[catalog.Lead, int]:
        """Which cluster takes the writes of replicated tables, and when that was last changed (0 = never), by a
        linearizable read."""
        _, found = await self._range(catalog.LEAD, b"", linearizable=True)
        for row in found.kvs:
            try:
                return catalog.parse_lead(row.value), row.mod_revision
            except catalog.UnreadableRow as error:
                raise errors.InvariantBroken(
                    f"the catalog's row of who leads can't be read: {error}"
                ) from None
        return catalog.Lead(), 0

    async def set_lead(self, lead: catalog.Lead, *, seen: int) -> bool:
        """Whether the row was written, it having been last changed at this revision."""
        txn = etcd.TxnRequest()
        txn.compare.add(key=catalog.LEAD, target=etcd.Compare.MOD, mod_revision=seen)
        _put(txn, catalog.LEAD, catalog.encode_lead(lead))
        return await self._commit(txn)

    # ---- a table's move to another shard ----------------------------------------------------------------------------

    async def begin_move(self, entry: TableEntry, target: ShardId, *, seen: Contents) -> TableMove | None:
        """One try to put down that a table is to go to another shard. Returns None if somebody else was faster. Raises
        NoLeader if either shard has no leader.

        Its number is above all that its shards have heard of, whatever became of the catalog."""
        states = [
            state
            for shard in (entry.shard, target)
            for state in (await self._leader_status(shard)).moves
            if state.table_id == entry.id
        ]
        row_revision = seen.row_revisions[entry.name]
        number = max([row_revision, *(state.number + 1 for state in states)])
        move = catalog.TableMove(entry, target, number)
        key = catalog.move_key(entry.id)
        txn = etcd.TxnRequest()
        txn.compare.add(key=catalog.row_key(entry.name), target=etcd.Compare.MOD, mod_revision=row_revision)
        txn.compare.add(key=key, target=etcd.Compare.CREATE, create_revision=0)
        _put(txn, key, catalog.encode_move(move))
        return move if await self._commit(txn) else None

    async def cancel_move(self, move: TableMove, *, seen: Contents) -> bool:
        """One try to put down that a table is to stay after all."""
        txn = self._if_moving(move, seen)
        _put(txn, catalog.move_key(move.entry.id), catalog.encode_move(replace(move, cancelled=True)))
        return await self._commit(txn)

    async def end_move(self, move: TableMove, shard: ShardId, *, seen: Contents) -> bool:
        """One try to put down that a move has ended, with the table in this shard. Its row is written in any case, so
        that its next move gets a higher number."""
        txn = self._if_moving(move, seen)
        key = catalog.move_key(move.entry.id)
        txn.success.add().request_delete_range.CopyFrom(etcd.DeleteRangeRequest(key=key))
        entry = seen.entries.get(move.entry.name)
        if entry is not None and entry.id == move.entry.id:
            row, revision = catalog.row_key(entry.name), seen.row_revisions[entry.name]
            txn.compare.add(key=row, target=etcd.Compare.MOD, mod_revision=revision)
            _put(txn, row, catalog.encode_row(replace(entry, shard=shard)))
        return await self._commit(txn)

    def _if_moving(self, move: TableMove, seen: Contents) -> etcd.TxnRequest:
        txn = etcd.TxnRequest()
        table_id = move.entry.id
        txn.compare.add(
            key=catalog.move_key(table_id),
            target=etcd.Compare.MOD,
            mod_revision=seen.move_revisions[table_id],
        )
        return txn

    async def _leader_status(self, shard: ShardId) -> frames.ReplicaStatus:
        """Raises NoLeader."""
        for replica in await self._statuses.everywhere(shard):
            if replica.leader == replica.node:
                return replica
        raise errors.NoLeader(f"shard {shard} has no leader")

    async def _survey(self) -> _Survey:
        """Raises NoLeader for a shard whose leader does not answer."""
        found: set[TableEntry] = set()
        highest_id = 0
        loads = {}
        moves: dict[tuple[int, ShardId], tuple[ShardId, int]] = {}
        for shard, replicas in zip(
            self._shards,
            await asyncio.gather(*(self._statuses.everywhere(shard) for shard in self._shards)),
            strict=True,
        ):
            leader = next((replica for replica in replicas if replica.leader == replica.node), None)
            if leader is None:
                raise errors.NoLeader(f"shard {shard} has no leader that could say which tables it holds")
            loads[shard] = _Load(
                leader.database_in_use_bytes // BYTES_STEP, sum(t.keys for t in leader.tables) // KEYS_STEP
            )
            found |= {
                catalog.TableEntry(table.name, table.id, shard, table.history, origin=table.origin)
                for replica in replicas
                for table in replica.tables
            }
            highest_id = max([highest_id, *(replica.highest_table_id for replica in replicas)])
            for state in leader.moves:
                if state.state in (frames.MoveState.COPYING, frames.MoveState.FENCED):
                    moves[state.table_id, shard] = ShardId(state.shard), state.number
        arriving = {(table_id, target) for (table_id, _), (target, _) in moves.items()}
        tables = sorted(
            (entry for entry in found if not entry.is_reserved and (entry.id, entry.shard) not in arriving),
            key=lambda entry: entry.id,
        )
        return _Survey(tables, moves, max([highest_id, *(entry.id for entry in tables)]), loads)

    def _emptiest(self, seen: Contents, survey: _Survey) -> ShardId:
        """The shard with the least data; among equals the one with the fewest tables, the catalog counted, the first of
        several."""
        counts = Counter(entry.shard for entry in seen.entries.values())
        return min(self._shards, key=lambda shard: (survey.loads[shard], counts[shard], shard))

    async def restore(self, seen: Contents) -> bool:
        """Write a lost catalog anew from what the shards hold. Returns whether there was anything to restore.

        One that never gave out an id is new, or was lost; then no table in a shard can have come from it. A name that
        two tables bear is left out: nobody knows which of them it means."""
        if seen.next_id_revision:
            return False
        survey = await self._survey()
        if survey.highest_id < catalog.FIRST_TABLE_ID:
            return False
        held = [entry for entry in survey.tables if await self.is_in_shard(entry, linearizable=True)]
        bearers = Counter(entry.name for entry in held)
        txn = etcd.TxnRequest()
        txn.compare.add(key=catalog.NEXT_ID, target=etcd.Compare.CREATE, create_revision=0)
        for entry in held:
            if bearers[entry.name] == 1:
                _put(txn, catalog.row_key(entry.name), catalog.encode_row(entry))
                going = survey.moves.get((entry.id, entry.shard))
                if going is not None:
                    _put(
                        txn, catalog.move_key(entry.id), catalog.encode_move(catalog.TableMove(entry, *going))
                    )
        _put(txn, catalog.NEXT_ID, b"%d" % (survey.highest_id + 1))
        await self._commit(txn)
        log.error("the catalog was lost, and is restored from what the shards hold", tables=len(held))
        return True

    # ---- a table in its shard ---------------------------------------------------------------------------------------

    async def is_in_shard(self, entry: TableEntry, *, linearizable: bool) -> bool:
        """Whether its shard has the table; without linearizable a replica that lags may say no. Raises
        TableContradicted if what the shard has under its id is another table."""
        try:
            reply = await self._read(frames.TABLE_STATUS, entry, b"", linearizable=linearizable)
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
        deletion = etcd.DeleteRangeRequest(key=catalog.deleted_id_key(entry.id))
        await self._write(frames.ETCD_DELETE_RANGE, catalog.CATALOG, deletion.SerializeToString())
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

    # ---- calls ------------------------------------------------------------------------------------------------------

    async def _range(
        self, key: bytes, range_end: bytes, *, linearizable: bool
    ) -> tuple[int, etcd.RangeResponse]:
        body = etcd.RangeRequest(key=key, range_end=range_end).SerializeToString()
        reply = await self._read(frames.ETCD_RANGE, catalog.CATALOG, body, linearizable=linearizable)
        try:
            return reply.revision, etcd.RangeResponse.FromString(reply.body)
        except DecodeError as error:
            raise errors.InvariantBroken(
                f"the catalog's shard answered undecodable bytes: {error}"
            ) from error

    async def _read(
        self, method: frames.Method.ValueType, table: TableEntry, body: bytes, *, linearizable: bool
    ) -> frames.Reply:
        return await self._driver.ask(
            Call(
                table.shard,
                LEADER if linearizable else NEAREST,
                Access.READ,
                method,
                table.id,
                body,
                deadline=_deadline(),
                linearizable=linearizable,
            )
        )

    async def _commit(self, txn: etcd.TxnRequest) -> bool:
        """Whether its comparisons held."""
        reply = await self._write(frames.ETCD_TXN, catalog.CATALOG, txn.SerializeToString())
        return etcd.TxnResponse.FromString(reply.body).succeeded

    async def _write(self, method: frames.Method.ValueType, table: TableEntry, body: bytes) -> frames.Reply:
        return await self._driver.ask(
            Call(
                table.shard,
                LEADER,
                Access.WRITE,
                method,
                table.id,
                body,
                deadline=_deadline(),
                request_id=self._request_ids.draw(),
            )
        )


def _parse_move(key: bytes, value: bytes) -> TableMove | None:
    try:
        return catalog.parse_move(value)
    except catalog.UnreadableRow as error:
        log.warning("skipped an unreadable row of the catalog", key=key, value=value, detail=str(error))
        return None


def _deadline() -> float:
    return asyncio.get_running_loop().time() + CALL_TIMEOUT_S


def _put(txn: etcd.TxnRequest, key: bytes, value: bytes) -> None:
    """One more put for when the comparisons hold."""
    txn.success.add().request_put.CopyFrom(etcd.PutRequest(key=key, value=value))
