"""The leases of all tables: rows in the database, a copy of them in memory, with the life of the transaction.

What is replicated of a lease is that it exists, for how long it was granted, and what was left of that when the
leader last wrote it down. The leader counts the rest (replica/leases.py), and proposes the end. Which keys a lease
holds is not kept here: the newest row of a key names its lease, and an index over those rows leads back (tables.py),
so a key that is put anew, moved or deleted can never be missing there, or remain.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from proto import errors
from proto.varint import UINT64_MASK
from shardworker.machine.checked_rows import CheckedRows
from shardworker.machine.replication.copied_leases import CopiedLeases

if TYPE_CHECKING:
    from collections.abc import Mapping

    import apsw

    from shardworker.machine.level import MachineLevel

_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
    table_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    ttl_s INTEGER NOT NULL,
    granted_at INTEGER NOT NULL,
    left_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL,          -- of all that, checked whenever the row is read
    PRIMARY KEY (table_id, id)
) STRICT, WITHOUT ROWID
"""

_ROWS: Final = CheckedRows(
    "leases",
    {"table_id": int, "id": int, "ttl_s": int, "granted_at": int, "left_ms": int},
    "lease {1} of table id {0}",
)
_DIGESTED: Final = struct.Struct("<5q")
_DRAW: Final = struct.Struct("<3q")
_ID_MAX: Final = (1 << 63) - 1


class Lease(NamedTuple):
    """One lease of a table."""

    id: int
    """Any number but 0."""
    ttl_s: int
    """As granted. 0 once it has ended, while keys of it are still to be deleted."""
    granted_at: int
    """Log index of the entry that granted it, which tells it from an earlier lease of the same id."""
    left_ms: int
    """What was left of its time when that was last written down; all of it, if it was renewed since, or never."""

    @property
    def is_whole(self) -> bool:
        """Whether all of its time is left, as far as is written down."""
        return self.left_ms == self.ttl_s * 1000


