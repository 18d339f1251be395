"""One replica's database: Raft log, hard state, applied index and the tables' data, in one SQLite file.

A replica's folder holds `replica-<generation>.db` (with SQLite's -wal and -shm beside it) and, for a while,
snapshot files. The highest generation is the replica; installing a snapshot creates the next one (see
snapshot.py). Writes go through `turn()` only: one transaction, at most one sync. DESIGN.md tells the crash
story."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import apsw

from shardworker.raft.types import LogIndex, Term
from shardworker.store import database, folder, rebuild, snapshot, verify
from shardworker.store.birth import Birth, BirthRecord, Lifetime
from shardworker.store.checkpoint import checkpoint
from shardworker.store.context import StoreContext
from shardworker.store.crash_points import NO_CRASH_POINTS
from shardworker.store.database import Role, StoreSettings
from shardworker.store.errors import StorageFailed, translated
from shardworker.store.files import REAL_FILES
from shardworker.store.journal import Journal
from shardworker.store.records import LogEnd, Promises, RebuildMark
from shardworker.store.snapshot import SnapshotReceiver
from shardworker.store.spare import Spare
from shardworker.store.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proto.histogram import Histogram
    from shardworker.raft.types import HardState, Membership
    from shardworker.store.crash_points import CrashPoints
    from shardworker.store.files import Files
    from shardworker.store.log import RaftLog
    from shardworker.store.records import Identity, ReplicaState
    from shardworker.store.snapshot import ReceivedSnapshot, SnapshotFile


class ReplicaStore:
    """The open database of one replica. One thread writes; `reader` and `create_snapshot` may be called by
    others."""

    generation: int
    """Grows when a snapshot is installed; readers of an older generation are to be closed."""

    def __init__(self, context: StoreContext) -> None:
        """Use `open`."""
        self._context = context
        self._record = BirthRecord(context.path, context.files)
        self._lifetime = Lifetime(self._record, context.identity, context.crash_points)
        self._journal = Journal(context, self._lifetime)
        self._lock: int | None = None
        self.spare = Spare(context.path, context.files)
        self._snapshots_made = 0
        self._switching = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        identity: Identity,
        settings: StoreSettings | None = None,
        *,
        vfs: str | None = None,
        files: Files = REAL_FILES,
        crash_points: CrashPoints = NO_CRASH_POINTS,
        alone: bool = False,
    ) -> ReplicaStore:
        """Open the replica in the folder `path`, or create it there; what a crash left behind is cleaned up.

        alone: it was founded as all of its shard, so nobody could tell it what it has lost; whether it has become so
        since, the record of its birth says. A new replica has an empty membership and an empty log.

        Raises DataMissing if a replica was born here whose data is not there, IdentityMismatch if another replica lives
        there, Corrupt if what is read fails a check, StoreInUse, SqliteTooOld, DiskFull, StorageFailed."""
        database.check_sqlite_version()
        store = cls(StoreContext(path, identity, settings or StoreSettings(), vfs, files, crash_points))
        try:
            files.make_folder(path)
            files.close_to_others(path)
            store._lock = files.lock(path)
            store.spare.find()
            store._open(alone=alone)
        except Exception as error:
            store._abandon()
            raise translated(error, f"opening the replica in {path}") from error
        except BaseException:
            store._abandon()
            raise
        return store

    def _open(self, *, alone: bool) -> None:
        record, born = self._record, self._record.read()
        path, files = self._context.path, self._context.files
        generation = folder.current_generation(path, files) or 1
        alone |= born is not None and born.alone
        if born is not None and record.has_lost_database(generation, alone=alone):
            # SQLite would take a log for that of the new database.
            folder.set_logs_aside(path, files, f"lost-{born.replica[:8]}-{born.epoch}")
            folder.remove_database(path, generation, files)
            born = None
        if born is not None:
            record.check_wal(born, generation, alone=alone)
        self.generation = folder.clean_up(path, files)
        if not files.exists(self.file):
            files.create(
                self.file
            )  # SQLite would make it, and what it keeps beside it, for everybody to read
        self._journal.open(self.file, may_create=self.generation == 1)
        found = Birth(self._journal.identity.replica, self._lifetime.epoch)
        if born is not None:
            record.check_database(born, found, self._journal.state, alone=alone)
            self._lifetime.resume(born)
        else:
            if not found.replica:
                # Just made, or of a time before there were births.
                self._journal.name(files.random_bytes(16).hex())
            # Otherwise somebody has removed the record, and means this database.
            self._lifetime.begin(self._journal.identity)
        self._lifetime.stands(alone=self._journal.is_alone(self.membership))
        self._context = replace(self._context, identity=self._journal.identity)

    # ---- the journal's, for everybody -------------------------------------------------------------------------------

    @property
    def connection(self) -> apsw.Connection:
        """The writer. Replaced by install_snapshot."""
        return self._journal.connection

    @property
    def log(self) -> RaftLog:
        """The same object as long as the store is open."""
        return self._journal.log

    @property
    def state(self) -> ReplicaState:
        """The durable positions, as of the last turn."""
        return self._journal.state

    @property
    def membership(self) -> Membership:
        """The configuration as of the applied index."""
        return self._journal.membership

    @property
    def rebuild(self) -> RebuildMark | None:
        """Set while this replica is being rebuilt, and must not vote."""
        return self._journal.rebuild

    @property
    def wal_frames(self) -> int:
        """Length of the write-ahead log in pages, as of the last turn."""
        return self._journal.wal_frames

    def take_sync_seconds(self) -> list[float]:
        """How long the synced commits since the last call took; of many, the last."""
        times = self._journal.sync_seconds
        taken = list(times)
        times.clear()
        return taken

    def durations(self) -> dict[str, Histogram]:
        """How long the commits of this process took, by kind."""
        return {"wal_fsync": self._journal.syncs, "commit": self._journal.commits}

    def steady_s(self) -> float:
        """Seconds of the clock that they are measured by, which only goes forward."""
        return self._context.files.steady_s()

    @property
    def crash_points(self) -> CrashPoints:
        return self._context.crash_points

    @property
    def identity(self) -> Identity:
        return self._context.identity

    @property
    def path(self) -> Path:
        """The replica's folder."""
        return self._context.path

    @property
    def files(self) -> Files:
        """How files in that folder are handled."""
        return self._context.files

    # ---- what is durable ----------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """The current database file."""
        return folder.database_file(self.path, self.generation)

    @property
    def hard_state(self) -> HardState:
        return self.state.hard_state

    @property
    def applied_index(self) -> LogIndex:
        return LogIndex(self.state.applied_index)

    @property
    def applied_term(self) -> Term:
        return Term(self.state.applied_term)

    @property
    def applied(self) -> LogEnd:
        """The last entry that is applied."""
        return LogEnd(self.applied_term, self.applied_index)

    def database_bytes(self) -> int:
        """Size of the database file and its WAL."""
        file = self.file
        return self._context.files.size(file) + self._context.files.size(folder.wal_of(file))

    def database_in_use_bytes(self) -> int:
        """Bytes of the database's pages that hold something."""
        pages = self.connection.pragma("page_count") - self.connection.pragma("freelist_count")
        return int(pages * self.connection.pragma("page_size"))

    def reusable_bytes(self) -> int:
        """Bytes of the database's pages that hold nothing any more: the next rows go there."""
        return self.free_pages() * int(self.connection.pragma("page_size"))

    def free_pages(self) -> int:
        """Pages of the database that hold nothing any more."""
        return int(self.connection.pragma("freelist_count"))

    def give_back_pages(self, pages_max: int) -> int:
        """Shorten the database by at most so many free pages, in the open turn; how many free ones are left. The file
        itself gets shorter with the next checkpoint."""
        # A row for each page: it goes on as far as it is read.
        self.connection.execute(f"PRAGMA incremental_vacuum({pages_max})").fetchall()
        return self.free_pages()

    def free_bytes(self) -> int:
        """What may still be written to this replica's disk; cheap enough for every tick."""
        return self._context.files.free_bytes(self.path)

    @property
    def wal_bytes(self) -> int:
        """Length of the write-ahead log as of the last turn. It grows over its bound while a reader needs what it
        holds."""
        return self.wal_frames * self._context.settings.page_bytes

    def reader(self) -> apsw.Connection:
        """A connection that reads beside the writer; give it back to `close_reader`. Any thread may call
        this.

        With StoreSettings.exclusive it is the writer's own connection. Raises StorageFailed, Corrupt."""
        if self._context.settings.exclusive:
            return self.connection
        with self._switching:  # the database and its WAL are opened one after the other, and belong together
            try:
                return database.connect(
                    self.file, self._context.settings, vfs=self._context.vfs, role=Role.READER
                )
            except apsw.Error as error:
                raise translated(error, f"opening a reader of {self.file}") from error

    def close_reader(self, connection: apsw.Connection) -> None:
        """Close what `reader` gave."""
        if connection is not self.connection:
            connection.close()

    # ---- snapshots -----------------------------------------------------------------------------------------

    def create_snapshot(self, give_way: Callable[[float], None] = lambda took_s: None) -> SnapshotFile:
        """A consistent copy of the state at some applied index, as a file; the writer goes on meanwhile.

        Takes as long as copying the database: call it in another thread. give_way: is told, now and then, how long the
        last few megabytes took, and may rest. `remove` the result when it was sent. Raises DiskFull, StorageFailed."""
        self._snapshots_made += 1
        source = self.reader()
        try:
            return snapshot.create(self._context, source, self._snapshots_made, give_way)
        finally:
            self.close_reader(source)

    def receive_snapshot(self, stream: int, total_bytes: int) -> SnapshotReceiver:
        """Begin to take a peer's copy. Raises DiskFull if it would not fit, StorageFailed."""
        return SnapshotReceiver(self._context, stream, total_bytes)

    def install_snapshot(self, received: ReceivedSnapshot, hard_state: HardState | None) -> None:
        """Become the replica that `received` holds, with the core's hard state; durable on return.

        `connection` is a new one afterwards and `generation` has grown; `log` stays the same object, empty
        behind the snapshot's index. Raises DiskFull or StorageFailed before anything changed; if the disk
        fails later, StorageFailed ends this store, and the next start finds the old replica or the new
        one."""
        if self._journal.failed is not None:
            raise self._journal.failed
        assert received.meta.index > self.applied_index, "a snapshot brings a replica forward"
        wanted = hard_state or self.hard_state
        assert wanted.term >= self.state.term, "the term never goes back"
        assert wanted.term >= received.meta.term, "who takes a snapshot has seen its sender's term"
        try:
            snapshot.prepare_install(self._context, received, wanted, self.rebuild, self._lifetime.epoch)
            self._lifetime.replace_database()
        except Exception as error:
            raise self._journal.refused(error, f"preparing {received.path}") from error
        try:
            with self._switching:
                self._journal.close()
                snapshot.switch_generation(self._context, received.path, self.generation + 1)
                self.generation += 1
                self._journal.open(self.file, may_create=False)
                self._lifetime.stands(alone=self._journal.is_alone(self.membership))
        except Exception as error:
            failed = StorageFailed(f"installing a snapshot in {self.path} failed half way: {error}")
            self._journal.fail(failed)
            raise failed from error

    def begin_rebuild(self, reason: str, lost: Promises | None = None) -> None:
        """Give up log, membership and tables; keep identity, term and vote. Durable on return, and this store refuses
        every further turn: the replica that is to be rebuilt is opened anew. lost: what the replica had promised, if
        this store does not hold it.

        Raises DiskFull or StorageFailed; the replica in the folder is then the old one or the new one."""
        promised = lost or Promises(self.hard_state.term, self.hard_state.vote, self.log.end())
        until = promised.last if self.rebuild is None else max(promised.last, self.rebuild.until)
        self._journal.close()
        self._journal.fail(StorageFailed(f"the replica in {self.path} is to be rebuilt"))
        try:
            mark = RebuildMark(until, reason)
            rebuild.start_over(
                self._context, self.generation, promised, mark, self._lifetime.birth, self._lifetime.epoch
            )
        except Exception as error:
            raise translated(error, f"starting the replica in {self.path} over") from error

    def discard_received(self, received: ReceivedSnapshot) -> None:
        """Give the space of a copy back that turned out not to be needed."""
        snapshot.remove_copy(self._context.files, received.path)

    def verify(self) -> list[str]:
        """What is wrong with the database, a sentence each; empty if nothing is. Any thread, seconds for a
        million keys."""
        connection = self.reader()
        try:
            return verify.verify(connection)
        finally:
            self.close_reader(connection)

    # ---- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Orderly end: what is in the WAL is copied into the database if the disk allows, so the next start
        is quick.

        Readers should be closed before. Nothing depends on this being called."""
        if self._journal.failed is None:
            # An empty WAL, if no reader is in the way: a bit that flips in a WAL at rest looks like a torn end to
            # SQLite, which then drops what follows without a word. In the database file we would notice.
            self._journal.end_checkpoints()
            self.connection.set_busy_timeout(0)
            if self._record_end():
                checkpoint(
                    self.connection,
                    self._context.files,
                    self.crash_points,
                    apsw.SQLITE_CHECKPOINT_TRUNCATE,
                )
        self._journal.close()
        if self._lock is not None:
            self.spare.give_up()
            self._context.files.unlock(self._lock)
            self._lock = None

    def _record_end(self) -> bool:
        """Tell where this replica stands, before its write-ahead log is emptied. False if the disk does not take it:
        then the log has to stay."""
        try:
            wal = folder.wal_of(self.file)
            if self._context.files.size(wal):
                self._context.files.sync(wal)  # what the record says of its newest turns has to be true
            self._lifetime.end(self.state)
        except OSError:
            return False
        return True

    def _abandon(self) -> None:
        """Let go of everything after a failed `open`, writing nothing."""
        self._journal.abandon()
        if self._lock is not None:
            self._context.files.unlock(self._lock)

    # ---- a turn -------------------------------------------------------------------------------------------

    def turn(self, *, sync: bool) -> Turn:
        """A transaction, to be entered with `with`: committed at the end, rolled back on any exception.

        sync: it survives a power cut once committed; otherwise it only survives the death of the process
        until the next turn with sync. Raises DiskFull (nothing changed, try again later), StorageFailed (stop
        the process)."""
        return Turn(self._journal, sync)
