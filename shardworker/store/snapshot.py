"""Whole copies of a replica's database, for a peer whose log is too far behind.

Made: SQLite's backup copies the pages inside one read transaction, so the copy is the state of one applied
index however busy the writer is. Then the sender's log goes, the pages that hold nothing go, and its positions become
"everything up to that index, and nothing after". The file is a plain SQLite database without a WAL.

It is never synced: the next start removes what a crash leaves of it, and to sync a whole database at once holds up
everybody's syncs on that disk as long (0.6 s for 300 MB, where others take 4 ms).

Received: chunk by chunk into a temporary file, hashed and synced on the way, a few megabytes at a time. Once complete
it is checked three times: its SHA-256, SQLite's own check of its pages, and that it is what the sender's Raft message
announced.

Installed: the file gets this replica's identity and hard state (a vote is never forgotten, whatever arrives),
is synced, and one rename makes it the next generation (see folder.py). Before the rename the replica is the
old one, after it the new one; both are whole.

Rejected: VACUUM INTO, which took 2.4 times as long on a million keys (1.66 s against 0.69 s) to save 1 % of
the size; copying the tables into the open database, which would make the install a transaction as long as the
state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import apsw

from proto.errors import Corrupt
from shardworker.raft.types import LogIndex, SnapshotMeta, Term
from shardworker.store import database, folder
from shardworker.store.crash_points import CrashPoint
from shardworker.store.database import Role
from shardworker.store.errors import DiskFull, IdentityMismatch, SnapshotRejected, translated
from shardworker.store.records import IDENTITY_ROW, STATE_ROW, ReplicaState, encode_identity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shardworker.raft.types import HardState
    from shardworker.store.context import StoreContext
    from shardworker.store.files import Files
    from shardworker.store.records import RebuildMark

_PAGES_PER_STEP = 1024
"""4 MiB between two releases of the interpreter lock, and two rests."""

_HASH_BYTES = 4 << 20
"""Read and hashed between two rests."""

_SYNC_BYTES = 8 << 20
"""Received between two syncs: others' syncs on the same disk wait for no more than this."""

_SPARE_BYTES = 64 << 20
"""Left free on the disk by whoever makes or receives a copy: the writer must not meet a full disk because of
it."""


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A finished copy on this replica's disk. A crash discards it."""

    path: Path
    meta: SnapshotMeta
    size_bytes: int
    sha256: bytes
    files: Files

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length) of it; fewer only at its end."""
        return self.files.read(self.path, offset, length)

    def remove(self) -> None:
        """Give its space back."""
        self.files.unlink(self.path)


def create(
    context: StoreContext, source: apsw.Connection, number: int, give_way: Callable[[float], None]
) -> SnapshotFile:
    """Copy the database behind `source` (a connection without an open transaction) into a snapshot file. give_way: see
    ReplicaStore.create_snapshot.

    Raises DiskFull before the copy would take the writer's last space, StorageFailed."""
    files = context.files
    path = context.path / f"snapshot-{number}.tmp"
    try:
        pages = source.pragma("page_count") * source.pragma("page_size")
        check_space(context, pages)
        _copy(context, source, path, give_way)
        context.crash_points.reach(CrashPoint.SNAPSHOT_COPIED)
        meta = _strip(context, path, give_way)
        context.crash_points.reach(CrashPoint.SNAPSHOT_STRIPPED)
        return SnapshotFile(path, meta, files.size(path), _sha256(files, path, give_way), files)
    except Exception as error:
        remove_copy(files, path)
        raise translated(error, f"making the snapshot {path}") from error


def check_space(context: StoreContext, needed: int) -> None:
    """Raises DiskFull when a file of this size would leave too little for the writer."""
    free = context.files.free_bytes(context.path)
    if free < needed + _SPARE_BYTES:
        raise DiskFull(f"a snapshot of {needed} bytes does not fit beside the replica: {free} bytes are free")


def remove_copy(files: Files, path: Path) -> None:
    """Remove a copy and what SQLite may have left beside it."""
    for file in (path, *folder.side_files(path)):
        files.unlink(file)


def _copy(
    context: StoreContext, source: apsw.Connection, path: Path, give_way: Callable[[float], None]
) -> None:
    remove_copy(context.files, path)
    context.files.create(path)
    target = open_copy(context, path, Role.WRITER)
    # The source's own connection sees its own later writes, so there the copy is one step.
    alone = context.settings.exclusive
    if not alone:
        source.execute("BEGIN")
        source.execute(
            "SELECT count(*) FROM sqlite_schema"
        ).fetchall()  # the snapshot begins with the first read
    try:
        with target.backup("main", source, "main") as backup:
            while not backup.done:
                began_s = context.files.steady_s()
                backup.step(-1 if alone else _PAGES_PER_STEP)
                give_way(context.files.steady_s() - began_s)
    finally:
        if not alone and source.in_transaction:  # a failed read may have ended it
            source.execute("ROLLBACK")
        target.close()


