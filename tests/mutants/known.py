"""Known bugs of systems like this one, each as subclasses of production's classes. The simulator has to find them all.

None needs a switch in production code. Each comes with the kinds of faults under which it matters and the checkers
that may be the first to see it: that is the claim a mutant tests, that these checkers would notice such a bug.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from coordinator.shards import router
from coordinator.shards.router import Router
from coordinator.watch import hub, inquiry, responses
from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.machine import Result, StateMachine, window
from shardworker.machine.registry import REGISTRY
from shardworker.raft import LogIndex, Membership, NodeId, Role, Term, decode_change, next_membership
from shardworker.replica import census, feed, leases
from shardworker.replica import replica as replica_module
from shardworker.replica.commit_news import CommitNews
from shardworker.replica.disk_space import DiskSpace, Space
from shardworker.replica.levels import Levels
from shardworker.replica.members import Members
from shardworker.replica.reads import Reads
from shardworker.replica.replica import Replica
from shardworker.store import ReplicaStore, Turn, folder
from tests.mutants import lessors, scenarios, tellers
from tests.property.raft import mutants as cores
from tests.simulation import watchers
from tests.simulation.build import Build
from tests.simulation.plan import Plan
from tests.simulation.watchers import watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import apsw

    from coordinator.shards.router import Replica as RoutedReplica
    from coordinator.shards.shard_call import ShardCall
    from shardworker.machine import Parsed
    from shardworker.machine.stored_results import Remembered
    from tests.simulation.simulation import Scenario


class _IndexLaterTurn(Turn):
    """Saves the applied index in a transaction of its own, after the data."""

    __slots__ = ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        applied, self._applied = self._applied, None
        super().__exit__(kind, error, trace)
        if error is None and applied is not None:
            with Turn(self._journal, self._sync) as second:
                second.set_applied(*applied)  # type: ignore[arg-type]


class IndexSavedApart(ReplicaStore):
    """The applied index is saved apart from the data (etcd 3.5.0 to 3.5.2)."""

    def turn(self, *, sync: bool) -> Turn:
        return _IndexLaterTurn(self._journal, sync)


class AppliesRetriesAgain(StateMachine):
    """A request id that was seen before is not recognised."""

    def _remembered(self, request_id: bytes) -> Remembered | None:
        return None


class DropsNewestVersion(StateMachine):
    """Compaction takes the newest version of a live key for a superseded one."""

    def compaction_step(self, rows_max: int) -> int:
        visited = super().compaction_step(rows_max)
        for table in self.table_status():
            live = f"t{table.id}_live"
            oldest = f"SELECT min(key) FROM {live} WHERE id >> 24 < ?"  # noqa: S608 - a number
            self._connection.execute(
                f"DELETE FROM {live} WHERE key = ({oldest})",  # noqa: S608
                (table.compacted_revision,),
            )
        return visited


class ReadsGoBack(Replica):
    """A follower answers every other read from a state it was in before."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._kept: dict[str, Result] = {}
        self._looks_back = False
        read = self._machine.read

        def read_back(connection: apsw.Connection, request: Parsed) -> Result:
            result = read(connection, request)
            if self._core.role is Role.LEADER or request.handler is not REGISTRY.handlers[frames.ETCD_RANGE]:
                return result
            kept = self._kept.setdefault(repr(request.op), result)
            self._looks_back = not self._looks_back
            return kept if self._looks_back else result

        self._machine.read = read_back  # type: ignore[method-assign]


class HearsLeadersAlone(CommitNews):
    """What is committed is known by the leader's word alone: found in boathouse, by etcd3's own tests."""

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        pass


class AnswersAsItIs(Reads):
    """What may be stale is not waited for."""

    def _lags(self, read: Any) -> bool:
        return False


class StaysFull(DiskSpace):
    """Takes anything that waits to be sent for a turn that the full disk refused: found in boathouse."""

    def tick(self) -> None:
        if self.space is Space.NEARLY_FULL and self._core.has_ready():
            self.space = Space.REFUSED
        super().tick()


class RaisesWithoutAsking(Levels):
    """A leader takes what it can apply itself for what all can apply."""

    def _voters(self) -> frozenset[NodeId]:
        return frozenset({self._node})


