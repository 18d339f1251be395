from __future__ import annotations

from shardworker.raft import LogIndex, NodeId
from shardworker.replica.digests import INDEXES_KEPT, Agreement, Digests, Doubt, compare

A, B, C, D = map(NodeId, (1, 2, 3, 4))
VOTERS = frozenset({A, B, C})
AT = LogIndex(256)


def digests() -> Digests:
    return Digests(A, every=256)


def test_two_of_three_outvote_the_third() -> None:
    assert compare(AT, {A: 7, B: 9, C: 9}, VOTERS) == Agreement(AT, 9, frozenset({B, C}), frozenset({A}))


def test_a_majority_is_enough() -> None:
    assert compare(AT, {B: 9, C: 9}, VOTERS) == Agreement(AT, 9, frozenset({B, C}), frozenset())


def test_one_voice_says_nothing() -> None:
    assert compare(AT, {A: 7}, VOTERS) is None
    assert compare(AT, {}, VOTERS) is None


def test_two_that_differ_are_a_doubt_until_the_third_speaks() -> None:
    assert compare(AT, {A: 7, B: 9}, VOTERS) == Doubt(AT)
    assert compare(AT, {A: 7, B: 9, C: 5}, VOTERS) == Doubt(AT)
    assert compare(AT, {A: 7, B: 9}, frozenset({A, B})) == Doubt(AT)


def test_learners_are_judged_but_do_not_judge() -> None:
    assert compare(AT, {A: 7, D: 9}, VOTERS) is None
    assert compare(AT, {A: 7, B: 7, D: 9}, VOTERS) == Agreement(AT, 7, frozenset({A, B}), frozenset({D}))
    assert compare(AT, {A: 7, D: 7}, frozenset({A, B})) is None


def test_every_so_many_entries() -> None:
    assert [index for index in range(1, 1025) if digests().is_due(LogIndex(index))] == [256, 512, 768, 1024]


def test_findings_come_once_and_again_with_news() -> None:
    own = digests()
    own.note(AT, 7)
    assert own.findings(VOTERS) == []
    own.hear(B, AT, 9)
    assert own.findings(VOTERS) == [Doubt(AT)]
    assert own.findings(VOTERS) == []
    own.hear(C, AT, 9)
    assert own.findings(VOTERS) == [Agreement(AT, 9, frozenset({B, C}), frozenset({A}))]


def test_a_leader_without_a_memory_judges_the_others() -> None:
    own = digests()
    own.hear(B, AT, 9)
    own.hear(C, AT, 9)
    assert own.findings(VOTERS) == [Agreement(AT, 9, frozenset({B, C}), frozenset())]


def test_what_is_told_once_is_told_again_to_a_new_leader() -> None:
    own = digests()
    own.note(LogIndex(256), 7)
    own.note(LogIndex(512), 8)
    assert own.take_unsent() == {256: 7, 512: 8}
    assert own.take_unsent() == {}
    own.send_all_again()
    assert own.take_unsent() == {256: 7, 512: 8}


def test_a_replaced_state_is_not_judged_by_its_past() -> None:
    own = digests()
    own.note(AT, 7)
    own.hear(B, AT, 9)
    own.forget_own()
    assert own.own(AT) is None
    assert own.take_unsent() == {}
    own.hear(C, AT, 9)
    assert own.findings(VOTERS) == [Agreement(AT, 9, frozenset({B, C}), frozenset())]


def test_memory_is_bounded() -> None:
    own = digests()
    for number in range(1, 1000):
        own.note(LogIndex(256 * number), number)
        own.hear(B, LogIndex(256 * number), number)
    assert own.own(LogIndex(256 * 999)) == 999
    assert own.own(LogIndex(256 * (999 - INDEXES_KEPT))) is None
    assert len(own.take_unsent()) == INDEXES_KEPT
    assert len(own.findings(frozenset({A, B}))) == INDEXES_KEPT
