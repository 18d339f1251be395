"""Courses of events that a known bug needs and chance rarely deals, played on the simulated cluster.

A scenario only moves the network and proposes what an operator may propose; whether anything is wrong is for the
simulation's own checkers to find.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from proto.internal import frames_pb2 as frames
from proto.internal import wire
from shardworker.raft import MembershipChange, NodeId, Role, Step, StepKind
from tests.simulation.lessees import Lessee
from tests.simulation.upgrade import NEWER
from tests.simulation.world import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.simulation.cluster import Cluster
    from tests.simulation.process import Process

    Script = Generator[Callable[[], bool], None, None]
    """Yields what it waits for."""

POLL_US = 50
"""Below the network's least delay: what was seen to leave can still be held back."""


def play(cluster: Cluster, script: Script) -> None:
    """Run a script beside the simulation, until the safety phase ends."""
    waiting: list[Callable[[], bool]] = []
    end_us = cluster.world.now_us + cluster.plan.safety_ms * MS

    def go_on() -> None:
        if cluster.world.now_us >= end_us:
            return
        if not waiting or waiting[0]():
            waiting.clear()
            following = next(script, None)
            if following is None:
                return
            waiting.append(following)
        cluster.world.after(POLL_US, go_on)

    go_on()


def _connect_only(cluster: Cluster, *groups: tuple[int, ...]) -> None:
    """Only the replicas of one group hear each other; clients stay connected to all."""
    addresses = [host.address for host in cluster.hosts]
    cluster.network.blocked = {(a, b) for a in addresses for b in addresses if a != b}
    for group in groups:
        cluster.network.blocked -= {(f"n{a}", f"n{b}") for a in group for b in group}


def _live(cluster: Cluster, number: int) -> Process:
    process = cluster.hosts[number - 1].process
    assert process is not None
    return process


def _leader_among(cluster: Cluster, numbers: tuple[int, ...]) -> int:
    return next((n for n in numbers if _live(cluster, n).core.role is Role.LEADER), 0)


def figure_8(cluster: Cluster) -> None:
    """Figure 8 of the paper: an old entry reaches a majority, and a rival with a later last term overwrites it."""
    play(cluster, _figure_8(cluster))


def _figure_8(cluster: Cluster) -> Script:
    everybody = (1, 2, 3, 4, 5)
    yield lambda: _leader_among(cluster, everybody) > 0
    s1 = _leader_among(cluster, everybody)
    s2, s3, s4, s5 = (n for n in everybody if n != s1)
    # (a) S1 brings an entry to S2 only.
    _connect_only(cluster, (s1, s2))
    known = _live(cluster, s1).core.log.last_index
    yield lambda: _live(cluster, s2).core.log.last_index > known
    # (b) One of the other three leads the next term, and nobody hears of its first entry.
    _connect_only(cluster, (s3, s4, s5))
    yield lambda: _leader_among(cluster, (s3, s4, s5)) > 0
    rival = _leader_among(cluster, (s3, s4, s5))
    third, fourth = (n for n in (s3, s4, s5) if n != rival)
    _connect_only(cluster)
    yield lambda: _live(cluster, s1).core.role is not Role.LEADER
    # (c) S1 or S2 leads again and brings the old entry to a third replica; at once they are cut off.
    _connect_only(cluster, (s1, s2, third))
    yield lambda: any(index > known for index in cluster.checkers.committed)
    # (d) The rival returns, and asks those who have nothing of the last leader's term.
    _connect_only(cluster, (rival, third, fourth))


def two_changes(cluster: Cluster) -> None:
    """Two voters are added in one breath: a majority of five forms beside a majority of the old three."""
    play(cluster, _two_changes(cluster))


def _two_changes(cluster: Cluster) -> Script:
    voters = (1, 2, 3)
    yield lambda: _leader_among(cluster, voters) > 0
    leader = _leader_among(cluster, voters)
    near, far = (n for n in voters if n != leader)
    _connect_only(cluster, (leader, near), (leader, 4, 5))
    core = _live(cluster, leader).core
    for node in (4, 5):
        core.propose_membership(MembershipChange((Step(StepKind.ADD_VOTER, NodeId(node)),)))
    _live(cluster, leader).wake(1)
    yield lambda: core.role is not Role.LEADER or len(core.membership.voters) == 5
    # Before anybody else has heard that they are committed:
    _connect_only(cluster, (leader, 4, 5), (near, far))


