"""What a replica on an empty disk concludes from what the other voters say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardworker.raft import LogIndex, NodeId, Term
from shardworker.replica.census import Answer, Begin, BeTold, Rebuild, Wait, judge
from shardworker.store import LogEnd

ME = NodeId(1)
NOTHING = LogEnd(Term(0), LogIndex(0))
THREE = frozenset(map(NodeId, (1, 2, 3)))


def new() -> Answer:
    return Answer(NOTHING, Term(0), waits=True, voters=frozenset())


def begun(term: int = 0, *, beside: bool = False) -> Answer:
    """It has promised something, though its log is empty; beside: only after this replica was already asking."""
    return Answer(NOTHING, Term(term), waits=False, voters=THREE, beside=beside)


def holds(index: int, term: int, voters: frozenset[NodeId] = THREE) -> Answer:
    """Its last entry is of its own term."""
    return Answer(LogEnd(Term(term), LogIndex(index)), Term(term), False, voters)


def judge_three(two: Answer | None, three: Answer | None, *, patience_over: bool = False) -> object:
    answers = {NodeId(node): answer for node, answer in ((2, two), (3, three)) if answer is not None}
    return judge(THREE, answers, patience_over=patience_over)


def test_a_shard_begins_when_none_of_its_voters_holds_anything() -> None:
    assert judge_three(new(), new()) == Begin(Term(0))
    assert judge_three(new(), begun()) == Begin(Term(0))


def test_it_votes_for_nobody_else_in_a_term_that_the_others_know() -> None:
    assert judge_three(new(), begun(term=3)) == Begin(Term(3))
    assert judge_three(begun(term=5), begun(term=3)) == Begin(Term(5))


def test_a_majority_begins_once_the_others_had_time_to_speak() -> None:
    assert isinstance(judge_three(new(), None), Wait)
    assert judge_three(new(), None, patience_over=True) == Begin(Term(0))


def test_one_that_has_begun_has_promised_something_though_its_log_is_empty() -> None:
    for answer in (begun(), begun(term=2), Answer(NOTHING, Term(1), waits=True, voters=frozenset())):
        assert judge_three(answer, None, patience_over=True) == Wait(
            "the shard has begun, and 1 of 2 other voters needed have told what they hold"
        )


def test_one_that_began_while_this_replica_asked_counts_as_one_that_has_not() -> None:
    assert judge_three(begun(beside=True), None, patience_over=True) == Begin(Term(0))
    assert judge_three(begun(term=1, beside=True), None, patience_over=True) == Begin(Term(1))


def test_nobody_begins_alone() -> None:
    assert judge_three(None, None, patience_over=True) == Wait("1 of 3 voters are known to be new")


def test_a_shard_with_data_is_not_begun_again() -> None:
    assert judge_three(new(), holds(1, 1), patience_over=True) == Wait(
        "the shard has data, and 1 of 2 other voters needed have told what they hold"
    )


def test_it_takes_on_the_most_that_any_of_them_knows() -> None:
    assert judge_three(holds(7, 2), holds(9, 2)) == Rebuild(LogEnd(Term(2), LogIndex(9)), Term(2))
    assert judge_three(holds(7, 2), begun(term=4)) == Rebuild(LogEnd(Term(2), LogIndex(7)), Term(4))


def test_it_waits_for_nothing_that_only_a_deposed_leader_holds() -> None:
    """Whose newest entries may never be committed; what was, the later leader has."""
    assert judge_three(holds(70, 2), holds(5, 3)) == Rebuild(LogEnd(Term(3), LogIndex(5)), Term(3))


def test_the_word_of_one_that_waits_itself_is_worth_nothing() -> None:
    assert isinstance(judge_three(holds(7, 2), new()), Wait)


def test_one_that_is_being_rebuilt_knows_its_promises_but_no_members() -> None:
    rebuilding = holds(9, 4, voters=frozenset())
    assert judge_three(holds(7, 2), rebuilding) == Rebuild(LogEnd(Term(4), LogIndex(9)), Term(4))


def test_a_shard_that_has_other_members_by_now_has_to_tell() -> None:
    assert judge_three(holds(7, 2, THREE - {ME}), holds(7, 2)) == BeTold()


@st.composite
def lost_disks(
    draw: st.DrawFn, *, indexes: st.SearchStrategy[int]
) -> tuple[frozenset[NodeId], dict[NodeId, Answer], int, int]:
    """Voters; the answers of some; an index and a term that this replica made known to a majority with others. Index 0:
    a vote, and nobody holds anything."""
    count = draw(st.integers(2, 9))
    voters = frozenset(map(NodeId, range(1, count + 1)))
    others = sorted(voters - {ME})
    partners = draw(st.permutations(others))[: count // 2]
    index, term = draw(indexes), draw(st.integers(1, 9))
    knows = {}
    for node in others:
        now = draw(st.integers(term if node in partners else 0, 10))
        last = NOTHING
        if index:
            last_term = draw(st.integers(term if node in partners else 0, now))
            # Whoever has gone on in a later term has dropped what was never committed.
            least = index if node in partners and last_term == term else 1
            last = LogEnd(Term(last_term), LogIndex(draw(st.integers(least, 60))))
        knows[node] = Answer(last, Term(now), False, voters)
    answering = draw(st.sets(st.sampled_from(others)))
    return voters, {node: knows[node] for node in sorted(answering)}, index, term


@given(lost_disks(indexes=st.integers(1, 50)), st.booleans())
def test_nothing_that_a_majority_relied_on_is_forgotten(
    lost: tuple[frozenset[NodeId], dict[NodeId, Answer], int, int], patience_over: bool
) -> None:
    voters, answers, index, term = lost
    verdict = judge(voters, answers, patience_over=patience_over)
    assert not isinstance(verdict, Begin)
    if isinstance(verdict, Rebuild):
        assert verdict.until >= LogEnd(Term(term), LogIndex(index))
        assert verdict.term >= term
    if len(answers) == len(voters) - 1:
        assert isinstance(verdict, Rebuild), "whoever asks all of them learns enough"


@given(lost_disks(indexes=st.just(0)), st.booleans())
def test_no_vote_that_elected_somebody_is_given_again(
    lost: tuple[frozenset[NodeId], dict[NodeId, Answer], int, int], patience_over: bool
) -> None:
    voters, answers, _, term = lost
    verdict = judge(voters, answers, patience_over=patience_over)
    assert not isinstance(verdict, Rebuild)
    if isinstance(verdict, Begin):
        assert verdict.term >= term
    if len(answers) == len(voters) - 1:
        assert isinstance(verdict, Begin), "whoever asks all of them learns enough"
