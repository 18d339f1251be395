"""What a replicator that begins knows of the copies of the one before."""

from __future__ import annotations

import random
from dataclasses import replace

from coordinator.replication.handed_on import HandedOn
from coordinator.replication.report import CopyReport, Report, Rows, is_free, parse
from coordinator.replication.tail import STALLED_S, Lag, Tail

AT_S = 1_700_000_000.0
STUCK = CopyReport("t", 5, 40, 20.0, "backs off", False, "refused", 0.5, stuck_s=20.0)


def row(node: str) -> Rows:
    return Report.of(node, AT_S, [STUCK]).encode()


def test_who_goes_on_with_a_copy_counts_on() -> None:
    for node in ("n1", ""):  # who held the row has died, or let go of it
        one = HandedOn()
        one.take_up(row(node), now=100.0, wall_s=AT_S + 4.0)
        tail = Tail(random.Random(1), 100.0, one.take("t"))
        assert tail.lag(100.0) == Lag(0, 24.0)
        assert not tail.is_stalled(100.0)
        assert tail.is_stalled(100.0 + STALLED_S - 24.0)
        tail.heard(5, 5, 107.0)
        assert (tail.lag(108.0), tail.is_stalled(108.0)) == (Lag(0, 0.0), False)
        assert one.take("t") is None


def test_what_nobody_copies_yet_is_said_on() -> None:
    one = HandedOn()
    one.take_up(row("n1"), now=100.0, wall_s=AT_S + 4.0)
    (said,) = one.reports(108.0)
    assert (said.name, said.lag_revisions, said.lag_s, said.stuck_s, said.stalled) == (
        "t",
        40,
        32.0,
        32.0,
        True,
    )
    one.put(STUCK, 200.0)
    assert one.reports(201.0)[0].stuck_s == 21.0
    one.clear()
    assert one.reports(201.0) == []


def test_what_is_copied_here_is_said_once() -> None:
    """The lease may run out for a moment and be taken again while the copying goes on."""
    one = HandedOn()
    one.take_up(row("n1"), now=100.0, wall_s=AT_S + 4.0)
    mine = replace(STUCK, revision=7, does="follows")
    other = replace(STUCK, name="u")
    assert one.reports(101.0, [mine, other]) == [mine, other]
    assert [copy.name for copy in one.reports(101.0, [other])] == ["u", "t"]


def test_a_clock_that_is_behind_makes_nothing_younger() -> None:
    one = HandedOn()
    one.take_up(row("n1"), now=100.0, wall_s=AT_S - 3_600.0)
    assert one.reports(100.0) == [STUCK]


def test_a_row_is_free_once_its_holder_has_let_go_of_it() -> None:
    assert is_free(b"")
    assert is_free(row("").lease)
    assert parse(row("")) is None
    assert not is_free(row("n1").lease)
    assert not is_free(b"of a later version")
