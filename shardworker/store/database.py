"""Opening a replica's SQLite file the way the store relies on: version, pragmas, tables, identity.

Why not the system's SQLite: up to 3.51.2 it has the WAL-reset defect. When one connection checkpoints while
another commits at the same instant, a reset of the WAL can be missed and pages of the old WAL be taken for
new ones: the database is corrupt. Checkpointing beside a busy writer is exactly what we do, so an older
SQLite is refused."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apsw

from proto.errors import Corrupt
from shardworker.raft.types import Membership, Term
from shardworker.store.crash_points import CrashPoint
from shardworker.store.errors import IdentityMismatch, SqliteTooOld
from shardworker.store.records import (
    APPLICATION_ID,
    EPOCH_ROW,
    FORMAT_VERSION,
    IDENTITY_ROW,
    MEMBERSHIP_ROW,
    REBUILD_ROW,
    ROW_NAMES,
    SCHEMA,
    STATE_ROW,
    Identity,
    RebuildMark,
    ReplicaState,
    decode_identity,
    decode_membership,
    encode_identity,
    encode_membership,
    row_checksum,
    text_is_damage,
)

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.store.crash_points import CrashPoints

SQLITE_VERSION_MIN = (3, 51, 3)
"""The first release without the WAL-reset defect."""

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Bounds of one replica's database."""

    page_bytes: int = 4096
    """Of a new database. Larger pages scan faster, but random puts then write more WAL."""
    cache_bytes: int = 16 * _MIB
    """Page cache of the writer, at most; grows as pages are used."""
    reader_cache_bytes: int = 4 * _MIB
    """Page cache of each reader's connection, at most."""
    log_cache_bytes: int = 4 * _MIB
    """Newest log entries kept in memory, at most."""
    checkpoint_wal_bytes: int = 16 * _MIB
    """A checkpoint starts when the WAL is longer than this."""
    wal_bytes_max: int = 64 * _MIB
    """From here on the writer checkpoints itself; a WAL that grew past it is cut back when it restarts."""
    exclusive: bool = False
    """No second connection: reads, checkpoints and snapshots use the writer's, and no thread is started.
    For the simulator, whose disk has no shared memory."""


def check_sqlite_version(version: str | None = None) -> None:
    """Raises SqliteTooOld for a SQLite with the WAL-reset defect (see above)."""
    version = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")[:3]) < SQLITE_VERSION_MIN:
        wanted = ".".join(map(str, SQLITE_VERSION_MIN))
        raise SqliteTooOld(
            f"apsw brings SQLite {version}, but boathouse needs {wanted} or later: older ones have the "
            "WAL-reset defect, which can corrupt a database that is written and checkpointed at the same instant. "
            "Install the apsw wheel from the lock file (pip install --force-reinstall 'apsw>=3.54.1')"
        )


class Role(enum.Enum):
    """What a connection is for."""

    WRITER = "writer"
    HELPER = "helper"
    """Checkpoints beside the writer; writes nothing of its own."""
    READER = "reader"


_OPEN_FLAGS = {
    Role.WRITER: apsw.SQLITE_OPEN_READWRITE,
    Role.HELPER: apsw.SQLITE_OPEN_READWRITE,
    Role.READER: apsw.SQLITE_OPEN_READONLY,
}


def connect(path: Path, settings: StoreSettings, *, vfs: str | None, role: Role) -> apsw.Connection:
    """A connection with the store's pragmas.

    No mmap: a page that the disk corrupts must come through read(), where it is an error and not a SIGBUS."""
    connection = apsw.Connection(str(path), flags=_OPEN_FLAGS[role], vfs=vfs, statementcachesize=200)
    # Closing must write nothing by surprise: a planned close checkpoints first, a failed store must not touch
    # the disk.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.set_busy_timeout(10_000)
    if settings.exclusive:
        # First of all, because already the next pragma reads the database.
        # The WAL index then lives on the heap, so a VFS without shared memory will do; temporary files as
        # well.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA temp_store = MEMORY")
    is_writer = role is Role.WRITER
    cache_bytes = settings.cache_bytes if is_writer else settings.reader_cache_bytes
    connection.execute(f"PRAGMA cache_size = -{max(cache_bytes // 1024, 64)}")
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def begin_wal(connection: apsw.Connection, settings: StoreSettings) -> None:
    """Switch the writer's connection to WAL, with checkpoints under our control."""
    connection.execute(f"PRAGMA page_size = {settings.page_bytes}")
    # Of a new database too: free pages can be given back a few at a time, where VACUUM would copy everything at once.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = connection.execute("PRAGMA journal_mode = WAL").get
    assert mode == "wal", f"SQLite answered journal mode {mode}"
    connection.wal_autocheckpoint(0)
    connection.execute(f"PRAGMA journal_size_limit = {settings.wal_bytes_max}")
    connection.execute("PRAGMA synchronous = FULL")


def is_unborn(connection: apsw.Connection) -> bool:
    """Whether creation never committed: the file is there, our tables are not."""
    marks = connection.pragma("user_version"), connection.pragma("application_id")
    return marks == (0, 0) and connection.execute("SELECT count(*) FROM sqlite_schema").get == 0


