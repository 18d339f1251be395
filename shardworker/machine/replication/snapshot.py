"""A table's newest pairs in parts, and taking them over from the leader cluster in bounded steps.

The parts build up the rows of the new table beside the old ones, which go on being read. The last part puts them in
their place, in the transaction that applies it: nobody ever sees a half of it. Where the building stands is in the
database with what was built, so a replica that restarts, or takes over, goes on with the next part.

A snapshot that was overtaken is not taken over: if the table has been changed since the first part, by another
snapshot or by what was replicated, it is as good or better already, and would go back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine.checked_rows import CheckedRows, signed, unsigned
from shardworker.machine.columns import Columns, all_or_nothing, insert_columns, read_columns
from shardworker.machine.leases import read_leases
from shardworker.machine.leftovers import put_aside
from shardworker.machine.replacing import replace_rows
from shardworker.machine.replication.apply import granted, note_leases
from shardworker.machine.replication.copied_leases import read_copied_leases
from shardworker.machine.tables import REVISION_MAX, SUB_BITS, create_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import apsw

    from shardworker.machine.view import View
    from shardworker.machine.writer import Writer

PART_BYTES_MAX: Final = 512 << 10
"""Of pairs in one part; one larger pair still goes. Below what a log entry holds beside others."""
PART_PAIRS_MAX: Final = 4_096
"""In one part, which is applied between two heartbeats."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS snapshots_under_way (
    table_id INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,       -- of the snapshot
    checksum INTEGER NOT NULL,       -- likewise, as a signed 64-bit number
    next_part INTEGER NOT NULL,
    keys INTEGER NOT NULL,           -- taken over so far ...
    size_bytes INTEGER NOT NULL,     -- ... and what they count in the table's size
    from_revision INTEGER NOT NULL,  -- of the table when the first part came ...
    from_checksum INTEGER NOT NULL,  -- ... likewise
    last_key BLOB NOT NULL,
    crc INTEGER NOT NULL             -- of all that, checked whenever it is read
) STRICT
"""

_ROWS: Final = CheckedRows(
    "snapshots_under_way",
    {
        "table_id": int,
        "revision": int,
        "checksum": int,
        "next_part": int,
        "keys": int,
        "size_bytes": int,
        "from_revision": int,
        "from_checksum": int,
        "last_key": bytes,
    },
    "the snapshot begun of table id {0}",
)


def create_schema(connection: apsw.Connection) -> None:
    """What is remembered of snapshots that are being taken over."""
    connection.execute(_SCHEMA)


# ---- giving -------------------------------------------------------------------------------------------------------


def pair_parts(view: View, op: None) -> Iterator[tuple[bytes, bool]]:
    """The parts of a table's snapshot, each a frames.TablePairs; at least one, though the table be empty."""
    table = view.table
    part = frames.TablePairs(revision=table.revision, checksum=table.checksum)
    ids: list[int] = []
    pairs: list[bytes] = []
    size_bytes = 0
    rows: Any = view.execute(view.sql.pairs)
    for id_, kv in rows:
        if pairs and (size_bytes + len(kv) > PART_BYTES_MAX or len(pairs) >= PART_PAIRS_MAX):
            yield _finish(part, ids, pairs), True
            part = frames.TablePairs(revision=table.revision, checksum=table.checksum, number=part.number + 1)
            ids, pairs, size_bytes = [], [], 0
        pairs.append(kv)
        ids.append(id_)
        size_bytes += len(kv)
    part.last = True
    part.keys = table.keys
    for lease in read_leases(view.connection, table.id):
        if lease.ttl_s:
            part.leases.add(id=lease.id, ttl_s=lease.ttl_s)
    for id_, ttl_s in read_copied_leases(view.connection, table.id):
        part.leases.add(id=id_, ttl_s=ttl_s)
    yield _finish(part, ids, pairs), False


def _finish(part: frames.TablePairs, ids: list[int], pairs: list[bytes]) -> bytes:
    part.ids.extend(ids)
    part.pairs = b"".join(pairs)
    part.crc = crc32(part.pairs)
    return part.SerializeToString()


# ---- taking over --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A frames.ReplicatedPairs, read and found well-formed."""

    origin: int
    told: frames.TablePairs
    columns: Columns
    leases: dict[int, int]


@dataclass(slots=True)
class _Begun:
    revision: int
    checksum: int
    next_part: int
    keys: int
    size_bytes: int
    from_revision: int
    from_checksum: int
    last_key: bytes


