"""One test per claim of the Raft paper (extended version) and of Ongaro's thesis; the section is in its
docstring.

Claims about whole groups over time are in tests/simulation/scripts and tests/property/raft.
"""

from __future__ import annotations

import random

import pytest

from shardworker.raft import (
    Accepted,
    Entry,
    EntryKind,
    LogIndex,
    MembershipChange,
    MessageKind,
    NodeId,
    Raft,
    Reason,
    Rejected,
    Role,
    SnapshotMeta,
    Step,
    StepKind,
    Term,
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
    terms_of,
)
from tests.unit.raft.replica import Replica, members, settings_of

K = MessageKind
PLAIN = settings_of(1, pre_vote=False, check_quorum=False)
"""The paper's own Raft, without the thesis' additions."""


def in_role(role: Role) -> Replica:
    replica = replica_with([1], settings=PLAIN)
    if role is Role.CANDIDATE:
        replica.raft.campaign()
        settle(replica)
    elif role is Role.PRE_CANDIDATE:
        replica = replica_with([1])
        replica.raft.campaign()
        settle(replica)
    elif role is Role.LEADER:
        lead(replica)
    assert replica.raft.role is role
    return replica


# ---- terms


@pytest.mark.parametrize("role", list(Role))
def test_a_higher_term_makes_a_follower(role: Role) -> None:
    """5.1: whoever learns of a later term follows it, whatever it was before."""
    replica = in_role(role)
    give(replica, message(K.APPEND, 2, 9))
    assert (replica.raft.role, replica.raft.term, replica.raft.leader) == (Role.FOLLOWER, 9, 2)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", [K.APPEND, K.VOTE, K.APPEND_REPLY, K.VOTE_REPLY, K.HEARTBEAT, K.SNAPSHOT])
def test_a_stale_term_changes_nothing(role: Role, kind: MessageKind) -> None:
    """5.1: a request with a stale term is rejected."""
    replica = in_role(role)
    before = replica.raft.status()
    stale = message(kind, 2, 0, index=0, entries=entries_of([0]), commit=1)
    give(replica, stale)
    assert replica.raft.status() == before


# ---- elections


def test_replicas_start_as_followers() -> None:
    """5.2: nobody starts as anything else."""
    assert replica_with([1, 1]).raft.role is Role.FOLLOWER


def test_heartbeats_keep_a_follower() -> None:
    """5.2: a follower that keeps hearing from a leader stays one."""
    replica = replica_with([1], settings=PLAIN)
    for _ in range(100):
        replica.raft.tick()
        give(replica, message(K.HEARTBEAT, 2, 1))
    assert replica.raft.role is Role.FOLLOWER


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_an_election_timeout_starts_an_election(role: Role) -> None:
    """5.2: a new term, a vote for itself, and requests to all others at once; a candidate that times out does
    it again."""
    replica = in_role(role)
    term = replica.raft.term
    sent = []
    for _ in range(2 * PLAIN.election_ticks):
        replica.raft.tick()
        sent += settle(replica)
        if replica.raft.term > term:
            break
    assert replica.raft.role is Role.CANDIDATE
    assert replica.raft.term == term + 1
    assert replica.disk.hard_state.vote == 1
    assert [(one.to, one.term) for one in of_kind(sent, K.VOTE)] == [(2, term + 1), (3, term + 1)]


@pytest.mark.parametrize(
    ("voters", "granted", "refused", "role"),
    [
        (1, 0, 0, Role.LEADER),
        (3, 1, 0, Role.LEADER),
        (3, 2, 0, Role.LEADER),
        (3, 1, 1, Role.LEADER),
        (3, 0, 1, Role.CANDIDATE),
        (3, 0, 2, Role.FOLLOWER),
        (4, 1, 0, Role.CANDIDATE),
        (5, 2, 0, Role.LEADER),
        (5, 1, 1, Role.CANDIDATE),
        (5, 1, 3, Role.FOLLOWER),
    ],
)
def test_a_majority_elects(voters: int, granted: int, refused: int, role: Role) -> None:
    """5.2: more than half of the voters elect; once they cannot any more, the candidate gives up."""
    replica = replica_with(membership=members(*range(1, voters + 1)), settings=PLAIN)
    replica.raft.campaign()
    settle(replica)
    answers = [False] * granted + [True] * refused
    for peer, reject in enumerate(answers, start=2):
        give(replica, message(K.VOTE_REPLY, peer, 1, reject=reject))
    assert replica.raft.role is role


