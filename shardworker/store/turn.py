"""One transaction of a replica: what becomes durable together, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from shardworker.raft.types import HardState, LogIndex, Membership, Term
from shardworker.store import database
from shardworker.store.crash_points import CrashPoint
from shardworker.store.records import (
    MEMBERSHIP_ROW,
    STATE_ROW,
    ReplicaState,
    encode_membership,
    row_checksum,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import apsw

    from shardworker.raft.types import Entry
    from shardworker.store.journal import Journal


class Turn:
    """The open transaction of `ReplicaStore.turn`. Memory follows the disk: it changes after COMMIT, never
    before."""

    __slots__ = (
        "_applied",
        "_dropped",
        "_hard_state",
        "_journal",
        "_last_index",
        "_membership",
        "_rebuilt",
        "_sync",
        "connection",
    )

    def __init__(self, journal: Journal, sync: bool) -> None:
        self._journal = journal
        self._sync = sync
        self.connection: apsw.Connection = journal.connection
        self._hard_state: HardState | None = None
        self._applied: tuple[int, int] | None = None
        self._dropped: tuple[int, int] | None = None
        self._membership: Membership | None = None
        self._last_index: int | None = None
        self._rebuilt = False

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Save term, vote and commit, and add entries to the log; entries that conflict with them go
        first."""
        if hard_state is not None:
            self._hard_state = hard_state
        if entries:
            assert entries[0].index > self._journal.state.applied_index, (
                "an applied entry is never overwritten"
            )
            if self._journal.log.append(entries):
                self._journal.crash_points.reach(CrashPoint.APPEND_TRUNCATED)
            self._last_index = entries[-1].index
            self._journal.crash_points.reach(CrashPoint.APPEND_WRITTEN)

    def set_applied(self, index: LogIndex, term: Term) -> None:
        """The state machine's changes in this transaction bring it to `index`."""
        assert index >= self._journal.state.applied_index, "apply goes forward"
        self._applied = (index, term)
        self._journal.crash_points.reach(CrashPoint.APPLY_WRITTEN)

    def set_membership(self, membership: Membership) -> None:
        """The configuration as of the applied index."""
        self._journal.prepare_membership(membership)
        value = encode_membership(membership)
        self._journal.execute(
            "UPDATE meta SET value = ?, crc = ? WHERE id = ?",
            (value, row_checksum(MEMBERSHIP_ROW, value), MEMBERSHIP_ROW),
        )
        self._membership = membership
        self._journal.crash_points.reach(CrashPoint.MEMBERSHIP_WRITTEN)

    def end_rebuild(self) -> None:
        """This replica has again what it acknowledged before it was rebuilt."""
        database.put_rebuild_mark(self.connection, None)
        self._rebuilt = True

    def compact_log(self, *, keep_entries: int, keep_bytes: int, rows_max: int = 64) -> int:
        """Drop the oldest applied entries beyond a tail of keep_entries and keep_bytes; returns how many
        went.

        A step drops nothing until rows_max entries are due, and never more than that: the cost of a step is
        bounded and a statement is not spent on single rows."""
        log = self._journal.log
        first = log.first_index()
        count = min(
            log.surplus(keep_entries, keep_bytes, rows_max), self._journal.state.applied_index - first + 1
        )
        if count < rows_max:
            return 0
        upto = LogIndex(first + count - 1)
        self._dropped = (upto, log.drop(upto))
        self._journal.crash_points.reach(CrashPoint.COMPACT_WRITTEN)
        return count

    # ---- the transaction ----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._journal.begin(sync=self._sync)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._journal.roll_back(error)
            return
        state = self._new_state()
        try:
            if state is not None:
                value = state.encode()
                self._journal.execute(
                    "UPDATE meta SET value = ?, crc = ? WHERE id = 1", (value, row_checksum(STATE_ROW, value))
                )
                self._journal.crash_points.reach(CrashPoint.HARD_STATE_WRITTEN)
            self._journal.crash_points.reach(CrashPoint.COMMIT_BEFORE)
            self._journal.commit(sync=self._sync)
        except BaseException as failure:
            self._journal.roll_back(failure)
            raise
        self._journal.committed(state, self._membership, is_rebuilt=self._rebuilt)

    def _new_state(self) -> ReplicaState | None:
        """What the state row becomes; None if it stays."""
        old = self._journal.state
        changes = (self._hard_state, self._applied, self._dropped, self._last_index)
        if changes == (None, None, None, None):
            return None
        term, vote, commit = old.term, old.vote, old.commit
        if self._hard_state is not None:
            term, vote, commit = self._hard_state.term, self._hard_state.vote, self._hard_state.commit
            assert term >= old.term, "the term never goes back"
            assert commit >= old.commit, "the commit index never goes back"
        applied, applied_term = self._applied or (old.applied_index, old.applied_term)
        assert applied <= commit, f"applied index {applied} is past the commit index {commit}"
        truncated, truncated_term = self._dropped or (old.truncated_index, old.truncated_term)
        last = old.last_index if self._last_index is None else self._last_index
        assert commit <= last, f"commit index {commit} is past the last index {last}"
        return ReplicaState(term, vote, commit, applied, applied_term, truncated, truncated_term, last)