class JoinsWithoutAsking(Replica):
    """A replica on an empty disk takes the shard for new."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        if self._census.waits:
            self._census._begin(parts["founders"].voters, Term(0))


class DeafInTheCensus(Replica):
    """Coordinators that connect while a replica asks around on an empty disk are not remembered."""

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if self._census.waits:
            envelope.ClearField("hello")
        super().handle(identity, envelope)


class RetriesUnderNewId(Router):
    """What is sent again is taken for another write."""

    def _move(self, call: ShardCall) -> None:
        if call.request_id:
            call.request_id = hashlib.blake2b(call.request_id, digest_size=16).digest()
        super()._move(call)


class EndsTwice(Router):
    """An answered call is not forgotten."""

    def handle_envelope(
        self, replica: RoutedReplica, envelope: frames.Envelope, attached_bytes: int = 0
    ) -> None:
        known = replica.calls
        answered = {r.call: known[r.call] for r in envelope.replies if r.call in known and not r.error}
        super().handle_envelope(replica, envelope, attached_bytes)
        known.update(answered)


class KeepsTheirRoom(Router):
    """Calls that fail are counted on among those in flight."""

    def _fail(self, call: ShardCall, error: errors.BoathouseError) -> None:
        super()._fail(call, error)
        self._bounds.enter(len(call.body))


class ForgetsDoubt(Router):
    """A write that went elsewhere is taken for one that never left."""

    def _move(self, call: ShardCall) -> None:
        super()._move(call)
        call.in_doubt = False


class NeverAsks(Router):
    """Who leads is known by what replicas tell of themselves, and what of it was lost is never told again."""

    def _ask_who_leads(self, shard: Any) -> None:
        pass


class SaysDoneAtOnce(Members):
    """A change of membership is answered as made when it is proposed."""

    def _answer(self, waiting: Any) -> bool:
        membership = self._core.membership
        if self._core.log.applied < waiting.applied_at:
            (entry,) = self._core.log.entries(waiting.applied_at, LogIndex(waiting.applied_at + 1), 1 << 20)
            after = next_membership(membership, decode_change(entry.data))
            if isinstance(after, Membership):
                membership = after
        body = raft_frames.encode_membership(membership).SerializeToString()
        self._outgoing.answer(waiting.identity, waiting.call, Result(0, body))
        return True


class ForgetsAttachments(StateMachine):
    """After a restart a replica does not know whose keys are whose."""

    def __init__(self, connection: apsw.Connection, *parts: Any, **more: Any) -> None:
        super().__init__(connection, *parts, **more)
        for table in self.tables:
            connection.execute(f"UPDATE t{table.id}_live SET lease = 0 WHERE lease <> 0")  # noqa: S608


def _never_happened(_call: ShardCall) -> errors.BoathouseError:
    return errors.NoLeader("it took too long")


def _judge_by_one(
    voters: frozenset[NodeId], answers: dict[NodeId, census.Answer], *, patience_over: bool
) -> census.Begin | census.Rebuild | census.BeTold | census.Wait:
    """Takes the first answer of a replica with data for all that is to be known."""
    for answer in answers.values():
        if answer.last.index and not answer.waits:
            return census.Rebuild(answer.last, answer.term)
    return _judge(voters, answers, patience_over=patience_over)


_judge = census.judge


def _judge_by_logs(
    voters: frozenset[NodeId], answers: dict[NodeId, census.Answer], *, patience_over: bool
) -> census.Begin | census.Rebuild | census.BeTold | census.Wait:
    """Takes a voter that has begun for a new one, if its log is empty: found by a reader in boathouse."""
    empty = {
        node: replace(answer, waits=True, voters=frozenset()) if not answer.last.index else answer
        for node, answer in answers.items()
    }
    return _judge(voters, empty, patience_over=patience_over)


def _judge_by_beginnings(
    voters: frozenset[NodeId], answers: dict[NodeId, census.Answer], *, patience_over: bool
) -> census.Begin | census.Rebuild | census.BeTold | census.Wait:
    """Does not ask when the others have begun."""
    late = {node: replace(answer, beside=False) for node, answer in answers.items()}
    return _judge(voters, late, patience_over=patience_over)


_WATCH = ("watch-reliable", "watch-unique", "watch-ordered", "watch-resumable")


@dataclass(frozen=True)
class Mutant:
    """A bug, where it matters, and who is to see it."""

    name: str
    build: Build
    kinds: tuple[str, ...]
    seen_by: tuple[str, ...]
    seeds_max: int = 30
    voters: int = 3
    spares: int = 0
    learners: int = 0
    lessees: int = 0
    intensity: float = 0.6
    safety_ms: int = 8_000
    append_bytes_max: int = 1 << 20
    scenario: Scenario | None = None
    birth: Scenario | None = None
    patches: tuple[tuple[object, str, object], ...] = ()
    """(module, name, what stands there instead), where there is no class to derive from."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the patches are in place."""
        with ExitStack() as stack:
            for where, name, instead in self.patches:
                stack.enter_context(patch.object(where, name, instead))
            yield

    def plan(self, seed: int) -> Plan:
        """A simulation that gives this bug a chance."""
        return Plan(
            seed=seed,
            voters=self.voters,
            spares=self.spares,
            learners=self.learners,
            lessees=self.lessees,
            clients=4,
            safety_ms=self.safety_ms,
            intensity=self.intensity,
            kinds=frozenset(self.kinds),
            append_bytes_max=self.append_bytes_max,
        )