def test_the_same_voter_counts_once() -> None:
    """5.2: one vote per server; a repeated reply is no second one."""
    replica = replica_with(membership=members(1, 2, 3, 4, 5), settings=PLAIN)
    replica.raft.campaign()
    for _ in range(3):
        give(replica, message(K.VOTE_REPLY, 2, 1))
    assert replica.raft.role is Role.CANDIDATE


@pytest.mark.parametrize(("vote", "granted"), [(0, True), (2, True), (3, False)])
def test_one_vote_per_term(vote: int, granted: bool) -> None:
    """5.2: the first candidate of a term gets the vote, and may get it again; no other does."""
    replica = replica_with(term=1, vote=vote, settings=PLAIN)
    (reply,) = give(replica, message(K.VOTE, 2, 1))
    assert reply.reject is not granted


def test_a_vote_is_durable_before_it_is_sent() -> None:
    """5.2 and figure 2: term and vote are on disk before any answer."""
    replica = replica_with(settings=PLAIN)
    replica.raft.step(message(K.VOTE, 2, 1))
    ready = replica.raft.ready()
    assert ready.must_sync
    assert ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.vote) == (1, 2)
    assert not ready.early_messages
    assert [one.kind for one in ready.messages] == [K.VOTE_REPLY]


def test_a_candidate_yields_to_the_leader_of_its_term() -> None:
    """5.2: a leader of the same term has won it: the candidate follows."""
    replica = in_role(Role.CANDIDATE)
    give(replica, message(K.APPEND, 3, replica.raft.term, index=1, log_term=1))
    assert (replica.raft.role, replica.raft.leader) == (Role.FOLLOWER, 3)


def test_election_timeouts_are_spread() -> None:
    """5.2: timeouts are drawn from an interval, so that votes rarely split."""
    seen = set()
    rng = random.Random(1)
    for _ in range(300):
        replica = replica_with()
        raft = Raft(PLAIN, replica.disk.log, replica.disk.hard_state, members(1, 2, 3), LogIndex(0), rng)
        seen.add(raft.ticks_until_action())
    assert seen == set(range(10, 20))


def test_a_leader_sends_heartbeats() -> None:
    """5.2: a leader shows itself to every follower in every heartbeat interval."""
    replica = replica_with()
    raft = lead(replica)
    raft.tick()
    assert [one.to for one in of_kind(settle(replica), K.HEARTBEAT)] == [2, 3]


# ---- replication


def test_a_proposal_goes_to_everyone() -> None:
    """5.3: the leader appends, then sends the entry to all followers at once, with its predecessor's index
    and term."""
    replica = replica_with()
    raft = lead(replica)
    answer = raft.propose(b"x")
    assert answer == Accepted(LogIndex(2), Term(1))
    sent = of_kind(settle(replica), K.APPEND)
    assert [(one.to, one.index, one.log_term, one.entries[0].data) for one in sent] == [
        (2, 1, 1, b"x"),
        (3, 1, 1, b"x"),
    ]


@pytest.mark.parametrize(
    ("voters", "having", "committed"),
    [(3, 0, False), (3, 1, True), (5, 1, False), (5, 2, True), (4, 1, False), (4, 2, True)],
)
def test_a_majority_commits(voters: int, having: int, committed: bool) -> None:
    """5.3: an entry is committed once its leader knows it on a majority, itself included."""
    replica = replica_with(membership=members(*range(1, voters + 1)))
    raft = lead(replica)
    answer = raft.propose(b"x")
    assert isinstance(answer, Accepted)
    settle(replica)
    for peer in range(2, 2 + having):
        acknowledge_all(replica, peer)
    assert (raft.log.commit >= answer.index) is committed
    assert (replica.disk.applied >= answer.index) is committed


def test_a_commit_covers_everything_before() -> None:
    """5.3: with an entry all before it are committed, also those of earlier leaders."""
    replica = replica_with([1, 1, 2], commit=1)
    lead(replica)
    assert replica.disk.applied == 4
    assert [entry.term for entry in replica.disk.state] == [1, 1, 2, 3]


