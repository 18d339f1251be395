"""Which table's history is swept next, how far, and who waits for it. How one is swept is in sweep.py.

A sweep is a replica's own affair; how much it has freed becomes part of the state by a command (quota.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker.machine import leftovers, sweep
from shardworker.machine.requests import Requests
from shardworker.machine.tables import REVISION_MAX, TableState

if TYPE_CHECKING:
    from proto.internal import frames_pb2 as frames

_LEFTOVERS: Final = 0
"""Their turn among tables that are swept."""


class Sweeping(Requests):
    """See the module."""

    def compaction_step(self, rows_max: int) -> int:
        """Removes what compaction has made unreachable, and what deleted, moved and replaced tables have left, in the
        open transaction; 0 = nothing left.

        Visits at most rows_max rows of one table, each a few microseconds. Tables take turns, because one that keeps a
        number of revisions is never done while it is written."""
        waiting = [table.id for table in self.tables if not self._is_swept(table)] + self.dead_tables.unfreed
        if leftovers.is_any(self._connection):
            waiting.append(_LEFTOVERS)
        if not waiting:
            return 0
        self._last_swept = min(waiting, key=lambda table_id: (table_id <= self._last_swept, table_id))
        if self._last_swept == _LEFTOVERS:
            return leftovers.free(self._connection, rows_max)
        table = self.tables.get(self._last_swept)
        if table is None:
            return self.dead_tables.free(self._last_swept, rows_max)
        self.tables.keep(table)
        return sweep.sweep(self._connection, table, rows_max, self._sweep_limit(table))

    def _sweep_limit(self, table: TableState) -> int:
        """No revision after this one is swept. A table that is full needs its space more than anybody its past, but for
        the shard that it is copied to."""
        held = None if table.full else self.followers.held_at(table, self.keep_bytes)
        limit = REVISION_MAX if held is None else held
        return min(limit, self.moves.sweep_limit(table.id))

    def _is_swept(self, table: TableState) -> bool:
        return sweep.is_swept(table, self._sweep_limit(table))

    @property
    def tables_held(self) -> int:
        """Tables whose history is not swept because somebody has to copy it yet."""
        return sum(self._sweep_limit(table) < table.floor for table in self.tables)

    @property
    def is_compacting(self) -> bool:
        """Whether compaction_step would find something to do."""
        if self.dead_tables.unfreed or leftovers.is_any(self._connection):
            return True
        return not all(map(self._is_swept, self.tables))

    @property
    def has_leftovers(self) -> bool:
        """Whether rows are still to be freed of tables that were replaced, moved, or did not come after all."""
        return leftovers.is_any(self._connection)

    def sweep_awaited(self, command: frames.Command) -> int | None:
        """The revision up to which a table's history has to be physically gone before this command is answered: etcd's
        `physical` compaction, which also waits for an earlier one when it fails itself. None if it is due now."""
        handler = self._registry.handlers.get(command.method)
        table = self.tables.get(command.table_id)
        if table is None or handler is None or handler.awaits_sweep is None:
            return None
        request = self.parse(command.method, command.table_id, command.body)
        asked = None if request.error is not None else handler.awaits_sweep(request.op)
        if asked is None:
            return None
        revision = min(asked, table.floor, self._sweep_limit(table))
        return None if sweep.is_swept_to(table, revision) else revision

    def is_swept(self, table_id: int, revision: int) -> bool:
        """Whether what a compaction at this revision made unreachable is physically gone."""
        table = self.tables.get(table_id)
        return table is None or sweep.is_swept_to(table, min(revision, self._sweep_limit(table)))
