"""Watches every replica after every step: Raft's guarantees, the state machine's, and each replica's own promises.

Everything is incremental: what a step added is compared with what is known of the whole cluster, over the crashes of
single replicas. The cluster's memory here is that of an observer who sees all disks and forgets nothing.

The promises checked by name:

- one-leader: at most one leader per term (paper 5.2).
- log-matching: entries with equal index and term are equal, and so is what precedes them (5.3).
- leader-completeness: a leader has every entry committed before (5.4).
- applied-in-order: each replica applies committed entries one by one, never one twice, all the same ones (5.4.3).
- equal-state: replicas with equal applied index have equal checksums and equal membership, over restarts too.
- dense-revisions, exactly-once: each effective command takes the next revision, or one for each lease that it ends,
  and no request id has two effects.
- promise-kept: a restarted replica still has the term, vote and log that it vouched for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from proto.internal import frames_pb2 as frames
from shardworker.raft import EntryKind, LogIndex, MessageKind, Role
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shardworker.machine import Result
    from shardworker.raft import Entry, Membership, Raft, Ready
    from tests.simulation.host import Host
    from tests.simulation.process import Process, State

_Fingerprint = tuple[int, int, int]
"""Term of the entry before, kind, checksum of the data."""


@dataclass(slots=True)
class Promises:
    """What one replica has vouched for to others; kept by its disk or broken."""

    term: int = 0
    vote: int = 0
    log_term: int = 0
    last_index: int = 0


class Checkers:
    """One for the whole cluster."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self._entries: dict[tuple[int, int], _Fingerprint] = {}
        self.committed: dict[int, tuple[int, int, int]] = {}
        """Index -> term, kind, checksum of every entry that any replica applied."""
        self._committed_in: dict[int, int] = {}
        self._states: dict[int, tuple[int, Membership]] = {}
        self.effects: dict[bytes, int] = {}
        self.memberships: list[Membership] = []
        """Every membership that was ever in force."""
        self.checks = 0
        self.reached: Callable[[Process, State], None] = lambda _process, _state: None
        """Told of everything that a command has made of a table, once it is durable."""

    # ---- a step of the core -------------------------------------------------------------------------------------

    def advanced(self, process: Process, core: Raft, ready: Ready) -> None:
        """This Ready was carried out, durably."""
        self.checks += 1
        host = process.host
        if ready.snapshot is not None:
            process.applied = int(ready.snapshot.index)
            host.cluster.count("snapshot installed")
        if ready.entries:
            self._check_log_matching(core, ready.entries)
        for entry in ready.committed:
            self._check_applied(process, core, entry)
        for request_id, revision in process.effects:
            self._check_effect(process, request_id, revision)
        process.effects.clear()
        for state in process.states:
            self.reached(process, state)
        self._note_promises(host, core, ready)

    def _check_log_matching(self, core: Raft, entries: Iterable[Entry]) -> None:
        previous: int | None = None
        for entry in entries:
            if previous is None:
                previous = core.log.term(LogIndex(entry.index - 1))
            found = (previous, int(entry.kind), crc32(entry.data))
            known = self._entries.setdefault((entry.index, entry.term), found)
            if known != found:
                raise Violation("log-matching", f"two entries at index {entry.index} of term {entry.term}")
            previous = entry.term

    def _check_applied(self, process: Process, core: Raft, entry: Entry) -> None:
        index = int(entry.index)
        if index != process.applied + 1:
            raise Violation("applied-in-order", f"{process} applied {index} after {process.applied}")
        process.applied = index
        found = (int(entry.term), int(entry.kind), crc32(entry.data))
        known = self.committed.get(index)
        if known is None:
            self.committed[index] = found
            self._committed_in[index] = core.term
            self._check_leaders_have(process, index)
        elif known != found:
            raise Violation("applied-in-order", f"{process} applied another entry at {index} than others did")
        else:
            self._committed_in[index] = min(self._committed_in[index], core.term)

    def _check_leaders_have(self, process: Process, index: int) -> None:
        for host in process.host.cluster.hosts:
            other = host.process
            if other is not None and other.core.role is Role.LEADER:
                self._check_has(other, index)

    def _check_has(self, leader: Process, index: int) -> None:
        log, term = leader.core.log, leader.core.term
        # A leader deposed without knowing it may lack what later terms committed.
        if index < log.first_index() or self._committed_in[index] > term:
            return
        if index > log.last_index or log.term(LogIndex(index)) != self.committed[index][0]:
            raise Violation(
                "leader-completeness", f"{leader} leads term {term} without committed entry {index}"
            )

    # ---- after a step of the replica ----------------------------------------------------------------------------

    def stepped(self, process: Process) -> None:
        """The replica took a turn."""
        core = process.core
        if core.role is Role.LEADER and process.led_term != core.term:
            process.led_term = core.term
            number = process.host.number
            if self.leaders.setdefault(core.term, number) != number:
                raise Violation(
                    "one-leader", f"{self.leaders[core.term]} and {number} both lead term {core.term}"
                )
            for index in self.committed:
                self._check_has(process, index)
        applied = int(process.store.applied_index)
        if applied != process.checked_state_at:
            process.checked_state_at = applied
            if applied != process.applied:
                raise Violation("applied-in-order", f"{process} stored {applied}, applied {process.applied}")
            self._check_state(process, applied)

    def _check_state(self, process: Process, applied: int) -> None:
        membership = process.core.membership
        state = process.machine.checksum, membership
        known = self._states.setdefault(applied, state)
        if known != state:
            what = "membership" if known[0] == state[0] else "checksum"
            raise Violation("equal-state", f"{process} has another {what} at applied index {applied}")
        if membership not in self.memberships:
            self.memberships.append(membership)

    # ---- the state machine --------------------------------------------------------------------------------------

    def applied_batch(
        self, process: Process, batch: frames.CommandBatch, results: list[Result], before: dict[int, int]
    ) -> None:
        """The state machine answered a batch; `before` holds each table's revision before it.

        Counts once the turn is durable: a crash before that undoes it."""
        revisions = dict(before)
        for command, result in zip(batch.commands, results, strict=True):
            revision = revisions.get(command.table_id, 0)
            if result.revision <= revision:
                continue
            if command.method == frames.REPLICATE_SNAPSHOT:
                revisions[command.table_id] = result.revision
                continue
            steps = 1
            if command.method == frames.REPLICATE_CHANGES:
                steps = len(frames.ReplicatedChanges.FromString(command.body).changes.revisions)
            if command.method == frames.LEASE_EXPIRE:
                steps = len(frames.ExpiredLeases.FromString(command.body).leases)
            if result.revision > revision + steps and command.table_id in before:
                raise Violation(
                    "dense-revisions", f"{process} went from revision {revision} to {result.revision}"
                )
            revisions[command.table_id] = result.revision
            process.effects.append((command.request_id, result.revision))

    def _check_effect(self, process: Process, request_id: bytes, revision: int) -> None:
        known = self.effects.setdefault(request_id, revision)
        if known != revision:
            raise Violation(
                "exactly-once", f"{process} applied one request at revisions {known} and {revision}"
            )

    # ---- promises of one replica --------------------------------------------------------------------------------

    def _note_promises(self, host: Host, core: Raft, ready: Ready) -> None:
        promises = host.promises
        for message in ready.messages:
            if message.kind is MessageKind.VOTE_REPLY and not message.reject:
                self._vouch_term(promises, message.term)
                if promises.vote not in (0, message.to):
                    raise Violation(
                        "promise-kept",
                        f"{host} voted for {promises.vote} and {message.to} in term {message.term}",
                    )
                promises.vote = int(message.to)
            elif message.kind is MessageKind.APPEND_REPLY and not message.reject and message.index:
                self._vouch_term(promises, message.term)
                self._vouch_log(promises, message.term, message.index)
        if ready.entries and core.role is Role.LEADER:
            self._vouch_term(promises, core.term)
            self._vouch_log(promises, core.term, ready.entries[-1].index)

    def _vouch_term(self, promises: Promises, term: int) -> None:
        if term > promises.term:
            promises.term, promises.vote = term, 0

    def _vouch_log(self, promises: Promises, term: int, index: int) -> None:
        if term > promises.log_term:
            promises.log_term, promises.last_index = term, index
        elif term == promises.log_term:
            promises.last_index = max(promises.last_index, index)

    def opened(self, process: Process) -> None:
        """The replica has just opened its disk; nothing has happened yet."""
        store, promises = process.store, process.host.promises
        hard_state = store.hard_state
        if hard_state.term < promises.term:
            raise Violation(
                "promise-kept", f"{process} forgot term {promises.term}, and is back in {hard_state.term}"
            )
        if hard_state.term == promises.term and promises.vote not in (0, hard_state.vote):
            raise Violation("promise-kept", f"{process} forgot its vote in term {promises.term}")
        last = store.log.last_index()
        # In a later term its log may have been cut back, by a leader whose answer never left.
        if hard_state.term == promises.log_term and last < promises.last_index:
            raise Violation(
                "promise-kept", f"{process} vouched for its log up to {promises.last_index}, and has {last}"
            )

    def recovered(self) -> None:
        """The shard goes on with what one replica has: from there on it has other members at the same index."""
        self._states.clear()

    def wired(self, process: Process) -> None:
        """The replica is ready to run on what it found on its disk."""
        process.applied = process.checked_state_at = int(process.store.applied_index)
        if process.applied in self._states:
            self._check_state(process, process.applied)

    def pending_memberships(self, processes: Iterable[Process]) -> list[Entry]:
        """Membership changes in somebody's log that are not applied there yet: any of them may still take effect."""
        found: list[Entry] = []
        for process in processes:
            log = process.core.log
            lo, hi = LogIndex(log.applied + 1), LogIndex(log.last_index + 1)
            if lo < hi and log.pending_snapshot is None:  # else it holds none
                entries = log.entries(lo, hi, 1 << 30)
                found += [entry for entry in entries if entry.kind is EntryKind.MEMBERSHIP]
        return found