def test_followers_learn_the_commit_index() -> None:
    """5.3: appends carry the leader's commit index; followers apply up to it, in log order."""
    replica = replica_with(settings=PLAIN)
    give(replica, message(K.APPEND, 2, 1, entries=entries_of([1, 1, 1])))
    assert replica.disk.applied == 0
    give(replica, message(K.APPEND, 2, 1, index=3, log_term=1, commit=2))
    assert [entry.index for entry in replica.disk.state] == [1, 2]


def test_a_commit_index_never_passes_what_was_checked() -> None:
    """Figure 2, AppendEntries 5: commitIndex = min(leaderCommit, index of last new entry). What follows in this log may
    be an old leader's."""
    replica = replica_with([1, 1, 1], settings=PLAIN)
    give(replica, message(K.APPEND, 2, 2, index=1, log_term=1, commit=3))
    assert replica.raft.log.commit == 1


@pytest.mark.parametrize(
    ("index", "log_term", "fits"), [(0, 0, True), (1, 1, True), (2, 2, True), (2, 3, False), (3, 3, False)]
)
def test_the_consistency_check(index: int, log_term: int, fits: bool) -> None:
    """5.3: without the same entry before them, new entries are refused."""
    replica = replica_with([1, 2], settings=PLAIN)
    new = entries_of([3], first=index + 1)
    (reply,) = give(replica, message(K.APPEND, 2, 3, index=index, log_term=log_term, entries=new))
    assert reply.reject is not fits
    assert reply.index == (index + 1 if fits else index)


@pytest.mark.parametrize(
    ("index", "log_term", "new", "result"),
    [
        (2, 2, [3], [1, 2, 3]),
        (1, 1, [3, 4], [1, 3, 4]),
        (0, 0, [1], [1, 2]),
        (0, 0, [3], [3]),
        (1, 1, [2], [1, 2]),
    ],
)
def test_conflicts_are_overwritten_and_nothing_else(
    index: int, log_term: int, new: list[int], result: list[int]
) -> None:
    """5.3 and figure 2, AppendEntries 3: an entry of another term goes, with all after it; one that agrees
    stays, with what follows."""
    replica = replica_with([1, 2], settings=PLAIN)
    fresh = entries_of(new, first=index + 1)
    give(replica, message(K.APPEND, 2, 4, index=index, log_term=log_term, entries=fresh))
    assert terms_of(replica) == result
    disk = replica.disk.log
    assert disk.last_index() == len(result)


@pytest.mark.parametrize(
    "terms",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
    ids="abcdef",
)
def test_a_leader_forces_its_log_on_followers(terms: list[int]) -> None:
    """5.3 and figure 7: each of the logs (a) to (f) there ends up equal to the leader's."""
    leader = replica_with([1, 1, 1, 4, 4, 5, 5, 6, 6, 6], term=7)
    follower = replica_with(terms, term=7, node=2, settings=settings_of(2))
    lead(leader, acknowledge=False)
    rounds = 0
    arriving = [message(K.HEARTBEAT_REPLY, 2, leader.raft.term)]
    leader.raft.tick()
    while arriving and rounds < 20:
        rounds += 1
        sent = [one for one in give(leader, *arriving) if one.to == 2]
        arriving = [one for one in give(follower, *sent) if one.to == 1]
    assert terms_of(follower) == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]
    # One round trip per conflicting term, not per entry (the optimisation at the end of 5.3).
    assert rounds <= 6


def test_appends_are_idempotent() -> None:
    """5.5: a repeated request does no harm."""
    replica = replica_with(settings=PLAIN)
    append = message(K.APPEND, 2, 1, entries=entries_of([1, 1]), commit=1)
    first = give(replica, append)
    again = give(replica, append, append)
    assert terms_of(replica) == [1, 1]
    assert not any(one.reject for one in (*first, *again))


def test_an_old_append_does_not_shorten_the_log() -> None:
    """5.3: a reordered, shorter append that agrees removes nothing."""
    replica = replica_with(settings=PLAIN)
    give(replica, message(K.APPEND, 2, 1, entries=entries_of([1, 1, 1])))
    give(replica, message(K.APPEND, 2, 1, entries=entries_of([1])))
    assert terms_of(replica) == [1, 1, 1]


# ---- safety


