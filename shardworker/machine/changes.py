"""What commands changed, as values: the one shape that watches, replication and incremental backups read.

A change of the turn that was just committed comes from the machine itself (`StateMachine.take_changes`), for tables
that somebody listens to; an older one from the table's own log (`history`). Both give the same Changes for the same
revisions, but for what `Change.checksum` and `Edit.prev` say, and for one more thing at the very floor of a table: of a
key that one command changed several times, as Regatta's transactions may, only the last edit is left there.

So a reader that is behind takes history until it has caught up, from a snapshot of a moment when the machine was
listening already, and then what the machine hands out.

Without history a replaced row is deleted within the command that replaced it, so nobody could read it afterwards:
changes are taken down while they are made.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proto import errors
from shardworker.machine.snapshot import snapshot
from shardworker.machine.sweep import whole_from
from shardworker.machine.tables import SUB_BITS, load_table

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import apsw

    from shardworker.machine.tables import TableState

TURN_BYTES_MAX: Final = 64 << 20
"""Of keys and pairs that are kept in memory for one turn; what is more has to be read from the table's log."""

EDIT_OVERHEAD_BYTES: Final = 160
"""Counted for each edit on top of its key and pairs."""


class Listen(enum.Enum):
    """What somebody wants to hear of a table."""

    CHANGES = "changes"
    WITH_PREVIOUS = "changes and the pairs that they replaced"


class Edit(NamedTuple):
    """One key that was put or deleted."""

    key: bytes
    kv: bytes | None
    """The pair as stored, which is field 2 of etcd's RangeResponse and of its Event, tag included; None = deleted."""
    prev: bytes | None
    """The pair that was there before, as stored. None if there was none, if nobody asked, or if it is gone."""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.key) + len(self.kv or b"") + len(self.prev or b"") + EDIT_OVERHEAD_BYTES


class Change(NamedTuple):
    """What one command did to one table, in the order in which it did it."""

    table_id: int
    revision: int
    edits: tuple[Edit, ...]
    more: bool = False
    """Further edits of the same revision follow in the next Change; only history cuts a revision."""
    missing: bool = False
    """More was changed than is kept in memory, or all was replaced: the edits are in history if anywhere, from this
    revision on."""
    opens: bool = False
    """The table has come from another shard at this revision, without edits: whoever followed it there goes on here.
    What is told before belongs to an earlier stay."""
    checksum: int | None = None
    """The table's rolling checksum after the command. None from history, which does not know it."""
    size_bytes: int = 0
    """What its edits take in memory, about."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """How much one Change of history holds; at least one edit whatever its size."""

    edits_max: int = 1_000
    bytes_max: int = 1 << 20


class Recorder:
    """Takes down what the commands of a turn change, for the tables that somebody listens to."""

    def __init__(self) -> None:
        self._listening: dict[int, Listen] = {}
        self._open: list[Change] = []
        self._open_bytes = 0
        self._committed: list[Change] = []

    def open(self, table: TableState) -> None:
        """The table has come from another shard: whoever followed it there goes on here from this revision on, so that
        everything is taken down from the next command on, until listen() says otherwise."""
        self._listening[table.id] = Listen.WITH_PREVIOUS
        self._open.append(Change(table.id, table.revision, (), opens=True, checksum=table.checksum))

    def listen(self, tables: Mapping[int, Listen]) -> None:
        """From the next command on, to exactly these tables."""
        self._listening = dict(tables)

    def listening(self, table_id: int) -> Listen | None:
        return self._listening.get(table_id)

    def add(self, table: TableState, edits: Sequence[Edit]) -> None:
        """A command succeeded; the table's counters are those after it."""
        size_bytes = sum([edit.size_bytes for edit in edits])
        missing = self._open_bytes + size_bytes > TURN_BYTES_MAX
        if not missing:
            self._open_bytes += size_bytes
        self._open.append(
            Change(
                table.id,
                table.revision,
                () if missing else tuple(edits),
                missing=missing,
                checksum=table.checksum,
                size_bytes=0 if missing else size_bytes,
            )
        )

    def add_unkept(self, table: TableState) -> None:
        """A command made changes at several revisions, up to the table's own, or put something else in the place of all
        that the table held: they have to be read from its log."""
        if table.id in self._listening:
            self._open.append(Change(table.id, table.revision, (), missing=True, checksum=table.checksum))

    def committed(self) -> None:
        self._committed += self._open
        self._forget_turn()

    def rollback(self) -> None:
        self._forget_turn()

    def _forget_turn(self) -> None:
        self._open = []
        self._open_bytes = 0

    def take(self) -> list[Change]:
        """What was committed since the last call, in order."""
        taken, self._committed = self._committed, []
        return taken


def oldest(table: TableState, *, exact: bool) -> int:
    """The first revision that history() can tell; see there."""
    return whole_from(table) if exact else table.floor


def history(
    connection: apsw.Connection,
    table_id: int,
    from_revision: int,
    limits: HistoryLimits | None = None,
    *,
    previous: bool = False,
    exact: bool = False,
) -> Generator[Change, None, None]:
    """The changes of one table from this revision on, up to the newest at the moment of the first one.

    `connection` is in a read transaction from then until the iterator ends or is closed, so it must be a reader's own,
    and whoever holds one for long keeps the WAL from being reused. exact: for who copies the table, which is told of
    what nobody may read any more as long as every single edit is there. Raises TableNotFound; Compacted if the revision
    lies below what can be told. A revision that does not exist yet is no error: there is nothing to tell."""
    limits = limits or HistoryLimits()
    with snapshot(connection):
        table = load_table(connection, table_id)
        if table is None:
            raise errors.TableNotFound
        if from_revision < oldest(table, exact=exact):
            raise errors.Compacted
        first = max(0, from_revision) << SUB_BITS
        rows: Any = connection.execute(table.sql.history[previous], (first,))
        revision = size_bytes = 0
        edits: list[Edit] = []
        for id_, key, kv, prev in rows:
            same = id_ >> SUB_BITS == revision
            if edits and (not same or len(edits) >= limits.edits_max or size_bytes >= limits.bytes_max):
                yield Change(table_id, revision, tuple(edits), more=same, size_bytes=size_bytes)
                edits, size_bytes = [], 0
            revision = id_ >> SUB_BITS
            edit = Edit(key, kv, prev)
            edits.append(edit)
            size_bytes += edit.size_bytes
        if edits:
            yield Change(table_id, revision, tuple(edits), size_bytes=size_bytes)
