"""A shard goes on with one replica, and those that it was given up with come back with the data that they had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft import NodeId
from shardworker.recovery import go_on_alone
from shardworker.store import ReplicaStore, StoreSettings
from tests.simulation.plan import Plan
from tests.simulation.simulation import run
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.host import Host


def recover(host: Host) -> None:
    """What `boathouse recover` does to a stopped node."""
    settings = StoreSettings(exclusive=True, page_bytes=1024, cache_bytes=4 << 20)
    store = ReplicaStore.open(host.folder, host.identity, settings, vfs=host.disk.vfs, files=host.disk.files)
    go_on_alone(store, NodeId(host.number))
    store.close()
    host.cluster.checkers.recovered()


def test_a_majority_that_was_given_up_ends_when_it_comes_back_and_learns_anew() -> None:
    """Were it heard, it would elect one of its own beside who went on, and their histories would part."""

    def scenario(cluster: Cluster) -> None:
        def lose() -> None:
            leader = cluster.leader()
            assert leader is not None
            survivor = leader.host
            for host in cluster.hosts:
                host.kill()
            recover(survivor)
            survivor.start()
            for host in cluster.hosts:
                if host is not survivor:
                    cluster.world.after(2 * SECOND, host.start)

        cluster.world.after(2 * SECOND, lose)

    plan = Plan(seed=3, voters=3, spares=0, clients=2, safety_ms=25_000, intensity=0.0)
    finding = run(plan, scenario=scenario)
    assert finding.violation is None, finding.violation
    assert finding.counts["given up"] == 2, "both heard of it, and ended"
    assert finding.counts["replaced"] == 2, "an operator gave them empty disks"
    assert finding.counts["snapshot installed"] >= 2