def lost_disk(cluster: Cluster) -> None:
    """A follower that has made a majority with its leader loses its disk, and meets the third voter alone."""
    play(cluster, _lost_disk(cluster))


def _lost_disk(cluster: Cluster) -> Script:
    voters = (1, 2, 3)
    yield lambda: _leader_among(cluster, voters) > 0
    leader = _leader_among(cluster, voters)
    near, far = (n for n in voters if n != leader)
    _connect_only(cluster, (leader, near))
    yield _commits(cluster, 3)
    _lose_disk(cluster, near)
    _connect_only(cluster, (near, far))


def lost_disk_and_old_leader(cluster: Cluster) -> None:
    """A leader sleeps, its two followers make a majority without it, one of them loses its disk and meets the old
    leader, which wakes up and does not know."""
    play(cluster, _lost_disk_and_old_leader(cluster))


def _lost_disk_and_old_leader(cluster: Cluster) -> Script:
    voters = (1, 2, 3)
    yield lambda: _leader_among(cluster, voters) > 0
    old = _leader_among(cluster, voters)
    others = tuple(n for n in voters if n != old)
    _connect_only(cluster, others)
    cluster.hosts[old - 1].paused = True
    yield lambda: _leader_among(cluster, others) > 0
    new = _leader_among(cluster, others)
    near = next(n for n in others if n != new)
    yield _commits(cluster, 3)
    _connect_only(cluster, (old, near))
    _lose_disk(cluster, near)
    cluster.hosts[old - 1].paused = False


def begun_and_cut_off(cluster: Cluster) -> None:
    """A voter begins with the others and hears nothing from then on. One of those that go on without it loses its disk,
    and meets it while the leader is silent. To be played from the shard's birth."""
    play(cluster, _begun_and_cut_off(cluster))


def _begun_and_cut_off(cluster: Cluster) -> Script:
    voters, far = (1, 2, 3), 3
    yield lambda: all(_live(cluster, n).core.membership.voters for n in voters)
    assert _live(cluster, far).core.log.last_index == 0, "nobody leads yet"
    near_ones = (1, 2)
    _connect_only(cluster, near_ones)
    yield lambda: _leader_among(cluster, near_ones) > 0
    near = next(n for n in near_ones if n != _leader_among(cluster, near_ones))
    yield _commits(cluster, 6)
    _lose_disk(cluster, near)
    _connect_only(cluster, (near, far))


def one_voter_away(cluster: Cluster) -> None:
    """One voter is off from the beginning and comes much later: the other two have to begin without it, though they
    start one after the other. To be played from the shard's birth."""
    play(cluster, _one_voter_away(cluster))


def _one_voter_away(cluster: Cluster) -> Script:
    _, second, third = cluster.hosts
    second.kill()
    third.kill()
    started_us = cluster.world.now_us
    yield lambda: cluster.world.now_us > started_us + 2_500 * MS
    second.start()
    yield _commits(cluster, 6)
    third.start()


def _commits(cluster: Cluster, more: int) -> Callable[[], bool]:
    """Whether so many more entries are committed than now."""
    before = max(cluster.checkers.committed, default=0)
    return lambda: max(cluster.checkers.committed, default=0) >= before + more


def _lose_disk(cluster: Cluster, number: int) -> None:
    host = cluster.hosts[number - 1]
    host.lose_disk()
    host.start()


def committed_and_cut_off(cluster: Cluster) -> None:
    """All replicas lose sight of each other for a while, when somebody was just answered and followers have not heard
    of it; clients go on asking any of them."""
    play(cluster, _committed_and_cut_off(cluster))


def _committed_and_cut_off(cluster: Cluster) -> Script:
    while True:
        yield partial(_is_answered_alone, cluster)
        _connect_only(cluster)
        cut_us = cluster.world.now_us
        yield lambda: cluster.world.now_us > cut_us + 3_500 * MS  # noqa: B023 - looked at before the next round
        cluster.network.blocked.clear()
        healed_us = cluster.world.now_us
        yield lambda: cluster.world.now_us > healed_us + 1_000 * MS  # noqa: B023


def _is_answered_alone(cluster: Cluster) -> bool:
    """Whether a coordinator knows of a commit that no follower knows of, though each has it in its log."""
    committed = max(coordinator.committed for coordinator in cluster.coordinators)
    followers = [process.core.log for process in cluster.processes() if not process.leads]
    return all(log.commit < committed[1] <= log.last_index for log in followers)