@pytest.mark.parametrize(
    ("log", "last_term", "last_index", "granted"),
    [
        ([1], 1, 1, True),
        ([1], 1, 2, True),
        ([1, 1], 1, 1, False),
        ([1], 2, 1, True),
        ([1, 1], 2, 1, True),
        ([2], 1, 5, False),
        ([1, 2], 2, 2, True),
        ([1, 2], 2, 1, False),
    ],
)
@pytest.mark.parametrize("kind", [K.VOTE, K.PRE_VOTE])
def test_only_an_up_to_date_candidate_gets_a_vote(
    log: list[int], last_term: int, last_index: int, granted: bool, kind: MessageKind
) -> None:
    """5.4.1: no vote for a candidate with a less complete log: the later last term wins, with equal ones the
    longer log. The same holds for pre-votes (thesis 9.6)."""
    replica = replica_with(log, settings=PLAIN)
    (reply,) = give(replica, message(kind, 2, 5, index=last_index, log_term=last_term))
    assert reply.reject is not granted


def test_old_terms_are_not_committed_by_counting() -> None:
    """5.4.2: counting replicas commits only entries of the leader's own term; older ones come with them."""
    replica = replica_with([1, 2])
    raft = lead(replica, acknowledge=False)
    acknowledge_all(replica, 2, index=2)
    assert raft.log.commit == 0
    acknowledge_all(replica, 2, index=3)
    assert raft.log.commit == 3


def test_committed_entries_are_never_overwritten() -> None:
    """5.4.3: a follower answers an append below its commit index with that index and changes nothing."""
    replica = replica_with([1, 1, 1], commit=3, settings=PLAIN)
    (reply,) = give(replica, message(K.APPEND, 2, 5, entries=entries_of([5, 5, 5])))
    assert (reply.reject, reply.index) == (False, 3)
    assert terms_of(replica) == [1, 1, 1]


# ---- compaction, clients


def test_a_leader_sends_a_snapshot_for_what_it_discarded() -> None:
    """7: a follower that needs discarded entries gets a snapshot instead."""
    replica = replica_with()
    raft = lead(replica, acknowledge=False)
    acknowledge_all(replica, 2)
    raft.propose(b"x")
    settle(replica)
    acknowledge_all(replica, 2)
    replica.compact()
    raft.tick()
    sent = give(replica, message(K.HEARTBEAT_REPLY, 3, raft.term))
    (snapshot,) = of_kind(sent, K.SNAPSHOT)
    assert snapshot.snapshot == SnapshotMeta(LogIndex(2), Term(1), members(1, 2, 3))


def test_a_snapshot_replaces_a_shorter_log() -> None:
    """7: a snapshot of more than the log holds replaces all of it."""
    snapshots = {LogIndex(5): entries_of([1, 1, 1, 2, 2])}
    replica = Replica(PLAIN, members(1, 2, 3), snapshots=snapshots)
    give(replica, message(K.APPEND, 2, 1, entries=entries_of([1, 1])))
    meta = SnapshotMeta(LogIndex(5), Term(2), members(1, 2, 3, 4))
    (reply,) = give(replica, message(K.SNAPSHOT, 2, 2, snapshot=meta))
    assert (reply.kind, reply.index) == (K.APPEND_REPLY, 5)
    assert (replica.disk.applied, replica.disk.log.first_index()) == (5, 6)
    assert replica.raft.membership == members(1, 2, 3, 4)


def test_a_snapshot_of_a_prefix_keeps_the_log() -> None:
    """7: a snapshot of what the log already holds leaves it as it is; only the commit index is new."""
    replica = replica_with([1, 1, 1], settings=PLAIN)
    meta = SnapshotMeta(LogIndex(2), Term(1), members(1, 2, 3))
    replica.raft.step(message(K.SNAPSHOT, 2, 1, snapshot=meta))
    ready = replica.raft.ready()
    assert ready.snapshot is None
    assert replica.raft.log.last_index == 3
    assert replica.raft.log.commit == 2


def test_a_leader_opens_its_term_with_an_empty_entry() -> None:
    """8: so that it learns what is committed."""
    replica = replica_with([1, 1])
    raft = lead(replica)
    log = raft.log
    opened = log.entries(LogIndex(3), LogIndex(log.last_index + 1), 1000)
    assert list(opened) == [Entry(raft.term, LogIndex(3), EntryKind.COMMANDS, b"")]


# ---- thesis


