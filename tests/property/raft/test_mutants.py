"""A suite that finds nothing proves nothing: each known bug is found by the script that stands for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.property.raft import mutants
from tests.simulation.scripts.runner import rewrite
from tests.unit.raft.safety import Violation

if TYPE_CHECKING:
    from shardworker.raft import Raft

SCRIPTS = Path(__file__).parents[2] / "simulation" / "scripts"


@pytest.mark.parametrize(
    ("mutant", "script", "guarantee"),
    [
        (mutants.VoteNotPersisted, "election_vote_survives_crash", "election safety"),
        (mutants.CommitsOldTerm, "figure_8", "state machine safety"),
        (mutants.ReadsWithoutRound, "reads_slow_clock", "stale read"),
        (mutants.ReadsWithoutRound, "reads_deposed", "stale read"),
        (mutants.ReadsBeforeCommittingInTerm, "reads_new_leader", "stale read"),
        (mutants.SnapshotWithoutMembership, "snapshot", "membership"),
        (mutants.LearnersCounted, "learner_not_counted", "leader completeness"),
        (mutants.TwoChangesInFlight, "membership_one_at_a_time", "state machine safety"),
        (mutants.AcknowledgesBeforeSync, "lone_voter", "leader completeness"),
        (mutants.CountsItselfBeforeSync, "leader_own_sync", "state machine safety"),
    ],
)
def test_the_bug_is_found(mutant: type[Raft], script: str, guarantee: str) -> None:
    text = (SCRIPTS / f"{script}.txt").read_text()
    rewrite(text)
    with pytest.raises(Violation, match=guarantee):
        rewrite(text, mutant)
