"""When the ledger of the leases takes one for ended: once a disk has that, though its process told nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.clients import TABLE_ID
from tests.simulation.lessees import Ledger, Lessee
from tests.simulation.plan import Plan
from tests.simulation.simulation import run
from tests.simulation.violation import Violation
from tests.simulation.world import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.simulation.cluster import Cluster

LEASE = 7
NODE = 1


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_lease_whose_end_could_not_be_synced_is_over_if_the_disk_has_it_all_the_same(is_cut: bool) -> None:
    """Only one replica votes, so nobody else ends the lease: what its disk has after the death decides."""
    found: list[bool] = []

    def scenario(cluster: Cluster) -> None:
        (host,) = cluster.hosts
        lease_id = Lessee(cluster, cluster.coordinators[0], 50).hold_once(1)
        applied = cluster.ledger.applied

        def fail_the_sync_of_this_turn(node: int, index: int, lease_ids: Iterable[int], now_us: int) -> None:
            applied(node, index, lease_ids, now_us)
            if host.lives == 1:
                host.disk.fail_sync_after(1)

        def look() -> None:
            if host.process is None:
                if is_cut and not host.disk.power_cuts:
                    host.cut_power()
            elif host.lives > 1:
                is_over = lease_id not in host.process.machine.leases.of_table(TABLE_ID)
                assert cluster.ledger.is_over(lease_id) == is_over
                found.append(is_over)
            cluster.world.after(MS, look)

        cluster.ledger.applied = fail_the_sync_of_this_turn  # type: ignore[method-assign]
        look()

    plan = Plan(seed=5, voters=1, spares=0, clients=1, safety_ms=6_000, intensity=0.0)
    finding = run(plan, scenario=scenario)
    assert finding.violation is None, finding.violation
    assert found[0] is not is_cut, "the power cut took back what was not synced"
    assert found[-1], "it was ended again"


def test_an_end_that_nobody_heard_of_is_judged_by_when_it_was_applied() -> None:
    ledger = Ledger(rate_max=1.0)
    ledger.promised(LEASE, asked_us=0, ttl_s=1)
    ledger.applied(NODE, 5, [LEASE], SECOND // 2)
    with pytest.raises(Violation, match="lease-early"):
        ledger.settle(NODE, 5)


def test_an_end_that_the_disk_does_not_have_is_none() -> None:
    ledger = Ledger(rate_max=1.0)
    ledger.promised(LEASE, asked_us=0, ttl_s=1)
    ledger.applied(NODE, 5, [LEASE], SECOND // 2)
    ledger.settle(NODE, 4)
    ledger.settle(NODE, 5)
    assert not ledger.is_over(LEASE)