def test_transfer_to_a_caught_up_peer() -> None:
    """Thesis 3.10: no more proposals, and TIMEOUT_NOW once the target has the whole log."""
    replica = replica_with()
    raft = lead(replica)
    assert isinstance(raft.transfer_leadership(NodeId(3)), Accepted)
    assert raft.propose(b"x") == Rejected(Reason.TRANSFERRING, NodeId(3))
    assert [(one.to, one.kind) for one in settle(replica)] == [(3, K.TIMEOUT_NOW)]


def test_transfer_is_given_up_after_an_election_timeout() -> None:
    """Thesis 3.10: a target that does not take over within an election timeout is given up."""
    replica = replica_with(settings=settings_of(1, check_quorum=False))
    raft = lead(replica)
    raft.transfer_leadership(NodeId(3))
    for _ in range(10):
        raft.tick()
    assert isinstance(raft.propose(b"x"), Accepted)


@pytest.mark.parametrize("target", [None, 3])
def test_asking_again_for_a_transfer_does_not_hold_up_the_quorum_check(target: int | None) -> None:
    """Thesis 6.2: a leader that nobody answers steps down, however often it is asked to hand over."""
    replica = replica_with([1])
    raft = lead(replica)
    for _ in range(2 * raft.settings.election_ticks):
        raft.transfer_leadership(None if target is None else NodeId(target))
        raft.tick()
        settle(replica)
    assert raft.role is Role.FOLLOWER


def test_the_target_of_a_transfer_campaigns_at_once() -> None:
    """Thesis 3.10: the target campaigns without waiting; its requests carry the mark that breaks the lease
    (4.2.3)."""
    replica = replica_with([1])
    give(replica, message(K.HEARTBEAT, 2, 1))
    sent = give(replica, message(K.TIMEOUT_NOW, 2, 1))
    assert replica.raft.role is Role.CANDIDATE
    assert [(one.kind, one.forced) for one in sent] == [(K.VOTE, True), (K.VOTE, True)]


def test_one_membership_change_at_a_time() -> None:
    """Thesis 4.1: no change begins before the previous one is committed, here: applied. See also the script
    membership_one_at_a_time."""
    replica = replica_with([1, 1])
    raft = lead(replica, acknowledge=False)
    # What an earlier leader may have left in the tail counts as a change in flight, too.
    assert raft._change_in_flight()
    acknowledge_all(replica, 2)
    assert not raft._change_in_flight()


def test_learners_do_not_count() -> None:
    """Thesis 4.2.1: a server that catches up gets the log and decides nothing."""
    replica = replica_with(membership=members(1, 2, 3, learners=(4, 5)))
    raft = lead(replica)
    raft.propose(b"x")
    settle(replica)
    acknowledge_all(replica, 4)
    acknowledge_all(replica, 5)
    assert raft.log.commit == 1
    acknowledge_all(replica, 2)
    assert raft.log.commit == 2


@pytest.mark.parametrize("kind", [K.VOTE, K.PRE_VOTE])
@pytest.mark.parametrize(("forced", "answered"), [(False, False), (True, True)])
def test_the_lease_refuses_disruptive_candidates(kind: MessageKind, forced: bool, answered: bool) -> None:
    """Thesis 4.2.3: within an election timeout of hearing from a leader, vote requests change neither term
    nor vote, save in a leadership transfer."""
    replica = replica_with([1])
    give(replica, message(K.HEARTBEAT, 2, 1))
    sent = give(replica, message(kind, 3, 5, index=9, log_term=1, forced=forced))
    assert bool(sent) is answered
    for _ in range(10):
        replica.raft.tick()
    assert give(replica, message(kind, 3, 5, index=9, log_term=1))


def test_a_leader_without_a_quorum_steps_down() -> None:
    """Thesis 6.2: a leader that reaches no majority for an election timeout stops leading."""
    replica = replica_with()
    raft = lead(replica)
    for _ in range(10):
        raft.tick()
    assert raft.role is Role.LEADER  # it had heard from everyone just before
    for tick in range(10):
        raft.tick()
        assert raft.role is (Role.FOLLOWER if tick == 9 else Role.LEADER)


def test_a_leader_with_a_quorum_stays() -> None:
    """Thesis 6.2, the other half."""
    replica = replica_with()
    raft = lead(replica)
    for _ in range(50):
        raft.tick()
        give(replica, message(K.HEARTBEAT_REPLY, 2, raft.term))
    assert raft.role is Role.LEADER


