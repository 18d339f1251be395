"""What a turn writes through: the writer's connection to one database, and what memory knows of it.

Memory follows the disk. A turn (turn.py) writes in a transaction of the journal, and the journal changes what it
remembers once that has committed. A disk that failed once is asked for nothing more: what it holds is found out at the
next start, not guessed now."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import apsw

from proto.errors import Corrupt
from proto.histogram import DISK_BOUNDS_S, Histogram
from shardworker.raft.types import LogIndex, Membership, NodeId, SnapshotMeta, Term
from shardworker.store import database
from shardworker.store.checkpoint import BackgroundCheckpointer, InlineCheckpointer, checkpoint
from shardworker.store.crash_points import CrashPoint
from shardworker.store.database import Role
from shardworker.store.errors import DiskFull, StorageFailed, translated
from shardworker.store.log import RaftLog
from shardworker.store.records import IDENTITY_ROW, encode_identity

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.store.birth import Lifetime
    from shardworker.store.checkpoint import Checkpointer
    from shardworker.store.context import StoreContext
    from shardworker.store.records import Identity, RebuildMark, ReplicaState


SYNCS_KEPT_MAX: Final = 64
"""Times of syncs that are remembered while nobody asks for them."""


class Journal:
    """One generation at a time; `open` goes on to the next one. The loop's thread only."""

    connection: apsw.Connection
    """The writer."""
    identity: Identity
    """As the database has it."""
    state: ReplicaState
    """The durable positions, as of the last turn."""
    membership: Membership
    """The configuration as of the applied index."""
    rebuild: RebuildMark | None
    """Set while this replica is being rebuilt, and must not vote."""

    def __init__(self, context: StoreContext, lifetime: Lifetime) -> None:
        """Nothing is open before `open`."""
        self.crash_points = context.crash_points
        self.log = RaftLog(context.settings.log_cache_bytes, self.snapshot_meta)
        self.wal_frames = 0
        self.failed: StorageFailed | None = None
        """Why no turn is taken any more."""
        self.sync_seconds: deque[float] = deque(maxlen=SYNCS_KEPT_MAX)
        """How long the last synced commits took, for whoever takes them away."""
        self.syncs = Histogram(DISK_BOUNDS_S)
        """The same of all that there were."""
        self.commits = Histogram(DISK_BOUNDS_S)
        """Of all commits, synced or not."""
        self._context = context
        self._lifetime = lifetime
        self._sync = True
        self._checkpointer: Checkpointer

    # ---- opening and closing ----------------------------------------------------------------------------------------

    def open(self, file: Path, *, may_create: bool) -> None:
        """Open this database and load what memory holds of it. `log` stays the same object. may_create: it is a new
        replica's, if nothing ever committed in it. Raises Corrupt, IdentityMismatch, and what the disk raises."""
        context, settings = self._context, self._context.settings
        self._file = file
        self.connection = connection = database.connect(file, settings, vfs=context.vfs, role=Role.WRITER)
        self._execute = connection.cursor().execute
        if database.is_unborn(connection):
            if not may_create:
                raise Corrupt(f"{file} is empty")
            database.begin_wal(connection, settings)
            database.create_tables(connection, context.identity, self.crash_points)
            self.crash_points.reach(CrashPoint.CREATE_COMMITTED)
            context.files.sync_folder(context.path)
        else:
            database.check_format(connection, file)
            database.check_identity(connection, file, context.identity)
            database.begin_wal(connection, settings)
        self.identity = database.read_identity(connection)
        self._lifetime.opened(database.read_epoch(connection))
        self.state = database.read_state(connection)
        self.membership = database.read_membership(connection)
        self.rebuild = database.read_rebuild_mark(connection)
        self.log.load(connection, self.state.truncated_index, self.state.truncated_term)
        database.check_state(self.state, self.log.last_index())
        self._sync = True
        self.wal_frames = 0
        connection.set_wal_hook(self._note_wal)
        self._checkpointer = self._make_checkpointer()

    def _make_checkpointer(self) -> Checkpointer:
        settings = self._context.settings
        due_frames = settings.checkpoint_wal_bytes // settings.page_bytes
        if settings.exclusive:
            return InlineCheckpointer(self.connection, self._context.files, self.crash_points, due_frames)
        file, vfs = self._file, self._context.vfs
        return BackgroundCheckpointer(
            self.connection,
            lambda: database.connect(file, settings, vfs=vfs, role=Role.HELPER),
            self._context.files,
            self.crash_points,
            due_frames=due_frames,
            frames_max=settings.wal_bytes_max // settings.page_bytes,
        )

    def name(self, replica: str) -> None:
        """Give the database the id of its birth."""
        self.identity = self.identity.named(replica)
        self._execute("BEGIN IMMEDIATE")
        database.put_row(self.connection, IDENTITY_ROW, encode_identity(self.identity))
        self._execute("COMMIT")

    def end_checkpoints(self) -> None:
        """Nothing runs beside the writer's connection any more."""
        self._checkpointer.close()

    def close(self) -> None:
        """Close the connection, and before it what runs beside it; writes nothing."""
        self._checkpointer.close()
        self.connection.close()

    def abandon(self) -> None:
        """After a failed `open`: let go of what was opened."""
        if hasattr(self, "connection"):
            self.connection.close()

    # ---- a transaction ----------------------------------------------------------------------------------------------

    def is_alone(self, membership: Membership) -> bool:
        """Whether nobody but this replica votes by it."""
        return membership.voters | membership.voters_outgoing == {NodeId(self.identity.node)}

    def prepare_membership(self, membership: Membership) -> None:
        """The open transaction is about to make it the replica's. Raises DiskFull, StorageFailed."""
        if self.is_alone(membership):
            try:
                self._lifetime.stands(alone=True)
            except OSError as error:
                raise self.refused(error, f"recording who votes, beside {self._file.parent}") from error

    def begin(self, *, sync: bool) -> None:
        """Open the transaction. sync: what it commits survives a power cut. Raises DiskFull, StorageFailed."""
        if self.failed is not None:
            raise self.failed
        try:
            if not self._lifetime.is_writing:
                self._lifetime.begin_to_write(self.connection)
            if sync is not self._sync:
                self._execute("PRAGMA synchronous = FULL" if sync else "PRAGMA synchronous = NORMAL")
                self._sync = sync
            self._execute("BEGIN IMMEDIATE")
        except (apsw.Error, OSError) as error:
            raise self.refused(error, f"beginning a turn in {self._file}") from error
        self.crash_points.reach(CrashPoint.TURN_BEGUN)

    def execute(self, sql: str, bindings: tuple[Any, ...] = ()) -> None:
        """A statement of the store's own in the open transaction."""
        self._execute(sql, bindings)

    def commit(self, *, sync: bool) -> None:
        """End the open transaction; sync: as it was begun."""
        began_s = self._context.files.steady_s()
        self._execute("COMMIT")
        seconds = self._context.files.steady_s() - began_s
        self.commits.observe(seconds)
        if sync:
            self.sync_seconds.append(seconds)
            self.syncs.observe(seconds)

    def committed(
        self, state: ReplicaState | None, membership: Membership | None, *, is_rebuilt: bool
    ) -> None:
        """COMMIT returned; memory follows. None for what the transaction left alone."""
        if state is not None:
            self.state = state
        if membership is not None:
            self.membership = membership
            # Should the disk not take it, the record is more careful than it need be, until the next start.
            with contextlib.suppress(OSError):
                self._lifetime.stands(alone=self.is_alone(membership))
        if is_rebuilt:
            self.rebuild = None
        self.log.committed()
        self.crash_points.reach(CrashPoint.COMMIT_DONE)
        try:
            self._checkpointer.after_commit(self.wal_frames)
        except Exception as error:
            self.fail(error)
            raise

    def roll_back(self, error: BaseException) -> None:
        """Undo the transaction, then raise what `error` means to the store, if it means anything.

        Whatever goes wrong here never hides `error`, which came first."""
        self.log.rolled_back()
        try:
            if self.connection.in_transaction:
                self._execute("ROLLBACK")
        except apsw.Error as second:
            error.add_note(f"the rollback failed as well: {second}")
            self.fail(StorageFailed(f"a rollback failed: {second}"))
        if isinstance(error, apsw.Error):
            refused = self.refused(error, f"writing a turn in {self._file}")
            if isinstance(refused, DiskFull):
                self._make_room(refused)
            if refused is not error:
                raise refused from error

    def _make_room(self, refused: DiskFull) -> None:
        """The WAL could not grow: perhaps it can start over, with the next turn."""
        try:
            checkpoint(self.connection, self._context.files, self.crash_points)
        except Exception as second:
            refused.add_note(f"a checkpoint failed as well: {second}")
            self.fail(second)

    # ---- failing ----------------------------------------------------------------------------------------------------

    def refused(self, error: Exception, doing: str) -> Exception:
        """What an error means to the store; one that leaves the disk in doubt fails the journal."""
        refused = translated(error, doing)
        if isinstance(refused, StorageFailed | Corrupt):
            self.fail(refused)
        return refused

    def fail(self, error: Exception) -> None:
        """Take no turn after this."""
        if self.failed is None:
            self.failed = error if isinstance(error, StorageFailed) else StorageFailed(str(error))

    # ---- what is durable --------------------------------------------------------------------------------------------

    def snapshot_meta(self) -> SnapshotMeta:
        """What the database's data stands for now."""
        state = self.state
        return SnapshotMeta(LogIndex(state.applied_index), Term(state.applied_term), self.membership)

    def _note_wal(self, _connection: apsw.Connection, _name: str, frames: int) -> int:
        self.wal_frames = frames
        return apsw.SQLITE_OK
