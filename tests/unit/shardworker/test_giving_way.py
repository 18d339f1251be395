"""Upkeep goes on at once while nobody wants the replica, and takes its share of the time while clients do."""

from __future__ import annotations

from typing import Final

import pytest

from shardworker.replica.giving_way import LATELY_S, REST_S_MAX, Demand, Share

STEP_S: Final = 0.004
EACH_S: Final = 0.001
"""Of time that passes between two looks."""


class Upkeep:
    """Takes a step of STEP_S whenever it may, for as long as the test says."""

    def __init__(self, share_max: float) -> None:
        self.now_s = 100.0
        self.demand = Demand(lambda: self.now_s)
        self.share = Share(self.demand, share_max)

    def run(self, seconds: float, *, wanted: bool, step_s: float = STEP_S) -> list[float]:
        """When its steps began."""
        began: list[float] = []
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            if wanted:
                self.demand.notice()
            if self.share.may_step():
                began.append(self.now_s)
                self.now_s += step_s
                self.share.stepped(began[-1])
            else:
                self.now_s += EACH_S
        return began


def test_while_nobody_wants_the_replica_it_takes_all_the_time() -> None:
    assert len(Upkeep(0.2).run(4.0, wanted=False)) == pytest.approx(4.0 / STEP_S, abs=1)


@pytest.mark.parametrize("share", [0.15, 0.25, 0.5])
@pytest.mark.parametrize("step_s", [STEP_S, 5 * STEP_S])
def test_while_clients_do_it_takes_its_share_however_long_a_step_is(share: float, step_s: float) -> None:
    steps = Upkeep(share).run(20.0, wanted=True, step_s=step_s)
    assert len(steps) * step_s / 20.0 == pytest.approx(share, rel=0.1)


def test_it_goes_on_at_once_when_the_clients_have_gone() -> None:
    upkeep = Upkeep(0.01)
    upkeep.run(1.0, wanted=True)
    gone_s = upkeep.now_s
    steps = upkeep.run(1.0, wanted=False)
    assert steps[0] - gone_s <= LATELY_S + EACH_S
    assert len(steps) >= (1.0 - LATELY_S - EACH_S) / STEP_S - 1


def test_a_step_that_took_very_long_is_not_the_last_for_long() -> None:
    upkeep = Upkeep(0.01)
    upkeep.run(1.0, wanted=True, step_s=30.0)
    gap_s = upkeep.run(10.0, wanted=True)
    assert gap_s[0] - 130.0 <= REST_S_MAX + 2 * EACH_S


def test_who_rests_by_himself_is_told_for_how_long() -> None:
    upkeep = Upkeep(0.25)
    assert upkeep.share.rest_s(0.02) == 0.0
    upkeep.demand.notice()
    assert upkeep.share.rest_s(0.02) == pytest.approx(0.06)
    assert upkeep.share.rest_s(9.0) == REST_S_MAX
    upkeep.now_s += LATELY_S + EACH_S
    assert upkeep.share.rest_s(0.02) == 0.0
