"""What a shard's machine keeps in memory beside the database, and its life with the transaction that changes it.

committed() keeps what the transaction has done to it, rollback() forgets that, and reload() reads everything anew after
the database was replaced. Here is also what the state as a whole is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proto.catalog import CATALOG_ID, CATALOG_NAME, CATALOG_SHARD
from proto.checksums import FNV_PRIME
from proto.varint import UINT64_MASK
from shardworker.machine import leftovers, quota, recoveries
from shardworker.machine.auth_store import AuthStore
from shardworker.machine.backup import restoring
from shardworker.machine.budget import ENTRY_ANSWERS_BYTES_MAX, EntryBudget
from shardworker.machine.changes import Change, Listen, Recorder
from shardworker.machine.dead_tables import DeadTables
from shardworker.machine.internal.commands import table_status
from shardworker.machine.leases import Leases
from shardworker.machine.level import FIRST, MachineLevel
from shardworker.machine.moves.commands import move_state
from shardworker.machine.moves.results import ArrivedResults
from shardworker.machine.moves.states import Moves
from shardworker.machine.registry import REGISTRY, Registry
from shardworker.machine.replication import snapshot as replication_snapshot
from shardworker.machine.replication.followers import Followers
from shardworker.machine.replication.origins import Origins
from shardworker.machine.table_cache import TableCache
from shardworker.machine.tables import TableState, create_schema
from shardworker.machine.window import ResultWindow, WindowLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import apsw

    from proto.internal import frames_pb2 as frames
    from shardworker.machine.writer import Writer


class _Part(Protocol):
    """What follows the life of the transaction."""

    def committed(self) -> None: ...

    def rollback(self) -> None: ...


class Memory:
    """See the module. `connection` is the store's writer."""

    def __init__(
        self,
        connection: apsw.Connection,
        shard: int,
        window_limits: WindowLimits | None = None,
        *,
        registry: Registry = REGISTRY,
        table_written: Callable[[], None] = lambda: None,
    ):
        """Raises TooNew for tables that this build cannot go on with, and Corrupt. registry: another build's, in
        simulations of upgrades. table_written is called when a table was created, before the transaction ends: a crash
        point of tests."""
        self._connection = connection
        self._table_written = table_written
        self._shard = shard
        self._registry = registry
        self._window_limits = window_limits or WindowLimits()
        self._last_swept = 0
        self.keep_bytes = 0
        """What may be written to a table before history that nobody can read is removed although a cluster that follows
        the table has not copied it. This replica's own."""
        self._recorder = Recorder()
        self._entry = EntryBudget(ENTRY_ANSWERS_BYTES_MAX, level=FIRST)
        self._writers: dict[int, Writer] = {}
        self._in_transaction(self._load)

    # ---- its life ------------------------------------------------------------------------------------------

    def _load(self) -> None:
        self._level = MachineLevel(self._connection, self._registry.level)
        create_schema(self._connection)
        replication_snapshot.create_schema(self._connection)
        restoring.create_schema(self._connection)
        leftovers.create_schema(self._connection)
        recoveries.create_schema(self._connection)
        self._origins = Origins(self._connection)
        self.followers = Followers(self._connection)
        self._window = ResultWindow(self._connection, self._window_limits)
        self.auth = AuthStore(self._connection)
        self.tables = TableCache(self._connection)
        self.dead_tables = DeadTables(self._connection)
        self.leases = Leases(self._connection, self._level)
        self.moves = Moves(self._connection)
        self._arrived = ArrivedResults(self._connection, self._window_limits.age_ms_max)
        self._parts: tuple[_Part, ...] = (
            self._level,
            self.tables,
            self.auth,
            self.dead_tables,
            self.leases,
            self.moves,
            self._arrived,
            self._window,
            self._origins,
            self.followers,
            self._recorder,
        )
        if self._shard == CATALOG_SHARD and self.tables.get(CATALOG_ID) is None:
            self.tables.create(TableState(CATALOG_ID, CATALOG_NAME, -1))

    def _in_transaction(self, work: Callable[[], None]) -> None:
        if self._connection.in_transaction:
            work()
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            work()
        except BaseException:
            # SQLite itself ends a transaction over some errors; a second error would hide what happened.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def committed(self) -> None:
        """The transaction is durable: its changes to the caches stay, and can be taken."""
        for part in self._parts:
            part.committed()

    def rollback(self) -> None:
        """The transaction was rolled back: the caches return to the last committed()."""
        self._writers.clear()
        for part in self._parts:
            part.rollback()

    def reload(self, connection: apsw.Connection | None = None) -> None:
        """The database was replaced, perhaps behind a new connection: forget everything, read it again."""
        self._connection = connection or self._connection
        self._recorder.rollback()
        self._in_transaction(self._load)

    # ---- what was changed ----------------------------------------------------------------------------------

    def listen(self, tables: Mapping[int, Listen]) -> None:
        """From the next entry on, take down the changes of exactly these tables; see changes.py."""
        self._recorder.listen(tables)

    def take_changes(self) -> list[Change]:
        """What was committed since the last call, in the order of the log."""
        return self._recorder.take()

    # ---- the state as a whole ------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Of the shard."""
        return self._shard

    @property
    def level(self) -> int:
        """The shard's machine level as of the last command."""
        return self._level.current

    @property
    def build_level(self) -> int:
        """The newest machine level that this build can apply."""
        return self._registry.level

    @property
    def time_ms(self) -> int:
        """The newest time that an applied batch brought; no later batch can lower it."""
        return self._window.time_ms

    @property
    def rows_visited(self) -> int:
        """What the last entry cost, in rows (budget.py)."""
        return self._entry.rows

    def table_status(self) -> list[frames.TableStatus]:
        return [self._status_of(table) for table in self.tables]

    def _status_of(self, table: TableState) -> frames.TableStatus:
        status = table_status(
            table,
            self._origins.of(table.id),
            beside_bytes=self.beside_bytes(table.id),
            followers=self.followers.of(table.id),
        )
        status.auth_revision = self.auth.of(table.id).revision
        return status

    def beside_bytes(self, table_id: int) -> int:
        """What a table holds beside its changes (quota.py)."""
        return quota.beside_bytes(table_id, self.leases, self.auth)

    def move_states(self) -> list[frames.MoveState]:
        """Of all tables that came, go, or went."""
        return [move_state(id_, move, self.tables.get(id_)) for id_, move in self.moves]

    @property
    def highest_table_id(self) -> int:
        """Of all tables that the shard holds or ever had to refuse: no new table may get it, or one below."""
        moved = [table_id for table_id, _ in self.moves]
        return max([self.dead_tables.highest, *moved, *(table.id for table in self.tables)])

    @property
    def checksum(self) -> int:
        """One number over the level, all leases, users and roles, the deleted tables, and all others' rolling
        checksums and revisions, for comparing replicas."""
        total = self.level ^ (self.dead_tables.digest << 32)
        parts = [self.auth.checksum, self.leases.checksum, self.moves.digest]
        for table in self.tables:
            parts += (table.id, self._origins.of(table.id), table.revision, table.compacted, table.keys)
            parts += (
                table.checksum,
                table.written_bytes,
                table.freed_bytes,
                table.quota_bytes,
                int(table.full),
            )
            parts += [part for alarm in table.alarms for part in alarm]
            for position in self.followers.of(table.id).values():
                parts += position
        for part in parts:
            total = ((total ^ (part & UINT64_MASK)) * FNV_PRIME) & UINT64_MASK
        return total