def test_reads_are_confirmed_by_a_majority() -> None:
    """Thesis 6.4, steps 2 to 5: the commit index at the time is the read's index, and it is safe after one
    round."""
    replica = replica_with(membership=members(1, 2, 3, 4, 5))
    raft = lead(replica)
    raft.read_index(7)
    (heartbeat, *_) = of_kind(settle(replica), K.HEARTBEAT)
    give(replica, message(K.HEARTBEAT_REPLY, 2, raft.term, context=heartbeat.context))
    assert not replica.reads
    give(replica, message(K.HEARTBEAT_REPLY, 2, raft.term, context=heartbeat.context))
    assert not replica.reads  # the same replica twice is no majority
    give(replica, message(K.HEARTBEAT_REPLY, 3, raft.term, context=heartbeat.context))
    assert [(read.context, read.index) for read in replica.reads] == [(7, 1)]


def test_reads_outlive_the_peers_they_wait_for() -> None:
    """Thesis 6.4 and 4.1: the only peer that a round waits for is removed, and whoever is left is a majority."""
    replica = replica_with([1], membership=members(1, 2))
    raft = lead(replica)
    raft.propose_membership(MembershipChange((Step(StepKind.REMOVE, NodeId(2)),)))
    settle(replica)
    raft.read_index(7)
    settle(replica)
    assert not replica.reads
    acknowledge_all(replica, 2)
    assert raft.membership.nodes() == (1,)
    assert [read.context for read in replica.reads] == [7]


def test_reads_wait_for_a_commit_of_the_term() -> None:
    """Thesis 6.4, step 1: before that the leader may not know of all that was acknowledged."""
    replica = replica_with([1, 1], commit=1)
    raft = lead(replica, acknowledge=False)
    raft.read_index(7)
    assert not of_kind(settle(replica), K.HEARTBEAT)
    sent = acknowledge_all(replica, 2)
    assert of_kind(sent, K.HEARTBEAT)
    round_number = of_kind(sent, K.HEARTBEAT)[0].context
    give(replica, message(K.HEARTBEAT_REPLY, 2, raft.term, context=round_number))
    assert [read.index for read in replica.reads] == [3]


def test_pre_vote_disturbs_nothing() -> None:
    """Thesis 9.6: the term is raised only after a majority said it would vote for this candidate."""
    replica = replica_with([1])
    for _ in range(100):
        replica.raft.tick()
        settle(replica)
    assert (replica.raft.role, replica.raft.term) == (Role.PRE_CANDIDATE, 1)
    give(replica, message(K.PRE_VOTE_REPLY, 2, 2))
    assert (replica.raft.role, replica.raft.term) == (Role.CANDIDATE, 2)


def test_a_pre_vote_is_no_vote() -> None:
    """Thesis 9.6: answering one changes neither term nor vote, and any number of candidates may get one."""
    replica = replica_with([1], settings=PLAIN)
    for candidate in (2, 3):
        (reply,) = give(replica, message(K.PRE_VOTE, candidate, 2, index=1, log_term=1))
        assert (reply.reject, reply.term) == (False, 2)
    assert (replica.disk.hard_state.term, replica.disk.hard_state.vote) == (1, 0)


def test_a_leader_sends_before_its_own_sync() -> None:
    """Thesis 10.2.1: appends leave while the leader's own write is under way; its copy counts when that is
    done."""
    replica = replica_with()
    raft = lead(replica)
    raft.propose(b"x")
    ready = raft.ready()
    assert [one.kind for one in ready.early_messages] == [K.APPEND, K.APPEND]
    raft.step(message(K.APPEND_REPLY, 2, 1, index=2))
    assert raft.log.commit == 1  # one durable copy: the follower's
    raft.advance(ready)
    assert raft.log.commit == 2  # and the leader's own


def test_a_commit_without_the_leaders_own_copy() -> None:
    """Thesis 10.2.1: a majority of followers commits even before the leader's sync."""
    replica = replica_with()
    raft = lead(replica)
    raft.propose(b"x")
    ready = raft.ready()
    for peer in (2, 3):
        raft.step(message(K.APPEND_REPLY, peer, 1, index=2))
    assert raft.log.commit == 2
    raft.advance(ready)
