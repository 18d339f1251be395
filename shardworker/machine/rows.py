"""The newest rows of a table's keys while a log entry is applied: fetched together, written together.

A put looks at its key's newest change and writes two rows. Statement by statement that would cost it a quarter more. So
an entry's rows are fetched by a few statements before its first command, and written by a few after its last.

What is not written yet is invisible to SQL. Whoever runs a statement over the table's rows calls flush() first;
`Writer` sees to that for every statement but the ones here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardworker.machine.statements import TableSql

FETCH_KEYS_MIN: Final = 4
"""Fewer are looked up one by one when they are needed."""

Newest = tuple[int | None, int, int, int]
"""(id of the key's newest change, create revision, version, lease). A key that does not exist has version 0, and the id
of its tombstone if the past may still be asked for it. A plain tuple, because a put makes two."""

ABSENT: Final[Newest] = (None, 0, 0, 0)


class PendingRows:
    """The rows of one table and one entry."""

    def __init__(self, connection: apsw.Connection, sql: TableSql) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._sql = sql
        self._newest: dict[bytes, Newest] = {}
        self._changes: list[tuple[int, bytes, bytes | None, int | None, int]] = []
        self._dirty: set[bytes] = set()
        self._unburied: set[bytes] = set()

    def __bool__(self) -> bool:
        """Whether something is not written yet."""
        return bool(self._changes)

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Looks up these keys at once: two thirds of the time of one by one."""
        newest = self._newest
        wanted = tuple(sorted(set(keys)))
        if len(wanted) < FETCH_KEYS_MIN:
            return
        for row in self._execute(self._sql.live_of_many, (apsw.carray(wanted),)):
            newest[row[4]] = row[:4]
        missing = tuple([key for key in wanted if key not in newest])
        if missing:
            newest.update(dict.fromkeys(missing, ABSENT))
            for id_, key in self._execute(self._sql.dead_of_many, (apsw.carray(missing),)):
                newest[key] = (id_, 0, 0, 0)

    def newest(self, key: bytes) -> Newest:
        """The key's newest change, those of this entry included."""
        found = self._newest.get(key)
        if found is None:
            row: Any = self._execute(self._sql.live, (key,)).fetchone()
            if row is not None:
                found = row
            else:
                row = self._execute(self._sql.dead, (key,)).fetchone()
                found = ABSENT if row is None else (row[0], 0, 0, 0)
            self._newest[key] = found
        return found

    def stored(self, id_: int) -> bytes:
        """The stored pair of a change that put one."""
        changes = self._changes
        if changes and id_ >= changes[0][0]:
            for change in reversed(changes):
                if change[0] == id_:
                    assert change[2] is not None
                    return change[2]
        row: Any = self._execute(self._sql.change, (id_,)).fetchone()
        pair: bytes = row[0]
        return pair

    def put(self, key: bytes, before: Newest, now: Newest, stored: bytes, crc: int) -> None:
        """The key has a new pair. `before` is what newest() said."""
        id_, prev = now[0], before[0]
        assert id_ is not None
        if prev is not None and before[2] == 0:
            self._unburied.add(key)
        self._changes.append((id_, key, stored, prev, crc))
        self._newest[key] = now
        self._dirty.add(key)

    def delete(self, key: bytes, before: Newest, id_: int, crc: int) -> None:
        """The key is deleted by the change with this id. It exists, but in changes that come from elsewhere: without
        history the pair between two tombstones may be gone already."""
        if before[0] is not None and before[2] == 0:
            self._unburied.add(key)
        self._changes.append((id_, key, None, before[0], crc))
        self._newest[key] = (id_, 0, 0, 0)
        self._dirty.add(key)

    def flush(self) -> None:
        """Writes everything, so that statements see it."""
        if not self._changes:
            return
        self._executemany(self._sql.add_change, self._changes)
        if self._unburied:
            self._executemany(self._sql.delete_dead, [(key,) for key in sorted(self._unburied)])
        newest = self._newest
        live: list[tuple[Any, ...]] = []
        dead: list[tuple[Any, ...]] = []
        for key in sorted(self._dirty):  # in the order of the pages that they lie on
            row = newest[key]
            if row[2]:
                live.append((key, *row))
            else:
                dead.append((key, row[0]))
        self._executemany(self._sql.set_live, live)
        if dead:
            self._executemany(self._sql.delete_live, [(key,) for key, _ in dead])
            self._executemany(self._sql.add_dead, dead)
        self._changes.clear()
        self._dirty.clear()
        self._unburied.clear()

    def forget(self) -> None:
        """The database was changed by other means: gives up what is not written, and looks up again what is known."""
        self._changes.clear()
        self._dirty.clear()
        self._unburied.clear()
        self._newest.clear()
