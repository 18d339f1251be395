"""A shard goes on with one replica, and those that it was given up with come back with the data that they had."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from shardworker.machine import StateMachine
from shardworker.machine.recoveries import read_recoveries
from shardworker.raft import Entry, EntryKind, HardState, LogIndex, Membership, NodeId, Term
from shardworker.recovery import go_on_alone
from shardworker.store import Identity, ReplicaStore, StoreSettings
from tests.simulation.disk import SimulatedDisk, seed_sqlite
from tests.simulation.plan import Plan
from tests.simulation.simulation import run
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.host import Host

FOLDER: Final = Path("/replica")
IDENTITY: Final = Identity(cluster_id=7, node=1, shard=2, cluster_name="demo")
SETTINGS: Final = StoreSettings(exclusive=True, cache_bytes=1 << 20)
THREE: Final = Membership(frozenset(map(NodeId, (1, 2, 3))))
OPERATIONS_MAX: Final = 200
"""More than a recovery takes."""


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


@pytest.mark.parametrize("is_cut", [True, False])
def test_what_interrupts_it_leaves_the_replica_as_it_was_or_alone(is_cut: bool) -> None:
    """The power, or a signal, at every write, sync and rename in turn; and then it is done again."""
    outcomes = set()
    for operations in range(1, OPERATIONS_MAX):
        seed_sqlite(operations)
        disk = SimulatedDisk(operations)
        begin_member(disk)
        before = disk.cut_power_after if is_cut else disk.kill_after
        before(operations)
        ended = False
        with disk.until_power_cut():
            alone(disk)
            ended = True
        before(None)
        store = open_replica(disk)
        is_alone = store.membership.voters == {NodeId(1)}
        assert store.membership.generation == read_recoveries(store.connection) == is_alone
        assert is_alone or store.membership == THREE
        assert is_alone or not ended, "it was durable when it had ended"
        assert store.verify() == []
        store.close()
        outcomes.add((is_alone, ended))
        again = alone(disk)
        assert again.generation == 1 + is_alone
        assert again.voters == {NodeId(1)}
        disk.close()
        if ended:
            break
    assert outcomes == {(False, False), (True, False), (True, True)}


def open_replica(disk: SimulatedDisk) -> ReplicaStore:
    return ReplicaStore.open(FOLDER, IDENTITY, SETTINGS, vfs=disk.vfs, files=disk.files)


def begin_member(disk: SimulatedDisk) -> None:
    """A member of three, killed when it had an entry that is not known to be committed."""
    store = open_replica(disk)
    with store.turn(sync=True) as turn:
        StateMachine(store.connection, IDENTITY.shard)
        turn.append(
            HardState(Term(1), NodeId(2), LogIndex(1)),
            [Entry(Term(1), LogIndex(index), EntryKind.COMMANDS, b"x") for index in (1, 2)],
        )
        turn.set_applied(LogIndex(1), Term(1))
        turn.set_membership(THREE)
    disk.power_cut()


def alone(disk: SimulatedDisk) -> Membership:
    store = open_replica(disk)
    go_on_alone(store, NodeId(1))
    membership = store.membership
    store.close()
    return membership
