"""Every step that leaves something on disk has a name, so that a test can kill a replica exactly there.

A point is reached *after* the step it names unless it says `before`. In production nothing is behind a point.
The simulator raises its own exception from `reach`; a real worker under test kills itself with SIGKILL, so
that no handler, no destructor and no buffered write gets a chance to tidy up."""

from __future__ import annotations

import enum
import os
import signal
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class CrashPoint(enum.StrEnum):
    """All named points, in the order in which a replica's life meets them."""

    CREATE_BEFORE_COMMIT = "create:before-commit"
    """A new database file exists, its tables and identity are not committed."""
    CREATE_COMMITTED = "create:committed"
    """The new database is committed; its folder entry may not be durable."""

    BIRTH_RECORDED = "birth:recorded"
    """What is known of the replica outside its database was written anew; the database is as it was."""
    EPOCH_COMMITTED = "epoch:committed"
    """The database knows that a process begins to write; the record beside it does not."""

    TURN_BEGUN = "turn:begun"
    APPEND_TRUNCATED = "append:truncated"
    """A conflicting suffix was deleted from the log, inside the transaction."""
    APPEND_WRITTEN = "append:written"
    APPLY_WRITTEN = "apply:written"
    """The state machine's changes and the applied index are in the transaction."""
    MEMBERSHIP_WRITTEN = "membership:written"
    COMPACT_WRITTEN = "compact:written"
    """A step of log compaction is in the transaction."""
    CATALOG_WRITTEN = "catalog:written"
    """A table was created or changed, inside the transaction. Reached by the state machine."""
    HARD_STATE_WRITTEN = "hard-state:written"
    COMMIT_BEFORE = "commit:before"
    COMMIT_DONE = "commit:done"
    """The turn is durable; no message and no reply has left."""

    CHECKPOINT_BEFORE = "checkpoint:before"
    CHECKPOINT_DONE = "checkpoint:done"

    SNAPSHOT_COPIED = "snapshot:copied"
    """A copy of the database exists, still with its sender's log."""
    SNAPSHOT_STRIPPED = "snapshot:stripped"
    """The snapshot file is complete."""

    RECEIVE_CREATED = "receive:created"
    RECEIVE_CHUNK = "receive:chunk"
    RECEIVE_SYNCED = "receive:synced"
    RECEIVE_VERIFIED = "receive:verified"

    INSTALL_PREPARED = "install:prepared"
    """The received file carries this replica's identity and hard state, and is durable."""
    INSTALL_RENAMED = "install:renamed"
    """The new generation has its name; that may not be durable."""
    INSTALL_SYNCED = "install:synced"
    """The new generation is the current one, whatever happens now; the old one still exists."""
    INSTALL_CLEANED = "install:cleaned"


class CrashPoints(Protocol):
    """What stands behind the points."""

    def reach(self, point: CrashPoint) -> None:
        """Return, or never return."""


class NoCrashPoints:
    """Production: nothing happens."""

    def reach(self, point: CrashPoint) -> None:
        pass


class KillAt:
    """Ends this process with SIGKILL when `point` is reached for the `count`-th time. For tests of real
    workers."""

    def __init__(self, point: CrashPoint, count: int) -> None:
        self._point = point
        self._left = count

    def reach(self, point: CrashPoint) -> None:
        if point is not self._point:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


NO_CRASH_POINTS: CrashPoints = NoCrashPoints()

VARIABLE = "BOATHOUSE_CRASH_AT"
"""Environment variable that a worker's entry point hands to `from_environment`: "<point>" or
"<point>:<count>"."""


def from_environment(environment: Mapping[str, str]) -> CrashPoints:
    """The crash points that the environment asks for; none in production.

    Raises ValueError for a point that does not exist: a test that kills nowhere would prove nothing."""
    wanted = environment.get(VARIABLE)
    if not wanted:
        return NO_CRASH_POINTS
    name, _, count = wanted.rpartition(":")
    if not count.isdigit():
        name, count = wanted, "1"
    return KillAt(CrashPoint(name), int(count))
