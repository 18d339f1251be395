"""The end of the faults: which replicas must now agree and serve, and whether they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft import InvalidChange, NodeId, decode_change, next_membership
from tests.simulation.network import Weather

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from shardworker.raft import Membership
    from tests.simulation.cluster import Cluster
    from tests.simulation.host import Host
    from tests.simulation.process import Process


def has_quorum(membership: Membership, alive: AbstractSet[NodeId]) -> bool:
    """Whether these nodes can decide in this membership."""
    groups = [group for group in (membership.voters, membership.voters_outgoing) if group]
    return bool(groups) and all(2 * len(group & alive) > len(group) for group in groups)


def possible_memberships(cluster: Cluster) -> list[Membership]:
    """In force somewhere, or what a change that waits in some log would make of one of those."""
    processes = cluster.processes()
    found = [process.core.membership for process in processes if process.core.membership.voters]
    for entry in cluster.checkers.pending_memberships(processes):
        for membership in list(found):
            changed = next_membership(membership, decode_change(entry.data))
            if not isinstance(changed, InvalidChange) and changed not in found:
                found.append(changed)
    return found


def heal(cluster: Cluster) -> list[Host]:
    """Repair the network and enough hosts for a quorum, at random not more; the others stay dead.

    Returns the hosts that must now agree, or nothing if no choice of sound hosts is a quorum of every membership
    that may come into force."""
    network = cluster.network
    network.blocked.clear()
    network.weather = Weather()
    for host in cluster.hosts:
        host.slowness, host.paused = 1.0, False
        host.empty_disk()
        host.disk.cut_power_after(None)
        host.disk.fail_sync_after(None)
        if host.process is not None:
            host.process.crash.left = None
        host.start()
    core = [host for host in cluster.hosts if host.process is not None]
    if not _can_decide(cluster, core):
        return []
    rng = cluster.world.stream("healing")
    for host in rng.sample(core, len(core)):
        fewer = [other for other in core if other is not host]
        if rng.random() < 0.5 and _can_decide(cluster, fewer):
            host.kill()
            core.remove(host)
    return core


def members_among(cluster: Cluster, hosts: list[Host]) -> list[Process]:
    """Those of them that run and belong to the shard, as its leader has it; none while nobody leads. Who was taken out
    of it and is not back yet knows nothing, and owes nothing."""
    leader = cluster.leader()
    if leader is None:
        return []
    nodes = leader.core.membership.nodes()
    return [host.process for host in hosts if host.process is not None and host.number in nodes]


def _can_decide(cluster: Cluster, hosts: list[Host]) -> bool:
    """Whether these are a quorum of every membership that may come into force. Who has lost its disk is none of them
    before it has its data again, nor is who came later before a leader has told it of the others."""
    voices = {NodeId(host.number) for host in hosts if not host.has_lost and _knows_members(cluster, host)}
    return all(has_quorum(membership, voices) for membership in possible_memberships(cluster))


def _knows_members(cluster: Cluster, host: Host) -> bool:
    is_founder = host.number <= cluster.plan.voters
    return is_founder or (host.process is not None and bool(host.process.store.membership.voters))
