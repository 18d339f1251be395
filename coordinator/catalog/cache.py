"""The tables of the cluster, by name.

They are kept in the table `_catalog` on shard 1, as `tables/<name>` with a JSON value and `next_id`, and cached here.
A name that is not cached is looked up anew before it is called unknown: by a linearizable read that starts after the
question was asked, shared by everybody who asks meanwhile, and never more often than REFRESH_INTERVAL_S.

A table exists in two steps: its catalog entry, then the table in its shard. A coordinator can die between them, so
whoever finds an entry without a table makes the table; the shard takes the same table twice without harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from google.protobuf.message import DecodeError

from coordinator.shards.dispatch import LEADER, NEAREST
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from config import TableConfig
    from coordinator.shards.dispatch import Dispatch
    from coordinator.shards.request_ids import RequestIds

CATALOG_NAME: Final = "_catalog"
CATALOG_ID: Final = 1
CATALOG_SHARD: Final = 1
FIRST_TABLE_ID: Final = 10_001
"""As in Regatta; ids below are reserved."""

REFRESH_INTERVAL_S: Final = 0.1
BOOTSTRAP_RETRY_S: Final = 0.5
CALL_TIMEOUT_S: Final = 7.0
LIST_TIMEOUT_S: Final = 1.0
CREATE_ATTEMPTS_MAX: Final = 100
"""Lost tries to win the race for next_id against other coordinators that start at the same time."""

TABLES_PREFIX: Final = b"tables/"
TABLES_END: Final = b"tables0"  # "/" + 1
NEXT_ID: Final = b"next_id"

_HISTORY_NUMBERS: Final = {"all": -1, "none": 0}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Table:
    """Where a named keyspace lives."""

    name: str
    id: int
    shard: int
    history: int = -1
    """-1 = all revisions, 0 = only the newest, n = the newest n."""

    @property
    def is_reserved(self) -> bool:
        """Whether clients may only read it."""
        return self.id < FIRST_TABLE_ID


class Catalog:
    """The cached catalog of one coordinator."""

    def __init__(
        self,
        dispatch: Dispatch,
        request_ids: RequestIds,
        *,
        shards: int,
        wanted: Mapping[str, TableConfig],
    ) -> None:
        """wanted: the tables that bootstrap() makes."""
        self._dispatch = dispatch
        self._request_ids = request_ids
        self._shards = shards
        self._wanted = wanted
        self._bootstrapped = asyncio.Event()
        self._catalog = Table(CATALOG_NAME, CATALOG_ID, CATALOG_SHARD)
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[None] | None = None
        self._refresh_not_before = 0.0
        self._next_id = FIRST_TABLE_ID
        self._next_id_revision = 0
        self.tables: dict[str, Table] = {CATALOG_NAME: self._catalog}
        """What is cached; enough when the name is in it, since a table never moves to another id under its name
        without its shard refusing the old one."""

    async def find(self, name: str, deadline: float) -> Table:
        """The table of that name: cached, about to be made, or read now. Raises TableNotFound, ReadTimedOut."""
        table = self.tables.get(name)
        if table is None and name in self._wanted and not self._bootstrapped.is_set():
            # At a cluster's first start clients may be faster than the tables that its file promises them.
            await _wait_until(deadline, self._bootstrapped.wait())
            table = self.tables.get(name)
        if table is None:
            await self._refresh(deadline)
            table = self.tables.get(name)
        if table is None:
            raise errors.TableNotFound(name)
        return table

    async def newest(self, deadline: float) -> list[Table]:
        """All tables by name, read now if that is possible soon, else as cached."""
        soon = min(deadline, asyncio.get_running_loop().time() + LIST_TIMEOUT_S)
        with contextlib.suppress(errors.BoathouseError):
            await self._refresh(soon)
        return sorted(self.tables.values(), key=lambda table: table.name)

    async def mend(self, table: Table, deadline: float) -> Table:
        """Its shard does not know this table: the table of that name as it is now, surely in its shard.

        Raises TableNotFound if the catalog has it no longer."""
        if table.id == CATALOG_ID:
            raise errors.TableNotFound(table.name)
        await self._refresh(deadline)
        current = self.tables.get(table.name)
        if current is None:
            raise errors.TableNotFound(table.name)
        await self._ensure_in_shard(current)
        return current

    # ---- reading ------------------------------------------------------------------------------------------------

    async def _refresh(self, deadline: float) -> None:
        """Wait for a linearizable read of the catalog that begins after this call."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._refresh_next())
            self._waiting.add_done_callback(_retrieve)
        await _wait_until(deadline, asyncio.shield(self._waiting))

    async def _refresh_next(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._lock:
            await asyncio.sleep(max(0.0, self._refresh_not_before - loop.time()))
            self._waiting = None  # whoever asks from now on may ask about something newer
            self._refresh_not_before = loop.time() + REFRESH_INTERVAL_S
            await self._load(linearizable=True)

    async def _load(self, *, linearizable: bool) -> None:
        rows = await self._range(TABLES_PREFIX, TABLES_END, linearizable=linearizable)
        counter = await self._range(NEXT_ID, b"", linearizable=linearizable)
        tables = {CATALOG_NAME: self._catalog}
        for row in rows.kvs:
            table = _parse_entry(row.key, row.value, shards=self._shards)
            if table is not None:
                tables[table.name] = table
        # Two reads, so the counter may be newer than the rows. Creating a table compares its revision, and loses
        # then at worst once more than needed.
        if counter.kvs and counter.kvs[0].value.isdigit():
            self._next_id = int(counter.kvs[0].value)
            self._next_id_revision = counter.kvs[0].mod_revision
        self.tables.clear()
        self.tables.update(tables)

    async def _range(self, key: bytes, range_end: bytes, *, linearizable: bool) -> etcd.RangeResponse:
        body = etcd.RangeRequest(key=key, range_end=range_end).SerializeToString()
        reply = await self._call(
            CATALOG_SHARD, frames.ETCD_RANGE, CATALOG_ID, body, linearizable=linearizable, write=False
        )
        try:
            return etcd.RangeResponse.FromString(reply.body)
        except DecodeError as error:
            raise errors.InvariantBroken(
                f"the catalog's shard answered undecodable bytes: {error}"
            ) from error

    async def _call(
        self,
        shard: int,
        method: frames.Method.ValueType,
        table_id: int,
        body: bytes,
        *,
        linearizable: bool = True,
        write: bool,
    ) -> frames.Reply:
        call = self._dispatch.submit(
            shard,
            LEADER if write or linearizable else NEAREST,
            method,
            table_id,
            body,
            deadline=asyncio.get_running_loop().time() + CALL_TIMEOUT_S,
            request_id=self._request_ids.draw() if write else b"",
            linearizable=linearizable and not write,
        )
        return await call.future

    # ---- first start -----------------------------------------------------------------------------------------------

    async def bootstrap(self) -> None:
        """Make the tables that the cluster file names, unless they exist. Returns when all of them do.

        Tried again for as long as it takes: there may be no quorum yet."""
        while True:
            try:
                if len(self.tables) == 1:
                    # Not the newest perhaps, but there without a quorum: enough for reads that may be stale.
                    await self._load(linearizable=False)
                await self._create_missing()
                for table in list(self.tables.values()):
                    if not table.is_reserved:
                        await self._ensure_in_shard(table)
            except errors.BoathouseError as error:
                log.warning("the catalog is not ready", error=type(error).__name__, detail=error.detail)
                await asyncio.sleep(BOOTSTRAP_RETRY_S)
            else:
                log.info("the catalog is ready", tables=len(self.tables))
                self._bootstrapped.set()
                return

    async def _create_missing(self) -> None:
        wanted = self._wanted
        lost = 0
        while lost < CREATE_ATTEMPTS_MAX:
            await self._load(linearizable=True)
            missing = [name for name in wanted if name not in self.tables]
            if not missing:
                return
            # Those with a shard of their own first, so that the others can be spread over the rest.
            name = min(missing, key=lambda name: (wanted[name].shard is None, name))
            lost += not await self._create(name, wanted[name])
        raise errors.NoLeader("other coordinators kept changing the catalog")

    async def _create(self, name: str, table: TableConfig) -> bool:
        """One try to add an entry. Returns whether it was added; if not, somebody else was faster."""
        key = TABLES_PREFIX + name.encode()
        value = json.dumps(
            {"id": self._next_id, "shard": table.shard or self._emptiest(), "history": table.history}
        )
        txn = etcd.TxnRequest()
        txn.compare.add(key=key, target=etcd.Compare.CREATE, create_revision=0)
        txn.compare.add(key=NEXT_ID, target=etcd.Compare.MOD, mod_revision=self._next_id_revision)
        txn.success.add().request_put.CopyFrom(etcd.PutRequest(key=key, value=value.encode()))
        txn.success.add().request_put.CopyFrom(
            etcd.PutRequest(key=NEXT_ID, value=b"%d" % (self._next_id + 1))
        )
        reply = await self._call(
            CATALOG_SHARD, frames.ETCD_TXN, CATALOG_ID, txn.SerializeToString(), write=True
        )
        return etcd.TxnResponse.FromString(reply.body).succeeded

    def _emptiest(self) -> int:
        """The shard with the fewest tables, the catalog counted, the first of several."""
        counts = Counter(table.shard for table in self.tables.values())
        return min(range(1, self._shards + 1), key=lambda shard: (counts[shard], shard))

    async def _ensure_in_shard(self, table: Table) -> None:
        try:
            await self._call(table.shard, frames.TABLE_STATUS, table.id, b"", write=False)
        except errors.TableNotFound:
            spec = frames.TableSpec(id=table.id, name=table.name, history=table.history)
            await self._call(table.shard, frames.TABLE_CREATE, table.id, spec.SerializeToString(), write=True)
            log.info("made a table", table=table.name, id=table.id, shard=table.shard)


def _parse_entry(key: bytes, value: bytes, *, shards: int) -> Table | None:
    """A row of the catalog, or None for one this version can't read: it must not take the others with it."""
    try:
        name = key.removeprefix(TABLES_PREFIX).decode()
        entry: Any = json.loads(value)
        history = entry.get("history", "all")
        table = Table(
            name, int(entry["id"]), int(entry["shard"]), int(_HISTORY_NUMBERS.get(history, history))
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        log.warning("skipped an unreadable catalog entry", key=key, value=value)
        return None
    if table.is_reserved or not 1 <= table.shard <= shards:
        log.warning("skipped a catalog entry out of range", key=key, value=value)
        return None
    return table


async def _wait_until(deadline: float, event: Awaitable[object]) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            await event
    except TimeoutError:
        raise errors.ReadTimedOut("the catalog") from None


def _retrieve(task: asyncio.Task[None]) -> None:
    """Everybody who waited may have gone; the error is then nobody's."""
    if not task.cancelled():
        task.exception()
