"""The contract between the core and whoever drives it: Ready, advance, bounds, and when there is nothing to
do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shardworker.raft import (
    NEVER_TICKS,
    TRANSITIONS,
    Accepted,
    EntryKind,
    LogIndex,
    Membership,
    MembershipChange,
    MessageKind,
    NodeId,
    Reason,
    Rejected,
    Role,
    SnapshotMeta,
    Step,
    StepKind,
    Term,
    encode_change,
)
from tests.unit.raft.lab import (
    acknowledge_all,
    entries_of,
    give,
    lead,
    message,
    of_kind,
    replica_with,
    settle,
)
from tests.unit.raft.replica import Replica, members, node_ids, settings_of

K = MessageKind
LEARNER = MembershipChange((Step(StepKind.ADD_LEARNER, NodeId(9)),))


def lone() -> Replica:
    replica = replica_with(membership=members(1))
    replica.raft.campaign()
    settle(replica)
    return replica


# ---- one Ready


def test_one_ready_at_a_time() -> None:
    raft = replica_with().raft
    raft.ready()
    with pytest.raises(AssertionError, match="advance"):
        raft.ready()


def test_only_the_last_ready_can_be_advanced() -> None:
    raft = replica_with().raft
    first = raft.ready()
    raft.advance(first)
    raft.ready()
    with pytest.raises(AssertionError, match="last"):
        raft.advance(first)


def test_nothing_to_do_is_no_ready() -> None:
    raft = replica_with([1], commit=0).raft
    assert not raft.has_ready()
    ready = raft.ready()
    assert (ready.hard_state, ready.entries, ready.messages, ready.must_sync) == (None, (), (), False)


def test_a_moved_commit_index_alone_needs_no_sync() -> None:
    replica = replica_with([1, 1])
    replica.raft.step(message(K.HEARTBEAT, 2, 1, commit=2))
    ready = replica.raft.ready()
    assert ready.hard_state is not None
    assert not ready.must_sync
    assert [entry.index for entry in ready.committed] == [1, 2]


def test_what_others_know_to_be_committed_is_learned_of_the_very_entry_alone() -> None:
    """It may be told by anybody, in any role, and before this log has it."""
    raft = replica_with([1, 1, 2]).raft
    for index, term in ((2, 2), (3, 1), (4, 2)):
        assert not raft.learn_commit(LogIndex(index), Term(term))
    assert raft.log.commit == 0
    raft.campaign()
    assert raft.role is Role.PRE_CANDIDATE
    assert raft.learn_commit(LogIndex(2), Term(1))
    assert [entry.index for entry in raft.ready().committed] == [1, 2]
    assert raft.learn_commit(LogIndex(1), Term(1)), "it knew that"
    assert raft.log.commit == 2


def test_a_replica_without_a_membership_learns_of_no_commit() -> None:
    raft = replica_with([1], membership=members()).raft
    assert not raft.learn_commit(LogIndex(1), Term(1))


def test_messages_stepped_before_advance_belong_to_the_next_ready() -> None:
    """A later append of another leader replaces what is being saved: it must be saved again."""
    replica = replica_with(settings=settings_of(1, check_quorum=False))
    raft = replica.raft
    raft.step(message(K.APPEND, 2, 1, entries=entries_of([1, 1])))
    ready = raft.ready()
    raft.step(message(K.APPEND, 3, 2, entries=entries_of([2])))
    replica.disk.log.append(ready.entries)
    raft.advance(ready)
    again = raft.ready()
    assert [(entry.term, entry.index) for entry in again.entries] == [(2, 1)]
    assert again.must_sync


def test_committed_entries_are_handed_out_in_bites() -> None:
    settings = settings_of(1)
    replica = replica_with([1] * 10, commit=10, settings=settings)
    object.__setattr__(settings, "apply_bytes_max", 40)
    bites = []
    while replica.raft.has_ready():
        ready, _ = replica.turn()
        bites.append(len(ready.committed))
    assert sum(bites) == 10
    assert len(bites) > 3


def test_membership_entries_must_be_applied() -> None:
    raft = lone().raft
    raft.propose_membership(LEARNER)
    ready = raft.ready()
    with pytest.raises(AssertionError, match="apply_membership"):
        raft.advance(ready)


# ---- early messages


def test_a_new_leaders_messages_wait_while_its_term_is_not_durable() -> None:
    """A lone voter leads before anything is saved: a learner must not hear of a term that a crash would
    undo."""
    replica = replica_with(membership=members(1, learners=(2,)))
    replica.raft.campaign()
    ready = replica.raft.ready()
    assert not ready.early_messages
    assert [one.kind for one in ready.messages] == [K.APPEND]


def test_heartbeat_replies_do_not_wait_for_a_disk() -> None:
    replica = replica_with([1])
    replica.raft.step(message(K.HEARTBEAT, 2, 1))
    assert [one.kind for one in replica.raft.ready().early_messages] == [K.HEARTBEAT_REPLY]


def test_append_replies_wait() -> None:
    replica = replica_with([1])
    replica.raft.step(message(K.APPEND, 2, 1, index=1, log_term=1, entries=entries_of([1], first=2)))
    ready = replica.raft.ready()
    assert not ready.early_messages
    assert [one.kind for one in ready.messages] == [K.APPEND_REPLY]


def test_a_commit_notice_is_not_answered() -> None:
    replica = replica_with([1, 1])
    assert not give(replica, message(K.APPEND, 2, 1, index=2, log_term=1, commit=2, context=1))
    assert replica.disk.applied == 2
    (reply,) = give(replica, message(K.APPEND, 2, 1, index=5, log_term=1, commit=5, context=1))
    assert reply.reject


# ---- advance: not everything was applied


def test_what_was_not_applied_comes_again() -> None:
    replica = lone()
    raft = replica.raft
    raft.propose(b"x")
    raft.propose_membership(LEARNER)
    raft.propose(b"y")
    first = raft.ready()
    assert len(first.committed) == 3
    replica.disk.log.append(first.entries)
    raft.advance(first, applied=1)
    assert raft.log.commit == first.committed[-1].index
    assert raft.log.applied == first.committed[0].index
    assert not raft.membership.learners
    assert raft.has_ready()
    second = raft.ready()
    assert (second.committed, second.entries) == (first.committed[1:], ())
    raft.apply_membership(second.committed[0])
    raft.advance(second, applied=1)
    assert raft.membership.learners == node_ids(9)
    assert [entry.data for entry in raft.ready().committed] == [b"y"]


# ---- advance(durable=False)


def test_what_could_not_be_saved_comes_again() -> None:
    replica = replica_with()
    replica.raft.step(message(K.APPEND, 2, 1, entries=entries_of([1, 1]), commit=1))
    first = replica.raft.ready()
    replica.raft.advance(first, durable=False)
    assert replica.raft.has_ready()
    second = replica.raft.ready()
    assert second == first


def test_only_early_messages_and_reads_are_consumed() -> None:
    replica = lone()
    raft = replica.raft
    raft.propose(b"x")
    raft.read_index(5)
    first = raft.ready()
    assert [read.context for read in first.reads] == [5]
    assert [entry.data for entry in first.committed] == [b"x"]
    raft.advance(first, durable=False)
    assert raft.log.commit == 1
    second = raft.ready()
    assert not second.reads
    assert second.committed == first.committed


def test_a_membership_that_could_not_be_saved_does_not_take_effect() -> None:
    replica = lone()
    raft = replica.raft
    raft.propose_membership(LEARNER)
    for durable in (False, False, True):
        ready = raft.ready()
        (entry,) = ready.committed
        assert raft.apply_membership(entry).learners == node_ids(9)
        assert not raft.membership.learners
        raft.advance(ready, durable=durable)
    assert raft.membership.learners == node_ids(9)


def test_messages_kept_for_a_full_disk_are_bounded() -> None:
    replica = replica_with([1])
    replica.disk_is_full = True
    for _ in range(3000):
        give_once = message(K.APPEND, 2, 1, index=1, log_term=1)
        replica.raft.step(give_once)
        replica.turn()
    assert len(replica.raft.ready().messages) <= 1025


# ---- a lone voter


def test_a_lone_voters_entries_are_applied_with_their_append() -> None:
    raft = lone().raft
    raft.propose(b"x")
    ready = raft.ready()
    assert ready.entries == ready.committed
    assert ready.hard_state is not None
    assert ready.hard_state.commit == 2
    assert ready.must_sync
    assert raft.log.commit == 1
    raft.advance(ready)
    assert raft.log.commit == 2


def test_a_lone_voter_tells_learners_of_a_commit_only_when_it_is_durable() -> None:
    replica = replica_with(membership=members(1, learners=(2,)))
    raft = replica.raft
    raft.campaign()
    settle(replica)
    acknowledge_all(replica, 2)
    raft.propose(b"x")
    ready = raft.ready()
    assert [one.commit for one in ready.early_messages] == [1]
    raft.advance(ready)
    raft.step(message(K.APPEND_REPLY, 2, 1, index=2))
    assert [one.commit for one in raft.ready().early_messages] == [2]


# ---- bounds and refusals


def test_followers_refuse_and_point_to_the_leader() -> None:
    replica = replica_with([1])
    give(replica, message(K.HEARTBEAT, 2, 1))
    refused = Rejected(Reason.NOT_LEADER, NodeId(2))
    raft = replica.raft
    assert raft.propose(b"x") == refused
    assert raft.propose_membership(LEARNER) == refused
    assert raft.read_index(1) == refused
    assert raft.transfer_leadership() == refused


def test_uncommitted_proposals_are_bounded() -> None:
    replica = replica_with(settings=settings_of(1, uncommitted_bytes_max=100))
    raft = lead(replica)
    assert isinstance(raft.propose(b"x" * 1000), Accepted)
    assert raft.propose(b"y") == Rejected(Reason.UNCOMMITTED_FULL, NodeId(1))
    settle(replica)
    acknowledge_all(replica, 2)
    assert isinstance(raft.propose(b"y"), Accepted)


def test_waiting_reads_are_bounded() -> None:
    settings = settings_of(1)
    object.__setattr__(settings, "pending_reads_max", 3)
    raft = lead(replica_with(settings=settings))
    answers = [raft.read_index(context) for context in range(4)]
    assert [type(answer) for answer in answers] == [Accepted, Accepted, Accepted, Rejected]
    assert answers[3] == Rejected(Reason.READS_FULL, NodeId(1))


def test_appends_in_flight_are_bounded_by_bytes() -> None:
    settings = settings_of(1)
    object.__setattr__(settings, "inflight_bytes_max", 100)
    replica = replica_with(settings=settings)
    raft = lead(replica)
    sent = []
    for _ in range(10):
        raft.propose(b"x" * 40)
        sent += of_kind(settle(replica), K.APPEND)
    assert len([one for one in sent if one.to == 2]) == 2


# ---- membership and reads in odd moments


def remove(node: int) -> MembershipChange:
    return MembershipChange((Step(StepKind.REMOVE, NodeId(node)),))


def test_a_leader_takes_nothing_after_its_own_removal() -> None:
    """Else its log could end up longer than that of the voters who still need its vote."""
    raft = lead(replica_with())
    assert isinstance(raft.propose_membership(remove(1)), Accepted)
    assert raft.propose(b"x") == Rejected(Reason.TRANSFERRING)


def test_a_removal_inherited_from_an_earlier_leader_counts_as_well() -> None:
    replica = replica_with([1])
    change = replace(entries_of([1], first=2)[0], kind=EntryKind.MEMBERSHIP, data=encode_change(remove(1)))
    give(replica, message(K.APPEND, 2, 1, index=1, log_term=1, entries=(change,)))
    for _ in range(20):
        replica.raft.tick()
    raft = lead(replica, acknowledge=False)
    assert raft.propose(b"x") == Rejected(Reason.TRANSFERRING)


def test_a_smaller_quorum_may_be_reached_already() -> None:
    replica = replica_with(membership=members(1, 2, 3, 4))
    raft = lead(replica)
    raft.propose_membership(remove(4))
    raft.propose(b"x")
    settle(replica)
    raft.step(message(K.APPEND_REPLY, 2, 1, index=3))
    raft.step(message(K.APPEND_REPLY, 3, 1, index=2))
    assert raft.log.commit == 2  # 1 and 2 have "x", two of four
    settle(replica)
    assert raft.log.commit == 3  # two of three


def test_an_answer_to_an_earlier_round_confirms_nothing() -> None:
    replica = replica_with()
    raft = lead(replica)
    raft.read_index(1)
    first = of_kind(settle(replica), K.HEARTBEAT)[0].context
    give(replica, message(K.HEARTBEAT_REPLY, 2, 1, context=first))
    raft.read_index(2)
    settle(replica)
    give(replica, message(K.HEARTBEAT_REPLY, 3, 1, context=first))
    assert [read.context for read in replica.reads] == [1]


def test_reads_die_with_the_leadership() -> None:
    replica = replica_with()
    raft = lead(replica)
    raft.read_index(1)
    settle(replica)
    give(replica, message(K.HEARTBEAT, 2, 2))
    for _ in range(20):
        raft.tick()
    lead(replica)
    raft.tick()
    rounds = of_kind(settle(replica), K.HEARTBEAT)
    give(replica, message(K.HEARTBEAT_REPLY, 2, raft.term, context=1))
    assert [one.context for one in rounds] == [0, 0]
    assert not replica.reads


def test_an_old_reply_does_not_end_a_snapshot() -> None:
    replica = replica_with()
    raft = lead(replica, acknowledge=False)
    for _ in range(3):
        raft.propose(b"x")
    settle(replica)
    acknowledge_all(replica, 2)
    replica.compact()
    raft.tick()
    sent = give(replica, message(K.HEARTBEAT_REPLY, 3, raft.term))
    assert of_kind(sent, K.SNAPSHOT)
    acknowledge_all(replica, 3, index=1)
    assert raft.status().progress[NodeId(3)].state == "snapshot"
    acknowledge_all(replica, 3, index=4)
    assert raft.status().progress[NodeId(3)].state == "replicate"


# ---- sleeping


@pytest.mark.parametrize("role", ["follower", "leader", "candidate", "learner"])
def test_sleeping_until_the_next_action_misses_nothing(role: str) -> None:
    """Nothing happens before the tick that ticks_until_action names, and something on it."""
    membership = members(2, 3, learners=(1,)) if role == "learner" else members(1, 2, 3)
    replica = replica_with([1], membership=membership, settings=settings_of(1, heartbeat_ticks=3))
    raft = replica.raft
    if role == "leader":
        lead(replica)
    elif role == "candidate":
        raft.campaign()
        settle(replica)
    else:
        give(replica, message(K.HEARTBEAT, 2, 1))
    if role == "learner":
        assert raft.ticks_until_action() == NEVER_TICKS
        return
    for _ in range(5):
        ticks = raft.ticks_until_action()
        before = (raft.role, raft.term)
        for _ in range(ticks - 1):
            raft.tick()
            assert not raft.has_ready()
            assert (raft.role, raft.term) == before
        raft.tick()
        # A leader also wakes to count who answered, which may have no visible outcome.
        assert raft.has_ready() or (raft.role, raft.term) != before or role == "leader"
        settle(replica)


# ---- starting


def test_a_replica_without_a_membership_waits_for_a_snapshot() -> None:
    replica = replica_with(membership=Membership(frozenset()))
    for _ in range(50):
        replica.raft.tick()
    assert not replica.raft.has_ready()
    (reply,) = give(replica, message(K.APPEND, 2, 1, entries=entries_of([1]), commit=1))
    assert (reply.reject, reply.index) == (True, 0)
    assert replica.raft.log.last_index == 0


def test_a_replica_outside_the_snapshots_membership_ignores_it() -> None:
    replica = replica_with([1])
    meta = SnapshotMeta(LogIndex(5), Term(1), members(2, 3))
    give(replica, message(K.SNAPSHOT, 2, 1, snapshot=meta))
    assert replica.raft.log.last_index == 1


def test_applied_entries_are_committed_after_a_restart() -> None:
    """The saved commit index may lag behind: its last advance needs no sync."""
    replica = replica_with([1, 1, 1], commit=1)
    replica.disk.applied = LogIndex(3)
    replica.crash_and_restart()
    assert replica.raft.log.commit == 1
    replica = replica_with([1, 1, 1], commit=1)
    replica.disk.applied = LogIndex(3)
    raft = type(replica.raft)(
        replica.settings,
        replica.disk.log,
        replica.disk.hard_state,
        replica.disk.membership,
        replica.disk.applied,
        rng=_Lowest(),
    )
    assert raft.log.commit == 3


class _Lowest:
    def randrange(self, start: int, stop: int) -> int:
        assert start < stop
        return start


def test_every_role_can_be_left() -> None:
    assert set(TRANSITIONS) == set(Role)
    for targets in TRANSITIONS.values():
        assert Role.FOLLOWER in targets


def test_a_peer_that_lost_its_log_and_says_so_is_believed() -> None:
    """It had acknowledged entry 4, was rebuilt from nothing, and the snapshot that it gets ends before that entry."""
    replica = replica_with()
    raft = lead(replica, acknowledge=False)
    for _ in range(3):
        raft.propose(b"x")
    settle(replica)
    acknowledge_all(replica, 3, index=2)
    acknowledge_all(replica, 2)
    assert raft.log.commit == raft.status().progress[NodeId(2)].match == 4
    nothing = message(K.APPEND_REPLY, 2, raft.term, index=0, reject=True)
    give(replica, nothing)
    assert (raft.log.commit, raft.status().progress[NodeId(2)].match) == (4, 0)
    raft.tick()
    give(replica, message(K.HEARTBEAT_REPLY, 2, raft.term))
    assert of_kind(give(replica, nothing), K.SNAPSHOT)
    raft.report_snapshot(NodeId(2), ok=True)
    acknowledge_all(replica, 2, index=3)
    assert raft.status().progress[NodeId(2)].match == 3
    assert raft.status().progress[NodeId(2)].state == "replicate"