class Leases:
    """Every lease of the shard."""

    def __init__(self, connection: apsw.Connection, level: MachineLevel) -> None:
        """Takes over what the database holds. level: the shard's. Raises Corrupt."""
        self._connection = connection
        self.copied = CopiedLeases(connection, level)
        """What keys of copies name; no lease lives there."""
        connection.execute(_SCHEMA)
        self._tables: dict[int, dict[int, Lease]] = {}
        self.checksum = 0
        """Over all of them, whatever their order; equal on replicas that applied the same commands."""
        self._index = self._drawn = 0
        self._before_turn: dict[tuple[int, int], Lease | None] = {}
        self._changed: set[tuple[int, int]] = set()
        self._changed_before_turn: set[tuple[int, int]] = set()
        self._counted_before_turn: set[tuple[int, int]] = set()
        self._counted: set[tuple[int, int]] = set()
        for table_id, *values in _ROWS.all(connection, ""):
            self._enter(table_id, Lease(*values))

    def get(self, table_id: int, lease_id: int) -> Lease | None:
        """The lease, unless it has ended."""
        lease = self.find(table_id, lease_id)
        return lease if lease is not None and lease.ttl_s else None

    def find(self, table_id: int, lease_id: int) -> Lease | None:
        """The lease, also one that has ended and still has keys."""
        leases = self._tables.get(table_id)
        return None if leases is None else leases.get(lease_id)

    def of_table(self, table_id: int) -> Mapping[int, Lease]:
        """All of a table, by id, those with nothing but keys left included. The next entry changes it."""
        return self._tables.get(table_id, {})

    @property
    def tables(self) -> Mapping[int, Mapping[int, Lease]]:
        """All of them, by table and id."""
        return self._tables

    def granted_for(self, table_id: int, lease_id: int) -> int:
        """For how many seconds a lease was granted that keys of this table may name; 0 = not known. Of a copy: in the
        leader cluster."""
        lease = self.get(table_id, lease_id)
        return self.copied.of(table_id).get(lease_id, 0) if lease is None else lease.ttl_s

    def knows_any(self, table_id: int) -> bool:
        """Whether keys of this table may name leases that are known."""
        return bool(self.of_table(table_id) or self.copied.of(table_id))

    # ---- commands ------------------------------------------------------------------------------------------

    def begin_entry(self, index: int) -> None:
        """The commands of the log entry at this index follow."""
        self._index, self._drawn = index, 0

    def grant(self, table_id: int, lease_id: int, ttl_s: int, *, left_s: int | None = None) -> Lease:
        """left_s: if it is not to have its whole time. Raises LeaseExists."""
        if not lease_id:
            lease_id = self._draw_id(table_id)
        elif self.find(table_id, lease_id) is not None:
            raise errors.LeaseExists
        lease = Lease(lease_id, ttl_s, self._index, 1000 * (ttl_s if left_s is None else left_s))
        self._keep(table_id, lease_id)
        self._save(table_id, lease)
        self._enter(table_id, lease)
        return lease

    def adopt(self, table_id: int, lease_id: int, ttl_s: int, left_ms: int) -> None:
        """A lease of a table that has come from another shard; as if it was granted by this entry. ttl_s: 0 = it has
        ended, and has keys left."""
        self._keep(table_id, lease_id)
        lease = Lease(lease_id, ttl_s, self._index, min(left_ms, 1000 * ttl_s))
        self._save(table_id, lease)
        self._enter(table_id, lease)

    def checkpoint(self, table_id: int, lease_id: int, granted_at: int, left_ms: int) -> None:
        """So much is left of a lease, if it is the one that this entry granted, and has not ended."""
        lease = self.get(table_id, lease_id)
        if lease is None or lease.granted_at != granted_at:
            return
        self._keep_row(table_id, lease_id)
        self._counted_before_turn.add((table_id, lease_id))
        self._leave(table_id, lease_id)
        counted = lease._replace(left_ms=min(left_ms, 1000 * lease.ttl_s))
        self._save(table_id, counted)
        self._enter(table_id, counted)

    def end_later(self, table_id: int, lease: Lease) -> None:
        """It has ended, and some of its keys are still to be deleted."""
        self._keep(table_id, lease.id)
        self._leave(table_id, lease.id)
        ended = lease._replace(ttl_s=0, left_ms=0)
        self._save(table_id, ended)
        self._enter(table_id, ended)

    def remove(self, table_id: int, lease: Lease) -> None:
        """It has ended, and has no keys."""
        self._keep(table_id, lease.id)
        self._leave(table_id, lease.id)
        self._connection.execute("DELETE FROM leases WHERE table_id = ? AND id = ?", (table_id, lease.id))

    def drop_table(self, table_id: int) -> None:
        """The table is no more, and its leases with it."""
        self.copied.drop_table(table_id)
        for lease_id in list(self._tables.get(table_id, ())):
            self._keep(table_id, lease_id)
            self._leave(table_id, lease_id)
        self._connection.execute("DELETE FROM leases WHERE table_id = ?", (table_id,))

    def _draw_id(self, table_id: int) -> int:
        """An id that is not in use, and in effect never was: nobody who held an earlier lease takes it for his."""
        while True:
            self._drawn += 1
            seed = _DRAW.pack(table_id, self._index, self._drawn)
            lease_id = int.from_bytes(blake2b(seed, digest_size=8).digest()) & _ID_MAX
            if lease_id and self.find(table_id, lease_id) is None:
                return lease_id

    def _save(self, table_id: int, lease: Lease) -> None:
        row = _ROWS.sealed(table_id, *lease)
        self._connection.execute("REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?)", row)

    # ---- what is in memory ---------------------------------------------------------------------------------

    def _enter(self, table_id: int, lease: Lease) -> None:
        leases = self._tables.get(table_id)
        if leases is None:
            leases = self._tables[table_id] = {}
        leases[lease.id] = lease
        self.checksum = (self.checksum + _digest(table_id, lease)) & UINT64_MASK

    def _leave(self, table_id: int, lease_id: int) -> None:
        lease = self._tables[table_id].pop(lease_id)
        self.checksum = (self.checksum - _digest(table_id, lease)) & UINT64_MASK

    def _keep(self, table_id: int, lease_id: int) -> None:
        self._keep_row(table_id, lease_id)
        self._changed_before_turn.add((table_id, lease_id))

    def _keep_row(self, table_id: int, lease_id: int) -> None:
        self._before_turn.setdefault((table_id, lease_id), self.find(table_id, lease_id))

    def committed(self) -> None:
        """The transaction is durable."""
        self.copied.committed()
        if self._before_turn:
            self._changed |= self._changed_before_turn
            self._counted |= self._counted_before_turn
            self._forget_turn()

    def rollback(self) -> None:
        """The transaction was rolled back: everything is what it was before it."""
        self.copied.rollback()
        for (table_id, lease_id), before in self._before_turn.items():
            if self.find(table_id, lease_id) is not None:
                self._leave(table_id, lease_id)
            if before is not None:
                self._enter(table_id, before)
        self._forget_turn()

    def _forget_turn(self) -> None:
        self._before_turn.clear()
        self._changed_before_turn.clear()
        self._counted_before_turn.clear()

    def take_changed(self) -> set[tuple[int, int]]:
        """Tables and ids of the leases that came, ended or went, durably, since the last call."""
        taken, self._changed = self._changed, set()
        return taken

    def take_counted(self) -> set[tuple[int, int]]:
        """Tables and ids of the leases of which was written down, durably, what is left, since the last call. Some may
        have ended since."""
        taken, self._counted = self._counted, set()
        return taken


def read_leases(connection: apsw.Connection, table_id: int) -> list[Lease]:
    """Those of a table as this connection sees them, by id. Raises Corrupt."""
    rows = _ROWS.all(connection, "WHERE table_id = ? ORDER BY id", (table_id,))
    return [Lease(*values) for _, *values in rows]


def _digest(table_id: int, lease: Lease) -> int:
    return int.from_bytes(blake2b(_DIGESTED.pack(table_id, *lease), digest_size=8).digest())