_HISTORY = ("linearizability", "revisions")

MUTANTS = (
    Mutant(
        "vote not persisted",
        Build(raft=cores.VoteNotPersisted),
        kinds=("kill", "power-cut", "partition"),
        seen_by=("promise-kept", "one-leader"),
    ),
    Mutant(
        "commit counted from an old term (figure 8)",
        Build(raft=cores.CommitsOldTerm),
        kinds=(),
        seen_by=("leader-completeness", "applied-in-order", *_HISTORY),
        voters=5,
        append_bytes_max=1,
        scenario=scenarios.figure_8,
    ),
    Mutant(
        "entries appended to those of another term",
        Build(raft=cores.AppendsToAnything),
        kinds=("partition", "one-way"),
        seen_by=("log-matching",),
        intensity=1.0,
    ),
    Mutant(
        "applied index saved apart from data",
        Build(store=IndexSavedApart),
        kinds=("crash-point", "kill"),
        seen_by=("equal-state", "exactly-once", "no-crash", "applied-in-order"),
    ),
    Mutant(
        "read served by a deposed leader",
        Build(raft=cores.ReadsWithoutRound),
        kinds=(),
        seen_by=_HISTORY,
        scenario=scenarios.deposed_leader,
    ),
    Mutant(
        "single replica acknowledging before its sync",
        Build(raft=cores.AcknowledgesBeforeSync),
        kinds=("power-cut",),
        seen_by=("promise-kept", *_HISTORY),
        voters=1,
    ),
    Mutant(
        "lease read without check-quorum",
        Build(raft=cores.ReadsWithoutRound, raft_settings={"check_quorum": False}),
        kinds=(),
        seen_by=_HISTORY,
        scenario=scenarios.deposed_leader,
    ),
    Mutant(
        "snapshot installed without its configuration",
        Build(raft=cores.SnapshotWithoutMembership),
        kinds=("membership", "snapshot", "kill", "partition"),
        seen_by=("equal-state",),
        spares=2,
    ),
    Mutant(
        "retried write applied twice",
        Build(machine=AppliesRetriesAgain),
        kinds=("drop", "kill", "partition"),
        seen_by=("exactly-once", *_HISTORY),
    ),
    Mutant(
        "compaction dropping the newest version of a live key",
        Build(machine=DropsNewestVersion),
        kinds=("compaction",),
        seen_by=("equal-state", "exactly-once", "atomic-txn", *_HISTORY),
    ),
    Mutant(
        "a read on a follower going back in time",
        Build(replica=ReadsGoBack),
        kinds=("kill",),
        seen_by=("stale-reads",),
    ),
    Mutant(
        "a follower waiting for its leader with what it has",
        Build(),
        kinds=(),
        seen_by=("own-writes",),
        scenario=scenarios.committed_and_cut_off,
        patches=((replica_module, "CommitNews", HearsLeadersAlone),),
    ),
    Mutant(
        "a follower that lags answering at once",
        Build(),
        kinds=("slow", "delay", "pause"),
        seen_by=("own-writes",),
        patches=((replica_module, "Reads", AnswersAsItIs),),
    ),
    Mutant(
        "learner counted in a quorum",
        Build(raft=cores.LearnersCounted),
        kinds=("partition", "kill", "one-way"),
        seen_by=("leader-completeness", "applied-in-order", *_HISTORY),
        spares=2,
        learners=2,
        intensity=1.0,
        seeds_max=60,
    ),
    Mutant(
        "two membership changes in flight",
        Build(raft=cores.TwoChangesInFlight),
        kinds=(),
        seen_by=("one-leader", "leader-completeness", "applied-in-order", "equal-state", *_HISTORY),
        spares=2,
        learners=2,
        scenario=scenarios.two_changes,
    ),
    Mutant(
        "a change of membership said to be made when it is proposed",
        Build(),
        kinds=("membership", "partition", "delay"),
        seen_by=("membership-made",),
        spares=2,
        intensity=1.0,
        patches=((replica_module, "Members", SaysDoneAtOnce),),
    ),
    Mutant(
        "a voter on an empty disk taking part at once",
        Build(replica=JoinsWithoutAsking),
        kinds=(),
        seen_by=("leader-completeness", "applied-in-order", "one-leader", *_HISTORY),
        scenario=scenarios.lost_disk,
    ),
    Mutant(
        "a voter on an empty disk believing a single other one",
        Build(),
        kinds=(),
        seen_by=("leader-completeness", "applied-in-order", "one-leader", *_HISTORY),
        scenario=scenarios.lost_disk_and_old_leader,
        patches=((census, "judge", _judge_by_one),),
    ),
    Mutant(
        "a machine level raised without asking every voter",
        Build(),
        kinds=(),
        seen_by=("no-crash",),
        scenario=scenarios.upgrade,
        patches=((replica_module, "Levels", RaisesWithoutAsking),),
    ),
    Mutant(
        "a voter on an empty disk taking one that has begun for new",
        Build(),
        kinds=(),
        seen_by=("leader-completeness", "applied-in-order", "one-leader", "committed-lost", *_HISTORY),
        birth=scenarios.begun_and_cut_off,
        patches=((census, "judge", _judge_by_logs),),
    ),
    Mutant(
        "a new voter waiting for the third after the second has begun",
        Build(),
        kinds=(),
        seen_by=("liveness",),
        birth=scenarios.one_voter_away,
        patches=((census, "judge", _judge_by_beginnings),),
    ),
    Mutant(
        "a write sent again under a new id",
        Build(router=RetriesUnderNewId),
        kinds=("drop", "kill", "partition"),
        seen_by=("exactly-once", *_HISTORY),
    ),
    Mutant(
        "a call ended twice",
        Build(router=EndsTwice),
        kinds=("drop", "duplicate", "delay", "transfer", "pause"),
        seen_by=("ended-once",),
    ),
    Mutant(
        "a failed call that goes on taking room",
        Build(router=KeepsTheirRoom),
        kinds=("partition",),
        seen_by=("bounds",),
    ),
    Mutant(
        "a write in doubt that is refused for want of room",
        Build(router=ForgetsDoubt),
        kinds=("full-disk", "kill"),
        seen_by=("exactly-once", *_HISTORY),
        intensity=1.0,
    ),
    Mutant(
        "a write that was not answered in time taken for one that never happened",
        Build(),
        kinds=("kill", "partition"),
        seen_by=("exactly-once", *_HISTORY),
        voters=2,
        intensity=1.0,
        patches=((router, "_timeout", _never_happened),),
    ),
    Mutant(
        "a lease ended by what a deposed leader had counted",
        Build(),
        kinds=("transfer", "partition"),
        seen_by=("lease-early",),
        lessees=4,
        patches=((replica_module, "LeaseClock", lessors.CountsOn),),
    ),
    Mutant(
        "a lease of an earlier leader told to be gone",
        Build(),
        kinds=("transfer",),
        seen_by=("lease-kept",),
        lessees=4,
        patches=((replica_module, "LeaseClock", lessors.KnowsItsOwnAlone),),
    ),
    Mutant(
        # Where leaders step down by themselves the election timeout that a new one adds would cover it.
        "a lease renewed by a deposed leader",
        Build(raft_settings={"check_quorum": False}),
        kinds=("partition", "one-way"),
        seen_by=("lease-early", "lease-kept"),
        lessees=8,
        intensity=1.0,
        patches=((replica_module, "Admission", lessors.TakesRenewalsOnTrust),),
    ),
    Mutant(
        "a renewal that the next leader does not know of",
        Build(),
        kinds=("transfer", "kill"),
        seen_by=("lease-early",),
        lessees=4,
        intensity=1.0,
        patches=((leases, "LeaseCheckpoints", lessors.RenewsOnTrust),),
    ),
    Mutant(
        "a lease whose time begins anew with each leader",
        Build(),
        kinds=(),
        seen_by=("lease-late",),
        scenario=scenarios.wandering_leader,
        patches=((leases, "LeaseCheckpoints", lessors.WritesNothingDown),),
    ),
    Mutant(
        "a leader that takes for the end of a lease what it told others of it",
        Build(),
        kinds=("transfer", "kill"),
        seen_by=("lease-early",),
        lessees=4,
        intensity=1.0,
        patches=((leases, "Deadlines", lessors.TellsAtOnce),),
    ),
    Mutant(
        "attachment to leases lost at a restart",
        Build(machine=ForgetsAttachments),
        kinds=("kill",),
        seen_by=("equal-state", "lease-atomic", "dense-revisions", "exactly-once"),
        lessees=4,
    ),
    Mutant(
        "a follower of a table that loses a revision with its leader",
        Build(),
        kinds=("transfer", "kill", "partition"),
        seen_by=_WATCH,
        scenario=watch,
        patches=((replica_module, "Feed", tellers.ForgetsWaiters),),
    ),
    Mutant(
        "a follower of a table that is told a revision twice",
        Build(),
        kinds=("kill", "partition"),
        seen_by=_WATCH,
        scenario=watch,
        patches=((feed, "RecentChanges", tellers.BeginsEarly),),
    ),
    Mutant(
        "changes kept through the installation of a snapshot",
        Build(),
        kinds=("snapshot", "kill"),
        seen_by=_WATCH,
        scenario=watch,
        patches=((replica_module, "Feed", tellers.KeepsThroughInstall),),
        intensity=1.0,
    ),
    Mutant(
        "a watcher that is told of later revisions first",
        Build(),
        kinds=("kill", "partition"),
        seen_by=("watch-ordered",),
        scenario=watch,
        patches=((hub, "_pack", tellers.pack_backwards),),
    ),
    Mutant(
        "a gap in the news that nobody is told of",
        Build(),
        kinds=("snapshot", "kill", "compaction", "partition"),
        seen_by=_WATCH,
        scenario=watch,
        patches=((watchers, "Inquiry", tellers.HidesGaps),),
        intensity=1.0,
    ),
    Mutant(
        "the past taken for the present",
        Build(),
        kinds=("kill", "partition"),
        seen_by=_WATCH,
        scenario=watch,
        patches=((watchers, "Inquiry", tellers.SkipsToThePast),),
    ),
    Mutant(
        "a table that is asked about a revision late",
        Build(),
        kinds=("kill", "partition"),
        seen_by=_WATCH,
        scenario=watch,
        patches=((watchers, "Inquiry", tellers.AsksLate),),
    ),
    Mutant(
        "a revision in several responses",
        Build(),
        kinds=(),
        seen_by=("watch-atomic",),
        scenario=watch,
        patches=((hub, "_pack", tellers.pack_pieces),),
    ),
    Mutant(
        "a watcher that resumes one revision late",
        Build(),
        kinds=(),
        seen_by=("watch-resumable",),
        scenario=watch,
        patches=((inquiry, "Hub", tellers.ResumesLate),),
    ),
    Mutant(
        "progress told ahead of the events",
        Build(),
        kinds=(),
        seen_by=("watch-bookmarkable",),
        scenario=watch,
        patches=((inquiry, "Hub", tellers.TellsAhead),),
    ),
    Mutant(
        "pairs before for who did not ask for them",
        Build(),
        kinds=(),
        seen_by=("watch-prev_kv", "watch-resumable"),
        scenario=watch,
        patches=((responses, "event", tellers.event_with_prev),),
    ),
    Mutant(
        "filters that are not looked at",
        Build(),
        kinds=(),
        seen_by=("watch-filters",),
        scenario=watch,
        patches=((inquiry, "Hub", tellers.HearsAll),),
    ),
    # What the simulator found in boathouse itself; each was fixed, and is put back here.
    Mutant(
        "found: a clock set forward emptied the window of results",
        Build(),
        kinds=("clock", "drop", "delay"),
        seen_by=("exactly-once",),
        intensity=1.0,
        patches=((window, "STEP_MS_MAX", 1 << 60),),
    ),
    Mutant(
        "found: a restart trusted a WAL whose sync had failed",
        Build(),
        kinds=("failed-sync", "power-cut"),
        # The record of its birth knows that something is missing, before anything else does.
        seen_by=("promise-kept", "leader-completeness", "no-crash", *_HISTORY),
        intensity=1.0,
        patches=((folder, "_save_wal", lambda *_: None),),
    ),
    Mutant(
        "found: a coordinator that came early never heard who leads",
        # Since a router asks while calls wait, this alone costs a second.
        Build(replica=DeafInTheCensus, router=NeverAsks),
        kinds=(),
        seen_by=("liveness",),
    ),
    Mutant(
        "found: a coordinator that missed the news of who leads never asked",
        Build(router=NeverAsks),
        kinds=(),
        seen_by=("liveness",),
        scenario=scenarios.lost_news,
    ),
    Mutant(
        "found: a leader refused writes for good after a full disk",
        Build(),
        kinds=("full-disk",),
        seen_by=("liveness",),
        # Alone with a learner: it has somebody to send heartbeats to, and nobody to hand over to.
        voters=1,
        spares=1,
        learners=1,
        patches=((replica_module, "DiskSpace", StaysFull),),
    ),
)