def open_copy(context: StoreContext, path: Path, role: Role) -> apsw.Connection:
    """A connection to a file that nobody else knows. A crash discards it, so it needs neither journal nor
    sync until it is complete."""
    connection = database.connect(path, context.settings, vfs=context.vfs, role=role)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)  # it forbids to write without a journal
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def drop_journal(copy: apsw.Connection) -> None:
    mode = copy.execute("PRAGMA journal_mode = OFF").get
    assert mode == "off", f"SQLite kept the journal mode {mode}"


def _strip(context: StoreContext, path: Path, give_way: Callable[[float], None]) -> SnapshotMeta:
    """Leave the state and take everything that belongs to its sender; the file needs no WAL afterwards."""
    copy = open_copy(context, path, Role.WRITER)
    try:
        drop_journal(copy)
        state = database.read_state(copy)
        meta = SnapshotMeta(
            LogIndex(state.applied_index), Term(state.applied_term), database.read_membership(copy)
        )
        copy.execute("BEGIN IMMEDIATE")
        copy.execute("DELETE FROM log")
        database.put_row(copy, STATE_ROW, _state_after(meta, term=state.applied_term, vote=0).encode())
        database.put_rebuild_mark(copy, None)
        copy.execute("COMMIT")
        # A long log leaves many. Each costs a page that is moved; VACUUM would write all of the others anew.
        for _ in range(0, copy.pragma("freelist_count"), _PAGES_PER_STEP):
            began_s = context.files.steady_s()
            copy.execute(f"PRAGMA incremental_vacuum({_PAGES_PER_STEP})").fetchall()
            give_way(context.files.steady_s() - began_s)
        return meta
    finally:
        copy.close()


def _state_after(meta: SnapshotMeta, *, term: int, vote: int) -> ReplicaState:
    """The positions of a replica that holds exactly this snapshot."""
    return ReplicaState(term, vote, meta.index, meta.index, meta.term, meta.index, meta.term, meta.index)


def _sha256(files: Files, path: Path, give_way: Callable[[float], None]) -> bytes:
    digest = hashlib.sha256()
    offset, began_s = 0, files.steady_s()
    while block := files.read(path, offset, _HASH_BYTES):
        digest.update(block)
        offset += len(block)
        give_way(files.steady_s() - began_s)
        began_s = files.steady_s()
    return digest.digest()


class SnapshotReceiver:
    """A copy on its way in. One at a time per replica; a new attempt starts a new one."""

    def __init__(self, context: StoreContext, stream: int, total_bytes: int) -> None:
        """Raises DiskFull if it would not fit, StorageFailed."""
        self._context = context
        self._total_bytes = total_bytes
        self._digest = hashlib.sha256()
        self.stream = stream
        self.path = context.path / f"receive-{stream:016x}.tmp"
        self.received_bytes = 0
        self._unsynced_bytes = 0
        try:
            check_space(context, total_bytes)
            remove_copy(context.files, self.path)
            context.files.create(self.path)
        except OSError as error:
            raise translated(error, f"beginning to receive {self.path}") from error
        context.crash_points.reach(CrashPoint.RECEIVE_CREATED)

    def write(self, offset: int, data: bytes) -> int:
        """Take a chunk if it is the next one; returns how many bytes are here without a gap.

        A repeated or early chunk changes nothing: the returned number tells the sender where to go on. Raises
        SnapshotRejected past the announced size, DiskFull, StorageFailed; then `discard`."""
        if offset == self.received_bytes and data:
            if offset + len(data) > self._total_bytes:
                raise SnapshotRejected(f"a snapshot of {self._total_bytes} bytes sends more than that")
            try:
                self._context.files.write(self.path, offset, data)
                self._maybe_sync(len(data))
            except OSError as error:
                raise translated(error, f"receiving {self.path}") from error
            self._digest.update(data)
            self.received_bytes += len(data)
            self._context.crash_points.reach(CrashPoint.RECEIVE_CHUNK)
        return self.received_bytes

    def _maybe_sync(self, written_bytes: int) -> None:
        self._unsynced_bytes += written_bytes
        if self._unsynced_bytes >= _SYNC_BYTES:
            self._context.files.sync(self.path)
            self._unsynced_bytes = 0

    def finish(self, meta: SnapshotMeta, sha256: bytes) -> ReceivedSnapshot:
        """Check everything there is to check; the result can be installed. May run in another thread.

        Raises SnapshotRejected and removes the file if it is not the announced snapshot of this shard."""
        try:
            if self.received_bytes != self._total_bytes:
                raise SnapshotRejected(
                    f"{self.received_bytes} of {self._total_bytes} bytes of a snapshot arrived"
                )
            if self._digest.digest() != sha256:
                raise SnapshotRejected("a snapshot arrived with other bytes than were sent (SHA-256 differs)")
            self._context.files.sync(self.path)
            self._context.crash_points.reach(CrashPoint.RECEIVE_SYNCED)
            _check_copy(self._context, self.path, meta)
            self._context.crash_points.reach(CrashPoint.RECEIVE_VERIFIED)
        except Exception as error:
            self.discard()
            raise translated(error, f"checking {self.path}") from error
        return ReceivedSnapshot(self.path, meta, self._total_bytes)

    def discard(self) -> None:
        """Give up this attempt and its space."""
        remove_copy(self._context.files, self.path)