def create_tables(connection: apsw.Connection, identity: Identity, crash_points: CrashPoints) -> None:
    """Everything a new replica starts from, in one transaction: no crash leaves a half-made database."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    for statement in SCHEMA:
        connection.execute(statement)
    put_row(connection, STATE_ROW, ReplicaState().encode())
    put_row(connection, MEMBERSHIP_ROW, encode_membership(Membership(frozenset())))
    put_row(connection, IDENTITY_ROW, encode_identity(identity))
    crash_points.reach(CrashPoint.CREATE_BEFORE_COMMIT)
    connection.execute("COMMIT")


def put_row(connection: apsw.Connection, row: int, value: bytes) -> None:
    """Write one meta row with its checksum, in the open transaction."""
    connection.execute(
        "REPLACE INTO meta VALUES(?,?,?,?)", (row, ROW_NAMES[row], value, row_checksum(row, value))
    )


def get_row(connection: apsw.Connection, row: int) -> bytes:
    """One meta row's value. Raises Corrupt if it is missing or fails its checksum."""
    with text_is_damage(f"the {ROW_NAMES[row]} row of the replica"):
        found: Any = connection.execute("SELECT value, crc FROM meta WHERE id = ?", (row,)).fetchone()
    if found is None:
        raise Corrupt(f"the {ROW_NAMES[row]} row of the replica is missing")
    value, crc = found
    if not isinstance(value, bytes) or row_checksum(row, value) != crc:
        raise Corrupt(f"the {ROW_NAMES[row]} row of the replica fails its checksum")
    return value


def check_format(connection: apsw.Connection, path: Path) -> None:
    """Raises IdentityMismatch for a database that is not ours, or of a version this program does not read."""
    application_id = connection.pragma("application_id")
    if application_id != APPLICATION_ID:
        raise IdentityMismatch(
            f"{path} is a SQLite database of another program (application id {application_id:#x}); "
            "set data_dir to a folder that boathouse has for itself"
        )
    version = connection.pragma("user_version")
    if version != FORMAT_VERSION:
        raise IdentityMismatch(
            f"{path} has format version {version}, this boathouse reads version {FORMAT_VERSION}; "
            "start it with the version that wrote it, or rebuild the replica in an empty folder"
        )


def read_identity(connection: apsw.Connection) -> Identity:
    return decode_identity(get_row(connection, IDENTITY_ROW))


def read_state(connection: apsw.Connection) -> ReplicaState:
    return ReplicaState.decode(get_row(connection, STATE_ROW))


def read_membership(connection: apsw.Connection) -> Membership:
    return decode_membership(get_row(connection, MEMBERSHIP_ROW))


def read_rebuild_mark(connection: apsw.Connection) -> RebuildMark | None:
    """None unless this replica is being rebuilt."""
    if not connection.execute("SELECT count(*) FROM meta WHERE id = ?", (REBUILD_ROW,)).get:
        return None
    return RebuildMark.decode(get_row(connection, REBUILD_ROW), term_max=Term(read_state(connection).term))


def put_rebuild_mark(connection: apsw.Connection, mark: RebuildMark | None) -> None:
    """Make it this database's mark, or leave it without one, in the open transaction."""
    if mark is None:
        connection.execute("DELETE FROM meta WHERE id = ?", (REBUILD_ROW,))
    else:
        put_row(connection, REBUILD_ROW, mark.encode())


def read_epoch(connection: apsw.Connection) -> int:
    """How often a process has begun to write this database; 0 if none has."""
    if not connection.execute("SELECT count(*) FROM meta WHERE id = ?", (EPOCH_ROW,)).get:
        return 0
    epoch = json.loads(get_row(connection, EPOCH_ROW))
    assert isinstance(epoch, int)
    return epoch


def put_epoch(connection: apsw.Connection, epoch: int) -> None:
    """In the open transaction."""
    put_row(connection, EPOCH_ROW, json.dumps(epoch).encode())


def check_identity(connection: apsw.Connection, path: Path, expected: Identity) -> None:
    """Raises IdentityMismatch when the replica in this file belongs elsewhere."""
    found = read_identity(connection)
    if not found.same_as(expected):
        raise IdentityMismatch(
            f"{path} belongs to {found}, but this worker is {expected}; check cluster, nodes and data_dir in "
            "the cluster file, or move the folder away if its data is no longer wanted"
        )


def check_state(state: ReplicaState, last_index: int) -> None:
    """Raises Corrupt when the saved positions contradict each other or the log."""
    if last_index != state.last_index:
        raise Corrupt(f"the log ends at index {last_index}, but it was written up to {state.last_index}")
    positions = (state.truncated_index, state.applied_index, state.commit, last_index)
    if list(positions) != sorted(positions):
        raise Corrupt(
            "the replica's positions contradict each other: truncated at {}, applied {}, commit {}, "
            "last index {}".format(*positions)
        )
    if state.truncated_term > state.applied_term or state.applied_term > state.term:
        raise Corrupt(
            f"the replica's terms contradict each other: truncated in {state.truncated_term}, "
            f"applied in {state.applied_term}, current {state.term}"
        )
