"""For how long the leases were granted that keys of a copy name, with the life of the transaction.

No lease lives in a copy: whoever leads counts its time. But the copy may lead one day, and its leases live then, each
for as long as it was granted for. So that is remembered with the keys; what no key names any more is forgotten when
there is much of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker.machine.checked_rows import CheckedRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import apsw

    from shardworker.machine.level import MachineLevel

FORGET_FROM: Final = 1_024
"""From so many on what no key names is looked for, and then whenever there are twice as many as were left. Part of the
replicated behaviour."""

LOOKS_AGAIN_SINCE: Final = 2
"""The machine level that remembers from how many leases on is looked next. Until then it is looked only where their
number is a power of two just then, which a change that brings several may leave out."""

_LOOK: Final = 0
"""No lease has this id. Its row says from how many leases on is looked next, since all replicas have to look alike,
whenever they were started. There is none before that level: earlier builds would take it for a lease."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS copied_leases (
    table_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    ttl_s INTEGER NOT NULL,
    crc INTEGER NOT NULL,          -- of all that, checked whenever it is read
    PRIMARY KEY (table_id, id)
) STRICT, WITHOUT ROWID
"""

_ROWS: Final = CheckedRows(
    "copied_leases", {"table_id": int, "id": int, "ttl_s": int}, "copied lease {1} of table id {0}"
)


class CopiedLeases:
    """By table and id."""

    def __init__(self, connection: apsw.Connection, level: MachineLevel) -> None:
        """Takes over what the database holds. level: the shard's. Raises Corrupt."""
        self._connection = connection
        self._level = level
        connection.execute(_SCHEMA)
        self._ttls: dict[int, dict[int, int]] = {}
        self._look_from: dict[int, int] = {}
        for table_id, id_, number in _ROWS.all(connection, "ORDER BY 1, 2"):
            self._enter(table_id, id_, number)
        self._before_turn: dict[tuple[int, int], int | None] = {}

    def of(self, table_id: int) -> Mapping[int, int]:
        """Seconds, by lease."""
        return self._ttls.get(table_id, {})

    def note(self, table_id: int, ttls: Mapping[int, int], named: Callable[[], Iterable[int]]) -> None:
        """Keys of a copy name these leases. named: all that keys name now."""
        held = self._ttls.setdefault(table_id, {})
        new = {id_: ttl_s for id_, ttl_s in ttls.items() if held.get(id_) != ttl_s}
        for id_, ttl_s in sorted(new.items()):
            self._set(table_id, id_, ttl_s)
        looks_again = self._level.current >= LOOKS_AGAIN_SINCE
        if looks_again:
            looks = len(held) >= self._look_from.get(table_id, FORGET_FROM)
        else:
            looks = bool(new) and len(held) >= FORGET_FROM and len(held).bit_count() == 1
        if looks:
            for id_ in sorted(held.keys() - set(named())):
                self._set(table_id, id_, None)
        if looks and looks_again:
            self._set(table_id, _LOOK, max(FORGET_FROM, 2 * len(held)))

    def drop_table(self, table_id: int) -> None:
        """The table is gone, or no copy any more."""
        for id_ in (*self.of(table_id), _LOOK):
            self._set(table_id, id_, None)

    def _set(self, table_id: int, id_: int, number: int | None) -> None:
        of_id = self._look_from.get(table_id) if id_ == _LOOK else self.of(table_id).get(id_)
        self._before_turn.setdefault((table_id, id_), of_id)
        self._enter(table_id, id_, number)
        if number is None:
            self._connection.execute(
                "DELETE FROM copied_leases WHERE table_id = ? AND id = ?", (table_id, id_)
            )
        else:
            row = _ROWS.sealed(table_id, id_, number)
            self._connection.execute("REPLACE INTO copied_leases VALUES (?, ?, ?, ?)", row)

    def _enter(self, table_id: int, id_: int, number: int | None) -> None:
        of_ids = self._ttls.setdefault(table_id, {})
        if id_ == _LOOK:
            of_ids, id_ = self._look_from, table_id
        if number is None:
            of_ids.pop(id_, None)
        else:
            of_ids[id_] = number

    def committed(self) -> None:
        """The transaction is durable."""
        self._before_turn.clear()

    def rollback(self) -> None:
        """The transaction was rolled back."""
        for (table_id, id_), number in self._before_turn.items():
            self._enter(table_id, id_, number)
        self._before_turn.clear()


def read_copied_leases(connection: apsw.Connection, table_id: int) -> Iterator[tuple[int, int]]:
    """Leases and seconds as this connection sees them, by lease. Raises Corrupt."""
    rows = _ROWS.all(connection, "WHERE table_id = ? AND id <> ? ORDER BY id", (table_id, _LOOK))
    for _, id_, ttl_s in rows:
        yield id_, ttl_s