def read_part(body: bytes) -> Part:
    """Raises DecodeError, and MalformedRequest for what no snapshot holds."""
    request = frames.ReplicatedPairs.FromString(body)
    told = request.part
    columns, fits = read_columns(told.pairs, told.ids, told.crc)
    if not 0 < told.revision <= REVISION_MAX:
        raise errors.MalformedRequest(f"no table has revision {told.revision}")
    newest_id = ((told.revision + 1) << SUB_BITS) - 1
    if not (fits and columns.keys_ascend() and max(columns.ids, default=0) <= newest_id):
        raise errors.MalformedRequest("keys are out of order, or not of their revisions")
    if len(set(columns.ids)) != len(columns.ids):
        raise errors.MalformedRequest("two keys were put by one change")
    return Part(request.origin, told, columns, granted(told.leases))


def take_part(writer: Writer, op: Part) -> bytes:
    """The next part; the last one replaces the table's contents. Raises SnapshotInterrupted, before any change."""
    connection, table, told = writer.connection, writer.table, op.told
    begun = (
        _Begun(told.revision, told.checksum, 0, 0, 0, table.revision, table.checksum, b"")
        if told.number == 0
        else _load(connection, table.id)
    )
    _check_next(begun, op, (table.revision, table.checksum))
    assert begun is not None
    name = f"s{table.id}"
    if told.number == 0:
        give_up(connection, table.id)
        create_rows(connection, name)
    with all_or_nothing(
        connection, errors.SnapshotInterrupted(f"part {told.number} repeats a change of an earlier one")
    ):
        insert_columns(connection, name, op.columns)
    keys = op.columns.keys
    begun.next_part += 1
    begun.keys += len(keys)
    begun.size_bytes += op.columns.size_bytes
    begun.last_key = keys[-1] if keys else begun.last_key
    if told.last:
        connection.execute("DELETE FROM snapshots_under_way WHERE table_id = ?", (table.id,))
        replace_rows(
            writer,
            name,
            revision=told.revision,
            checksum=told.checksum,
            keys=told.keys,
            rows_bytes=begun.size_bytes,
        )
        note_leases(writer, op.leases)
    else:
        _save(connection, table.id, begun)
    return b""


def give_up(connection: apsw.Connection, table_id: int) -> None:
    """What was taken over so far is of no use. No harm if there is nothing."""
    put_aside(connection, f"s{table_id}")
    connection.execute("DELETE FROM snapshots_under_way WHERE table_id = ?", (table_id,))


def _check_next(begun: _Begun | None, op: Part, position: tuple[int, int]) -> None:
    told, keys = op.told, op.columns.keys
    if begun is None:
        raise errors.SnapshotInterrupted(f"part {told.number} came, and the first one never did")
    if (begun.revision, begun.checksum, begun.next_part) != (told.revision, told.checksum, told.number):
        raise errors.SnapshotInterrupted(
            f"part {told.number} of revision {told.revision} came, where part {begun.next_part} of revision"
            f" {begun.revision} is the next"
        )
    if (begun.from_revision, begun.from_checksum) != position:
        raise errors.SnapshotInterrupted("the table has been changed since the snapshot began")
    if keys and keys[0] <= begun.last_key:
        raise errors.SnapshotInterrupted(f"key {keys[0]!r} came after {begun.last_key!r}")
    if told.last and told.keys != begun.keys + len(keys):
        raise errors.SnapshotInterrupted(f"{begun.keys + len(keys)} of {told.keys} keys came")


def _load(connection: apsw.Connection, table_id: int) -> _Begun | None:
    """Raises Corrupt."""
    row = _ROWS.find(connection, "WHERE table_id = ?", (table_id,))
    if row is None:
        return None
    _, revision, checksum, next_part, keys, size_bytes, from_revision, from_checksum, last_key = row
    return _Begun(
        revision,
        unsigned(checksum),
        next_part,
        keys,
        size_bytes,
        from_revision,
        unsigned(from_checksum),
        last_key,
    )


def _save(connection: apsw.Connection, table_id: int, begun: _Begun) -> None:
    row = _ROWS.sealed(
        table_id, begun.revision, signed(begun.checksum), begun.next_part, begun.keys, begun.size_bytes,
        begun.from_revision, signed(begun.from_checksum), begun.last_key,
    )  # fmt: skip
    connection.execute("REPLACE INTO snapshots_under_way VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
