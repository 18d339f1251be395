"""One replica's database: Raft log, hard state, applied index and the tables' data, in one SQLite file.

A replica's folder holds `replica-<generation>.db` (with SQLite's -wal and -shm beside it) and, for a while,
snapshot files. The highest generation is the replica; installing a snapshot creates the next one (see
snapshot.py). Writes go through `turn()` only: one transaction, at most one sync. DESIGN.md tells the crash
story."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import apsw

from proto.errors import Corrupt
from shardworker.raft.types import HardState, LogIndex, Membership, SnapshotMeta, Term
from shardworker.store import database, folder, rebuild, snapshot, verify
from shardworker.store.birth import Birth, BirthRecord
from shardworker.store.checkpoint import BackgroundCheckpointer, InlineCheckpointer, checkpoint
from shardworker.store.crash_points import NO_CRASH_POINTS, CrashPoint
from shardworker.store.database import Role, StoreSettings
from shardworker.store.errors import StorageFailed, translated
from shardworker.store.files import REAL_FILES
from shardworker.store.log import RaftLog
from shardworker.store.records import IDENTITY_ROW, RebuildMark, encode_identity
from shardworker.store.snapshot import SnapshotReceiver, Surroundings
from shardworker.store.turn import Turn

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.store.checkpoint import Checkpointer
    from shardworker.store.crash_points import CrashPoints
    from shardworker.store.files import Files
    from shardworker.store.records import Identity, ReplicaState
    from shardworker.store.snapshot import ReceivedSnapshot, SnapshotFile


class ReplicaStore:
    """The open database of one replica. One thread writes; `reader` and `create_snapshot` may be called by
    others."""

    connection: apsw.Connection
    """The writer. Replaced by install_snapshot."""
    log: RaftLog
    state: ReplicaState
    """The durable positions, as of the last turn."""
    membership: Membership
    """The configuration as of the applied index."""
    rebuild: RebuildMark | None
    """Set while this replica is being rebuilt, and must not vote."""
    generation: int
    """Grows when a snapshot is installed; readers of an older generation are to be closed."""

    def __init__(
        self,
        path: Path,
        identity: Identity,
        settings: StoreSettings,
        vfs: str | None,
        files: Files,
        crash_points: CrashPoints,
    ) -> None:
        """Use `open`."""
        self.path = path
        self.identity = identity
        self.settings = settings
        self.vfs = vfs
        self.files = files
        self.crash_points = crash_points
        self.wal_frames = 0
        self.log = RaftLog(settings.log_cache_bytes, self.snapshot_meta)
        self._failed: StorageFailed | None = None
        self._lock: int | None = None
        self._checkpointer: Checkpointer
        self._sync = True
        self._snapshots_made = 0
        self._switching = threading.Lock()
        self._record = BirthRecord(path, files)
        self._birth: Birth
        self._epoch = 0
        self._is_written = False
        """Whether the record knows that this process writes to this generation."""

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

        alone: it is all of its shard, so nobody could tell it what it has lost. A new replica has an empty membership
        and an empty log. Raises DataMissing if a replica was born here whose data is not there, IdentityMismatch if
        another replica lives there, Corrupt if what is read fails a check, StoreInUse, SqliteTooOld, DiskFull,
        StorageFailed."""
        database.check_sqlite_version()
        store = cls(path, identity, settings or StoreSettings(), vfs, files, crash_points)
        try:
            files.make_folder(path)
            files.close_to_others(path)
            store._lock = files.lock(path)
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
        generation = folder.current_generation(self.path, self.files)
        if born is not None and record.has_lost_database(generation, alone=alone):
            born = None
            # SQLite would take a log for that of the new database.
            folder.remove_database(self.path, generation or 1, self.files)
        if born is not None:
            record.check_wal(born, generation or 1, alone=alone)
        self.generation = folder.clean_up(self.path, self.files)
        self._open_generation()
        found = Birth(self.identity.replica, self._epoch)
        if born is not None:
            record.check_database(born, found, self.state, alone=alone)
            self._birth = born
        else:
            self._set_birth(self._adopted(found))

    def _adopted(self, found: Birth) -> Birth:
        """A database without a record: just made, or of a time before there were records, or somebody removed it."""
        # Whether it needs its log nobody knows; the first turn will write to it.
        if found.replica:
            return found
        self.identity = replace(self.identity, replica=self.files.random_bytes(16).hex())
        self.connection.execute("BEGIN IMMEDIATE")
        database.put_row(self.connection, IDENTITY_ROW, encode_identity(self.identity))
        self.connection.execute("COMMIT")
        return Birth(self.identity.replica, found.epoch)

    def _set_birth(self, birth: Birth) -> None:
        """Durable on return. Raises OSError."""
        self._record.write(birth, self.identity)
        self._birth = birth
        self.crash_points.reach(CrashPoint.BIRTH_RECORDED)

    def _open_generation(self) -> None:
        """Open the database file of self.generation and load what memory holds of it."""
        file = self.file
        if not self.files.exists(file):
            self.files.create(
                file
            )  # SQLite would make it readable for everybody, and what it keeps beside it as well
        self.connection = database.connect(file, self.settings, vfs=self.vfs, role=Role.WRITER)
        self._execute = self.connection.cursor().execute
        if database.is_unborn(self.connection):
            if self.generation != 1:
                raise Corrupt(f"{file} is empty")
            database.begin_wal(self.connection, self.settings)
            database.create_tables(self.connection, self.identity, self.crash_points)
            self.crash_points.reach(CrashPoint.CREATE_COMMITTED)
            self.files.sync_folder(self.path)
        else:
            database.check_format(self.connection, file)
            database.check_identity(self.connection, file, self.identity)
            database.begin_wal(self.connection, self.settings)
        self.identity = database.read_identity(self.connection)
        self._epoch = database.read_epoch(self.connection)
        self._is_written = False
        self.state = database.read_state(self.connection)
        self.membership = database.read_membership(self.connection)
        self.rebuild = database.read_rebuild_mark(self.connection)
        self.log.load(self.connection, self.state.truncated_index, self.state.truncated_term)
        database.check_state(self.state, self.log.last_index())
        self._sync = True
        self.wal_frames = 0
        self.connection.set_wal_hook(self._note_wal)
        checkpointer = InlineCheckpointer if self.settings.exclusive else BackgroundCheckpointer
        self._checkpointer = checkpointer(self)

    @property
    def _around(self) -> Surroundings:
        return Surroundings(self.path, self.identity, self.settings, self.vfs, self.files, self.crash_points)

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

    def snapshot_meta(self) -> SnapshotMeta:
        """What the database's data stands for now."""
        return SnapshotMeta(self.applied_index, self.applied_term, self.membership)

    def database_bytes(self) -> int:
        """Size of the database file and its WAL."""
        file = self.file
        return self.files.size(file) + self.files.size(folder.wal_of(file))

    def database_in_use_bytes(self) -> int:
        """Bytes of the database's pages that hold something."""
        pages = self.connection.pragma("page_count") - self.connection.pragma("freelist_count")
        return int(pages * self.connection.pragma("page_size"))

    def reusable_bytes(self) -> int:
        """Bytes of the database's pages that hold nothing any more: the next rows go there."""
        return int(self.connection.pragma("freelist_count") * self.connection.pragma("page_size"))

    def free_bytes(self) -> int:
        """What may still be written to this replica's disk; cheap enough for every tick."""
        return self.files.free_bytes(self.path)

    @property
    def wal_bytes(self) -> int:
        """Length of the write-ahead log as of the last turn. It grows over its bound while a reader needs what it
        holds."""
        return self.wal_frames * self.settings.page_bytes

    @property
    def checkpoint_frames(self) -> int:
        """Length of the WAL, in pages, at which a checkpoint starts."""
        return self.settings.checkpoint_wal_bytes // self.settings.page_bytes

    @property
    def wal_frames_max(self) -> int:
        """Length of the WAL, in pages, at which the writer is slowed down."""
        return self.settings.wal_bytes_max // self.settings.page_bytes

    # ---- other connections --------------------------------------------------------------------------------

    def reader(self) -> apsw.Connection:
        """A connection that reads beside the writer; give it back to `close_reader`. Any thread may call
        this.

        With StoreSettings.exclusive it is the writer's own connection. Raises StorageFailed, Corrupt."""
        if self.settings.exclusive:
            return self.connection
        with self._switching:  # the database and its WAL are opened one after the other, and belong together
            try:
                return database.connect(self.file, self.settings, vfs=self.vfs, role=Role.READER)
            except apsw.Error as error:
                raise translated(error, f"opening a reader of {self.file}") from error

    def close_reader(self, connection: apsw.Connection) -> None:
        """Close what `reader` gave."""
        if connection is not self.connection:
            connection.close()

    # ---- snapshots -----------------------------------------------------------------------------------------

    def create_snapshot(self) -> SnapshotFile:
        """A consistent copy of the state at some applied index, as a file; the writer goes on meanwhile.

        Takes as long as copying the database: call it in another thread. `remove` the result when it was
        sent. Raises DiskFull, StorageFailed."""
        self._snapshots_made += 1
        source = self.reader()
        try:
            return snapshot.create(self._around, source, self._snapshots_made)
        finally:
            self.close_reader(source)

    def receive_snapshot(self, stream: int, total_bytes: int) -> SnapshotReceiver:
        """Begin to take a peer's copy. Raises DiskFull if it would not fit, StorageFailed."""
        return SnapshotReceiver(self._around, stream, total_bytes)

    def install_snapshot(self, received: ReceivedSnapshot, hard_state: HardState | None) -> None:
        """Become the replica that `received` holds, with the core's hard state; durable on return.

        `connection` is a new one afterwards and `generation` has grown; `log` stays the same object, empty
        behind the snapshot's index. Raises DiskFull or StorageFailed before anything changed; if the disk
        fails later, StorageFailed ends this store, and the next start finds the old replica or the new
        one."""
        if self._failed is not None:
            raise self._failed
        assert received.meta.index > self.applied_index, "a snapshot brings a replica forward"
        wanted = hard_state or self.hard_state
        assert wanted.term >= self.state.term, "the term never goes back"
        assert wanted.term >= received.meta.term, "who takes a snapshot has seen its sender's term"
        try:
            snapshot.prepare_install(self._around, received, wanted, self.rebuild, self._epoch)
            self._set_birth(self._birth.replaced())
        except Exception as error:
            raise self._refused(error, f"preparing {received.path}") from error
        try:
            self._checkpointer.close()
            with self._switching:
                self.connection.close()
                snapshot.switch_generation(self._around, received.path, self.generation + 1)
                self.generation += 1
                self._open_generation()
        except Exception as error:
            failed = StorageFailed(f"installing a snapshot in {self.path} failed half way: {error}")
            self._fail(failed)
            raise failed from error

    def begin_rebuild(self, reason: str, lost: ReplicaState | None = None) -> None:
        """Give up log, membership and tables; keep identity, term and vote. Durable on return, and this store refuses
        every further turn: the replica that is to be rebuilt is opened anew. lost: term, vote and last index that the
        replica had, if this store does not hold them.

        Raises DiskFull or StorageFailed; the replica in the folder is then the old one or the new one."""
        state = lost or self.state
        until = max(state.last_index, self.rebuild.until if self.rebuild else 0)
        self._checkpointer.close()
        self.connection.close()
        self._fail(StorageFailed(f"the replica in {self.path} is to be rebuilt"))
        try:
            mark = RebuildMark(LogIndex(until), reason)
            rebuild.start_over(self._around, self.generation, state, mark, self._birth, self._epoch)
        except Exception as error:
            raise translated(error, f"starting the replica in {self.path} over") from error

    def discard_received(self, received: ReceivedSnapshot) -> None:
        """Give the space of a copy back that turned out not to be needed."""
        snapshot.remove_copy(self.files, received.path)

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
        self._checkpointer.close()
        if self._failed is None:
            # An empty WAL, if no reader is in the way: a bit that flips in a WAL at rest looks like a torn end to
            # SQLite, which then drops what follows without a word. In the database file we would notice.
            self.connection.set_busy_timeout(0)
            if self._record_end():
                checkpoint(self.connection, self, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self.connection.close()
        if self._lock is not None:
            self.files.unlock(self._lock)
            self._lock = None

    def _record_end(self) -> bool:
        """Tell where this replica stands, before its write-ahead log is emptied. False if the disk does not take it:
        then the log has to stay."""
        try:
            wal = folder.wal_of(self.file)
            if self.files.size(wal):
                self.files.sync(wal)  # what the record says of its newest turns has to be true
            self._set_birth(self._birth.ended(self._epoch, self.state))
        except OSError:
            return False
        return True

    def _abandon(self) -> None:
        """Let go of everything after a failed `open`, writing nothing."""
        connection = getattr(self, "connection", None)
        if connection is not None:
            connection.close()
        if self._lock is not None:
            self.files.unlock(self._lock)

    # ---- a turn -------------------------------------------------------------------------------------------

    def turn(self, *, sync: bool) -> Turn:
        """A transaction, to be entered with `with`: committed at the end, rolled back on any exception.

        sync: it survives a power cut once committed; otherwise it only survives the death of the process
        until the next turn with sync. Raises DiskFull (nothing changed, try again later), StorageFailed (stop
        the process)."""
        return Turn(self, sync)

    def begin(self, *, sync: bool) -> None:
        """For Turn: open the transaction."""
        if self._failed is not None:
            raise self._failed
        try:
            if not self._is_written:
                self._begin_to_write()
            if sync is not self._sync:
                self._execute("PRAGMA synchronous = FULL" if sync else "PRAGMA synchronous = NORMAL")
                self._sync = sync
            self._execute("BEGIN IMMEDIATE")
        except (apsw.Error, OSError) as error:
            raise self._refused(error, "beginning a turn") from error
        self.crash_points.reach(CrashPoint.TURN_BEGUN)

    def _begin_to_write(self) -> None:
        """From here on the write-ahead log is needed, and an older copy of the database is known as one (birth.py)."""
        if self._epoch == self._birth.epoch:
            self._execute("BEGIN IMMEDIATE")
            try:
                database.put_epoch(self.connection, self._epoch + 1)
                self._execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self._execute("ROLLBACK")
                raise
            self._epoch += 1
            self.crash_points.reach(CrashPoint.EPOCH_COMMITTED)
        self._set_birth(self._birth.written(self._epoch))
        self._is_written = True

    def execute(self, sql: str, bindings: tuple[Any, ...] = ()) -> None:
        """For Turn: a statement on the writer's connection."""
        self._execute(sql, bindings)

    def committed(self, state: ReplicaState | None, membership: Membership | None) -> None:
        """For Turn: COMMIT returned; memory follows."""
        if state is not None:
            self.state = state
        if membership is not None:
            self.membership = membership
        self.log.committed()
        self.crash_points.reach(CrashPoint.COMMIT_DONE)
        try:
            self._checkpointer.after_commit(self.wal_frames)
        except Exception as error:
            self._fail(error)
            raise

    def roll_back(self, error: BaseException) -> None:
        """For Turn: undo the transaction, then raise what `error` means to the store, if it means anything.

        Whatever goes wrong here never hides `error`, which came first."""
        self.log.rolled_back()
        try:
            if self.connection.in_transaction:
                self._execute("ROLLBACK")
        except apsw.Error as second:
            error.add_note(f"the rollback failed as well: {second}")
            self._fail(StorageFailed(f"a rollback failed: {second}"))
        if isinstance(error, apsw.Error):
            refused = self._refused(error, "writing a turn")
            if refused is not error:
                raise refused from error

    def _refused(self, error: Exception, doing: str) -> Exception:
        refused = translated(error, f"{doing} in {self.file}")
        if isinstance(refused, StorageFailed | Corrupt):
            self._fail(refused)
        return refused

    def _fail(self, error: Exception) -> None:
        """Nothing is written after this: what the disk holds is found out at the next start, not guessed
        now."""
        if self._failed is None:
            self._failed = error if isinstance(error, StorageFailed) else StorageFailed(str(error))

    def _note_wal(self, _connection: apsw.Connection, _name: str, frames: int) -> int:
        self.wal_frames = frames
        return apsw.SQLITE_OK
