"""What the catalog's own shard holds and how a table comes to be: by its row there, then in its shard.

A coordinator can die between the two steps, so whoever finds a row without a table makes the table; the shard takes
the same table twice without harm. Nobody else in the coordinator knows that there are two steps.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from google.protobuf.message import DecodeError

from coordinator.shards.router import LEADER, NEAREST, Call
from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.shards.driver import Driver
    from coordinator.shards.replica_status import ReplicaStatuses
    from coordinator.shards.request_ids import RequestIds
    from proto.catalog import TableEntry
    from proto.ids import ShardId

CALL_TIMEOUT_S: Final = 7.0

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


class Tables:
    """Reads and changes the catalog in its shard, and makes tables in theirs."""

    def __init__(
        self,
        driver: Driver,
        statuses: ReplicaStatuses,
        request_ids: RequestIds,
        *,
        shards: Sequence[ShardId],
    ) -> None:
        """shards are those that can hold tables."""
        self._driver = driver
        self._statuses = statuses
        self._request_ids = request_ids
        self._shards = shards

    async def load(self, *, linearizable: bool) -> Contents:
        """What the catalog says now, or without linearizable what the nearest replica knows of it."""
        rows = await self._range(catalog.TABLES_PREFIX, catalog.TABLES_END, linearizable=linearizable)
        counter = await self._range(catalog.NEXT_ID, b"", linearizable=linearizable)
        entries = {catalog.CATALOG_NAME: catalog.CATALOG}
        for row in rows[1].kvs:
            entry = self._parse(row.key, row.value)
            if entry is not None:
                entries[entry.name] = entry
        next_id, next_id_revision = catalog.FIRST_TABLE_ID, 0
        for row in counter[1].kvs:
            if row.value.isdigit():
                next_id, next_id_revision = int(row.value), row.mod_revision
        return Contents(rows[0], entries, next_id, next_id_revision)

    def _parse(self, key: bytes, value: bytes) -> TableEntry | None:
        """None for a row that can't be read or is out of range: it must not take the others with it."""
        try:
            entry = catalog.parse_row(key, value)
        except catalog.UnreadableRow as error:
            log.warning("skipped an unreadable row of the catalog", key=key, value=value, detail=str(error))
            return None
        if entry.is_reserved or entry.shard not in self._shards:
            log.warning("skipped a row of the catalog that is out of range", key=key, value=value)
            return None
        return entry

    async def add(self, name: str, *, shard: ShardId | None, history: int, seen: Contents) -> bool:
        """One try to add a row to the catalog as it was seen. Returns whether it was added; if not, somebody else was
        faster. shard: None for the one with the fewest tables.

        Raises TableContradicted if a shard holds a table of this name that the catalog does not know, NoLeader if not
        all shards can say what they hold: an id is never given twice, even if the catalog is not what it was."""
        held = await self.held()
        for other in held:
            if other.name == name:
                raise errors.TableContradicted(
                    f"shard {other.shard} holds a table {name!r} (id {other.id}) that the catalog does not name"
                )
        free = max([seen.next_id, *(other.id + 1 for other in held)])
        entry = catalog.TableEntry(name, free, shard or self._emptiest(seen), history)
        key = catalog.row_key(name)
        txn = etcd.TxnRequest()
        txn.compare.add(key=key, target=etcd.Compare.CREATE, create_revision=0)
        txn.compare.add(key=catalog.NEXT_ID, target=etcd.Compare.MOD, mod_revision=seen.next_id_revision)
        txn.success.add().request_put.CopyFrom(etcd.PutRequest(key=key, value=catalog.encode_row(entry)))
        txn.success.add().request_put.CopyFrom(etcd.PutRequest(key=catalog.NEXT_ID, value=b"%d" % (free + 1)))
        reply = await self._write(frames.ETCD_TXN, catalog.CATALOG, txn.SerializeToString())
        return etcd.TxnResponse.FromString(reply.body).succeeded

    async def held(self) -> list[TableEntry]:
        """The tables that the shards hold, whatever the catalog says of them, by id. Raises NoLeader for a shard whose
        leader does not answer."""
        found: set[TableEntry] = set()
        for shard, replicas in zip(
            self._shards,
            await asyncio.gather(*(self._statuses.everywhere(shard) for shard in self._shards)),
            strict=True,
        ):
            if not any(replica.leader == replica.node for replica in replicas):
                raise errors.NoLeader(f"shard {shard} has no leader that could say which tables it holds")
            found |= {
                catalog.TableEntry(table.name, table.id, shard, table.history)
                for replica in replicas
                for table in replica.tables
            }
        return sorted((entry for entry in found if not entry.is_reserved), key=lambda entry: entry.id)

    async def restore(self, seen: Contents) -> bool:
        """Write a lost catalog anew from what the shards hold. Returns whether there was anything to restore.

        One that never gave out an id is new, or was lost; then no table in a shard can have come from it. A name that
        two tables bear is left out: nobody knows which of them it means."""
        if seen.next_id_revision:
            return False
        held = await self.held()
        bearers = Counter(entry.name for entry in held)
        txn = etcd.TxnRequest()
        txn.compare.add(key=catalog.NEXT_ID, target=etcd.Compare.CREATE, create_revision=0)
        for entry in held:
            if bearers[entry.name] == 1:
                put = etcd.PutRequest(key=catalog.row_key(entry.name), value=catalog.encode_row(entry))
                txn.success.add().request_put.CopyFrom(put)
        if not held:
            return False
        free = etcd.PutRequest(key=catalog.NEXT_ID, value=b"%d" % (held[-1].id + 1))
        txn.success.add().request_put.CopyFrom(free)
        await self._write(frames.ETCD_TXN, catalog.CATALOG, txn.SerializeToString())
        log.error("the catalog was lost, and is restored from what the shards hold", tables=len(held))
        return True

    def _emptiest(self, seen: Contents) -> ShardId:
        """The shard with the fewest tables, the catalog counted, the first of several."""
        counts = Counter(entry.shard for entry in seen.entries.values())
        return min(self._shards, key=lambda shard: (counts[shard], shard))

    async def is_in_shard(self, entry: TableEntry, *, linearizable: bool) -> bool:
        """Whether its shard has the table; without linearizable a replica that lags may say no. Raises
        TableContradicted if what the shard has under its id is another table."""
        try:
            reply = await self._read(frames.TABLE_STATUS, entry, b"", linearizable=linearizable)
        except errors.TableNotFound:
            return False
        found = frames.TableStatus.FromString(reply.body)
        if (found.name, found.history) != (entry.name, entry.history):
            raise errors.TableContradicted(
                f"the catalog says that table {entry.name!r} has id {entry.id} and history {entry.history}, but in "
                f"shard {entry.shard} that is {found.name!r} with history {found.history}"
            )
        return True

    async def make_in_shard(self, entry: TableEntry) -> None:
        """The second step. No harm if the table is there."""
        spec = frames.TableSpec(id=entry.id, name=entry.name, history=entry.history)
        await self._write(frames.TABLE_CREATE, entry, spec.SerializeToString())
        log.info("made a table", table=entry.name, id=entry.id, shard=entry.shard)

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


def _deadline() -> float:
    return asyncio.get_running_loop().time() + CALL_TIMEOUT_S