@dataclass(frozen=True, slots=True)
class ReceivedSnapshot:
    """A complete and checked copy, ready for `ReplicaStore.install_snapshot`."""

    path: Path
    meta: SnapshotMeta
    size_bytes: int


def _check_copy(context: StoreContext, path: Path, announced: SnapshotMeta) -> None:
    """Raises SnapshotRejected unless the file is a sound copy of this shard at the announced index."""
    try:
        copy = open_copy(context, path, Role.WRITER)
        try:
            # Not integrity_check: that compares every index with its table and takes six times as long; a
            # copy of a sound database whose bytes arrived unchanged has sound indexes.
            complaint = copy.execute("PRAGMA quick_check(1)").get
            if complaint != "ok":
                raise SnapshotRejected(f"the snapshot's pages are damaged: {complaint}")
            database.check_format(copy, path)
            sender = database.read_identity(copy)
            state, membership = database.read_state(copy), database.read_membership(copy)
            if copy.execute("SELECT count(*) FROM log").get:
                raise SnapshotRejected("the snapshot carries its sender's log")
        finally:
            copy.close()
    except (apsw.Error, Corrupt, IdentityMismatch) as error:
        raise SnapshotRejected(f"the snapshot cannot be read: {error}") from error
    if (sender.cluster_id, sender.shard) != (context.identity.cluster_id, context.identity.shard):
        raise SnapshotRejected(f"the snapshot comes from {sender}, this replica is {context.identity}")
    found = SnapshotMeta(LogIndex(state.applied_index), Term(state.applied_term), membership)
    if found != announced:
        raise SnapshotRejected(f"the snapshot holds {found}, but its sender announced {announced}")


def prepare_install(
    context: StoreContext,
    received: ReceivedSnapshot,
    hard_state: HardState,
    mark: RebuildMark | None,
    epoch: int,
) -> None:
    """Make the received file this replica's own: its identity, term, vote, mark and epoch. Durable on return.

    With a journal, unlike the rest: should the disk be full just now, the same file is tried again later."""
    copy = open_copy(context, received.path, Role.WRITER)
    try:
        copy.execute("BEGIN IMMEDIATE")
        state = _state_after(received.meta, term=hard_state.term, vote=hard_state.vote)
        database.put_row(copy, STATE_ROW, state.encode())
        database.put_row(copy, IDENTITY_ROW, encode_identity(context.identity))
        database.put_rebuild_mark(copy, mark)
        database.put_epoch(copy, epoch)
        copy.execute("COMMIT")
    finally:
        copy.close()
    context.files.sync(received.path)
    context.crash_points.reach(CrashPoint.INSTALL_PREPARED)


def switch_generation(context: StoreContext, prepared: Path, generation: int) -> None:
    """Rename the prepared file to `generation`: from then on it is the replica. Durable on return; then the
    old generation's files go."""
    files = context.files
    file = folder.database_file(context.path, generation)
    assert not any(files.exists(path) for path in (file, *folder.side_files(file))), f"{file} is taken"
    files.rename(prepared, file)
    context.crash_points.reach(CrashPoint.INSTALL_RENAMED)
    files.sync_folder(context.path)
    context.crash_points.reach(CrashPoint.INSTALL_SYNCED)
    remove_copy(files, folder.database_file(context.path, generation - 1))
    context.crash_points.reach(CrashPoint.INSTALL_CLEANED)
