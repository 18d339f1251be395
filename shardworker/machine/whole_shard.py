"""What a command may change that concerns the shard as a whole: tables that begin, end, come and go (handler.Shard)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shardworker.machine import leftovers
from shardworker.machine.backup import restoring
from shardworker.machine.changes import Recorder
from shardworker.machine.memory import Memory
from shardworker.machine.replication import followed_index
from shardworker.machine.replication import snapshot as replication_snapshot
from shardworker.machine.tables import TableState, create_rows
from shardworker.machine.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shardworker.machine.moves.results import Arrived

UNKNOWN_TTL_S: Final = 60
"""A lease that a key of a copy names, and of which nothing else is known, is granted for so long when the copy becomes
a table of its own. Part of the replicated behaviour."""

GIVES_UP_SINCE: Final = 2
"""The machine level at which what was begun beside a table ends with its origin. Until then it stays."""


class WholeShard(Memory):
    """See the module; what each method does is in handler.Shard."""

    def raise_level(self, level: int) -> None:
        """For commands (handler.Shard)."""
        self._level.rise(level)

    def create_table(self, table: TableState, origin: int = 0) -> None:
        """Begins a table; for commands (handler.Shard)."""
        self.tables.create(table)
        if origin:
            self._origins.add(table.id, origin)
        self._table_written()

    def drop_table(self, table_id: int) -> None:
        """Ends a table; for commands (handler.Shard)."""
        self._forget_table(table_id)
        self.moves.forget(table_id)
        self.dead_tables.add(table_id)

    def origin_of(self, table_id: int) -> int:
        """See handler.Shard."""
        return self._origins.of(table_id)

    def change_origin(self, table: TableState, origin: int) -> None:
        """For commands (handler.Shard)."""
        leases = self.leases
        kept = {id_: lease.ttl_s for id_, lease in leases.of_table(table.id).items() if lease.ttl_s}
        ttls = kept | dict(leases.copied.of(table.id))
        attached: list[Any] = self._connection.execute(table.sql.attached_leases).fetchall()
        named = [lease_id for (lease_id,) in attached]
        self._origins.change(table.id, origin)
        if self.level >= GIVES_UP_SINCE:
            self._give_up_what_was_begun(table.id)
        leases.drop_table(table.id)
        if origin:
            leases.copied.note(table.id, {id_: ttls[id_] for id_ in named if id_ in ttls}, lambda: named)
        else:
            for id_ in named:
                leases.grant(table.id, id_, ttls.get(id_, UNKNOWN_TTL_S))

    # ---- a table's move ------------------------------------------------------------------------------------

    def arriving_writer(self, table: TableState) -> Writer:
        """See handler.Shard, as are the next ones."""
        return Writer(self._connection, table, self._entry, Recorder(), self.leases, self.auth)

    def take_results(self, coming: Iterable[Arrived]) -> None:
        now_ms = self._window.age_clock_ms
        self._arrived.add(each._replace(age_clock_ms=now_ms - each.age_clock_ms) for each in coming)

    def begin_rows(self, table_id: int) -> None:
        create_rows(self._connection, f"t{table_id}")

    def leave_rows(self, table_id: int) -> None:
        leftovers.put_aside(self._connection, f"t{table_id}")

    def open_table(
        self,
        table: TableState,
        origin: int,
        *,
        leases: Iterable[tuple[int, int, int]],
        auth: Iterable[tuple[int, bytes, str]],
        copied_leases: Mapping[int, int],
    ) -> None:
        self.tables.adopt(table)
        if origin:
            self._origins.add(table.id, origin)
        for lease_id, ttl_s, left_ms in leases:
            self.leases.adopt(table.id, lease_id, ttl_s, left_ms)
        self.leases.copied.note(table.id, copied_leases, copied_leases.keys)
        self.auth.adopt(table.id, auth)
        self._recorder.open(table)

    def give_up_table(self, table_id: int) -> None:
        self._forget_table(table_id)
        self.leave_rows(table_id)

    def _forget_table(self, table_id: int) -> None:
        """Nobody finds it any more; its rows are left."""
        table = self.tables.get(table_id)
        if table is not None:
            self.tables.drop(table)
            self.auth.drop_table(table_id)
            self.leases.drop_table(table_id)
            self._origins.remove(table_id)
            self.followers.drop_table(table_id)
            self._give_up_what_was_begun(table_id)

    def _give_up_what_was_begun(self, table_id: int) -> None:
        """Beside the table's rows: nobody goes on with it."""
        replication_snapshot.give_up(self._connection, table_id)
        restoring.give_up(self._connection, table_id)
        followed_index.forget_index(self._connection, table_id)
