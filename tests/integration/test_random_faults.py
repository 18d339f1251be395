"""Real clients on a real cluster while one fault after another strikes it, by chance; then every answer is judged, and
all that watchers were told meanwhile.

`make test` takes a fixed seed and a few faults, a soak fresh seeds and many."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import pytest

from tests.integration.clients import Load
from tests.integration.lessees import Lessees
from tests.integration.proxied import TABLES, ProxiedCluster
from tests.integration.proxy import FaultProxy
from tests.integration.random_faults import RandomFaults
from tests.integration.watchers import Watches

pytestmark = pytest.mark.alone

FRESH: Final = os.environ.get("BOATHOUSE_EXAMPLES") == "fresh"
SEED: Final = int(os.environ.get("BOATHOUSE_SEED", "3"))
FAULTS: Final = 60 if FRESH else 5
CLIENTS: Final = 24
LESSEES: Final = 6
CALM_ANSWERS: Final = 300
UNDECIDED_FATE: Final = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
"""What a client may be told while its node or a quorum is away."""

NEVER_GIVE_UP: Final = {
    "supervisor": {"crashes_max": 1_000, "backoff_max_ms": 1_000},
    "watch": {"progress_interval_ms": 1_000},
}


def test_whatever_breaks_no_answer_is_wrong(tmp_path: Path) -> None:
    with FaultProxy(SEED) as proxy, ProxiedCluster(tmp_path, proxy, **NEVER_GIVE_UP) as cluster:
        cluster.wait_leaders()
        faults = RandomFaults(cluster, SEED)
        everywhere, tables = cluster.endpoints, tuple(TABLES)
        with (
            Load(everywhere, tables, clients=CLIENTS, seed=2 * SEED, retry_elsewhere=True) as patient,
            Load(everywhere, tables, clients=CLIENTS, seed=2 * SEED + 1) as impatient,
            Watches(everywhere, tables, seed=2 * SEED) as watches,
            Lessees(everywhere, holders=LESSEES, seed=SEED) as lessees,
        ):
            loads = (patient, impatient)
            for load in loads:
                load.wait_answers(CALM_ANSWERS)
            try:
                faults.run(FAULTS)
            except AssertionError as error:
                raise AssertionError(f"{error}, after {faults.counts}\n{cluster.describe()}") from error
            for load in loads:
                load.wait_answers(CALM_ANSWERS)
                load.stop()
            watches.catch_up()
        watches.check()
        assert watches.streams > watches.clients, "none was lost or left"
        for load in loads:
            told = {failure.code for failure in load.failures}
            assert told <= UNDECIDED_FATE, [f for f in load.failures if f.code not in UNDECIDED_FATE][:5]
            load.check()
        lessees.check()
        note_figures(faults, loads, watches, lessees)


def note_figures(faults: RandomFaults, loads: tuple[Load, ...], watches: Watches, lessees: Lessees) -> None:
    """For the soak's table."""
    file = os.environ.get("BOATHOUSE_FIGURES")
    if file:
        figures = {
            "faults": dict(faults.counts),
            "operations": sum(load.operations for load in loads),
            "leases": lessees.leases,
            "failures": sum(len(load.failures) for load in loads),
            "events": watches.events,
        }
        with Path(file).open("a") as lines:
            lines.write(json.dumps(figures) + "\n")