def deposed_leader(cluster: Cluster) -> None:
    """A leader stops for a while, cut off with a client that goes on asking it; meanwhile another one leads."""
    play(cluster, _deposed_leader(cluster))


def _deposed_leader(cluster: Cluster) -> Script:
    while True:
        yield from _depose_once(cluster)


def _depose_once(cluster: Cluster) -> Script:
    everybody = tuple(host.number for host in cluster.hosts)
    asking = [client.address for client in cluster.clients if client.only_reads]
    yield lambda: _leader_among(cluster, everybody) > 0
    old = _leader_among(cluster, everybody)
    rest = tuple(n for n in everybody if n != old)
    _connect_only(cluster, rest)
    cluster.network.blocked |= {(address, f"n{n}") for address in asking for n in rest}
    applied = _live(cluster, old).applied
    cluster.hosts[old - 1].paused = True
    yield lambda: any(_live(cluster, n).leads and _live(cluster, n).applied > applied + 5 for n in rest)
    cluster.hosts[old - 1].paused = False
    resumed_us = cluster.world.now_us
    yield lambda: not _live(cluster, old).leads or cluster.world.now_us > resumed_us + 2_000 * MS
    cluster.network.blocked.clear()
    healed_us = cluster.world.now_us
    yield lambda: cluster.world.now_us > healed_us + 500 * MS


def lost_news(cluster: Cluster) -> None:
    """A coordinator connects anew, and the first that it is told of who leads is lost, as by a full queue."""
    coordinator = cluster.coordinators[0]
    told: set[str] = set()

    def keep(sender: str, payload: bytes) -> bool:
        is_first = sender not in told
        if wire.decode(payload, cluster.config.group(cluster.shard)).HasField("state"):
            told.add(sender)
            return not is_first
        return True

    cluster.network.sift(coordinator.address, keep)
    for host in cluster.hosts:
        coordinator.disconnect(host.number)


def wandering_leader(cluster: Cluster) -> None:
    """A lease that nobody renews, while leadership goes on to the next voter long before it would end."""
    ttl_s, transfers = 4, 3
    lease_id = Lessee(cluster, cluster.coordinators[0], 50).hold_once(ttl_s)
    for number in range(1, transfers + 1):
        cluster.world.after(number * SECOND * 6 // 5, partial(_pass_on_leadership, cluster))
    cluster.world.after(
        (ttl_s + transfers) * SECOND, lambda: cluster.ledger.check_over(lease_id, cluster.world.now_us)
    )


def _pass_on_leadership(cluster: Cluster) -> None:
    leader = cluster.leader()
    assert leader is not None, "nothing else is wrong"
    envelope = frames.Envelope(group=cluster.config.group(cluster.shard))
    target = leader.host.number % cluster.plan.voters + 1
    body = frames.TransferLeader(target=target).SerializeToString()
    envelope.requests.add(call=0, method=frames.TRANSFER_LEADER, body=body)
    leader.receive("c1", envelope.SerializeToString())


def upgrade(cluster: Cluster) -> None:
    """A newer build comes to two nodes, one of which then leads, and much later to the last."""
    play(cluster, _upgrade(cluster))


def _upgrade(cluster: Cluster) -> Script:
    voters = (1, 2, 3)
    yield lambda: _leader_among(cluster, voters) > 0
    behind = next(n for n in voters if n != _leader_among(cluster, voters))
    upgraded = tuple(n for n in voters if n != behind)
    for number in upgraded:
        _install_newer(cluster, number)
        alive_us = cluster.world.now_us + 300 * MS
        yield lambda at=alive_us: cluster.world.now_us > at  # type: ignore[misc]

    def newer_leads() -> bool:
        if _live(cluster, behind).leads:
            _live(cluster, behind).core.transfer_leadership()
            _live(cluster, behind).wake(1)
        return _leader_among(cluster, upgraded) > 0

    yield newer_leads
    upgraded_us = cluster.world.now_us
    yield lambda: cluster.world.now_us > upgraded_us + 1_000 * MS
    _install_newer(cluster, behind)


def _install_newer(cluster: Cluster, number: int) -> None:
    host = cluster.hosts[number - 1]
    host.kill()
    host.registry = NEWER
    host.start()
