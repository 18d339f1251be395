"""Who breaks things, when, and for how long.

Each kind has its own schedule and its own dice, so that taking one away leaves the others where they were. What
would destroy a majority for good is not done: a cluster that has lost its data has no promise left to check. Damage
that lasts (a flipped bit, which takes a replica out of service) is therefore limited to one replica at a time, and an
operator replaces it through a change of membership.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames
from shardworker.raft import EntryKind, LogIndex, MembershipChange, NodeId, Step, StepKind, Transition
from tests.simulation.healing import has_quorum, possible_memberships
from tests.simulation.world import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.simulation.cluster import Cluster
    from tests.simulation.host import Host

RESTART_US_MAX: Final = 1_500 * MS
FORGET_ABOVE_VOTERS: Final = 3
"""In a larger group a vote that is still under way when the disk is lost could meet one that is given afterwards: what
is still under way is then lost as well, as when a connection ends with its process."""

LASTS_US_MAX: Final = 2_500 * MS


class Faults:
    """All schedules of one simulation."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._active = True
        self._restarts = cluster.world.stream("restarts")
        cluster.restart = self._restart_later
        actions: dict[str, Callable[[Random], None]] = {
            "drop": lambda rng: self._weather(rng, drop=rng.choice((0.05, 0.2, 0.5))),
            "delay": lambda rng: self._weather(rng, delay_us_max=rng.choice((20, 100, 400, 1_500)) * MS),
            "duplicate": lambda rng: self._weather(rng, duplicate=0.3),
            "reorder": lambda rng: self._weather(rng, reorder=True),
            "partition": lambda rng: self._split(rng, both_ways=True),
            "one-way": lambda rng: self._split(rng, both_ways=False),
            "disconnect": self._disconnect,
            "slow": self._slow,
            "pause": self._pause,
            "kill": self._kill,
            "crash-point": self._crash_point,
            "power-cut": self._power_cut,
            "full-disk": self._fill_disk,
            "failed-sync": self._fail_sync,
            "bit-flip": self._flip_bit,
            "lost-disk": self._lose_disk,
            "clock": self._jump_clock,
            "membership": self._change_membership,
            "transfer": self._transfer,
        }
        for kind, action in actions.items():
            if kind in cluster.plan.kinds:
                self._schedule(kind, action, cluster.world.stream(f"fault-{kind}"))
        # Whatever is damaged gets repaired, with or without other changes of membership.
        self._operator = cluster.world.stream("operator")
        self._world.after(SECOND, self._operate)

    def _schedule(self, kind: str, action: Callable[[Random], None], rng: Random) -> None:
        def strike() -> None:
            if self._active:
                self._world.note(f"fault {kind}")
                action(rng)
                self._schedule(kind, action, rng)

        self._world.after(int(rng.expovariate(self._cluster.plan.intensity) * SECOND), strike)

    def _while_active(self, delay_us: int, action: Callable[[], None]) -> None:
        self._world.after(delay_us, lambda: action() if self._active else None)

    def _host(self, rng: Random) -> Host:
        """Any host; the leader's more often than chance would have it."""
        leader = self._cluster.leader()
        pick = rng.random(), rng.choice(self._cluster.hosts)
        return leader.host if leader is not None and pick[0] < 0.35 else pick[1]

    def stop(self) -> None:
        """No more faults; what is broken now is the healer's business."""
        self._active = False
        self._cluster.restart = None

    # ---- network ------------------------------------------------------------------------------------------------

    def _weather(self, rng: Random, **changes: float) -> None:
        kind = next(iter(changes)).removesuffix("_us_max")
        self._cluster.count(kind)
        before = {name: getattr(self._cluster.network.weather, name) for name in changes}
        self._cluster.network.change(**changes)
        self._while_active(rng.randrange(LASTS_US_MAX), lambda: self._cluster.network.change(**before))

    def _split(self, rng: Random, *, both_ways: bool) -> None:
        self._cluster.count("partition" if both_ways else "one-way")
        hosts = self._cluster.hosts
        alone = {self._host(rng).address}
        joins = rng.choice((0.0, 0.3))
        alone |= {host.address for host in hosts if rng.random() < joins}
        rest = [host.address for host in hosts if host.address not in alone]
        # Clients stand on one side or the other; with a one-way split they hear everybody.
        share = rng.choice((0.0, 0.3, 0.6))
        sides = [(client.address, rng.random() < share) for client in self._cluster.clients]
        inside, outside = sorted(alone), rest
        if both_ways:
            inside = inside + [address for address, within in sides if within]
            outside = outside + [address for address, within in sides if not within]
        elif rng.random() < 0.5:
            inside, outside = outside, inside
        blocked = self._cluster.network.split(inside, outside, both_ways=both_ways)
        self._while_active(
            rng.randrange(2 * LASTS_US_MAX), lambda: self._cluster.network.blocked.difference_update(blocked)
        )

    def _disconnect(self, rng: Random) -> None:
        """A connection breaks though both its ends live."""
        self._cluster.count("disconnect")
        process, other = self._host(rng).process, self._host(rng)
        if process is not None and process.host is not other:
            process.disconnect(other.number)

    # ---- processes ----------------------------------------------------------------------------------------------

    def _restart_later(self, host: Host) -> None:
        self._while_active(self._restarts.randrange(RESTART_US_MAX), host.start)

    def _slow(self, rng: Random) -> None:
        host = self._host(rng)
        self._cluster.count("slow")
        host.slowness = rng.choice((5.0, 50.0, 400.0))
        self._while_active(rng.randrange(LASTS_US_MAX), lambda: setattr(host, "slowness", 1.0))

    def _pause(self, rng: Random) -> None:
        host = self._host(rng)
        self._cluster.count("pause")
        host.paused = True
        self._while_active(rng.randrange(LASTS_US_MAX), lambda: setattr(host, "paused", False))

    def _kill(self, rng: Random) -> None:
        self._cluster.count("kill")
        host, operations = self._host(rng), rng.choice((0, rng.randint(1, 30)))
        if operations:
            host.disk.kill_after(operations)
        else:
            host.kill()

    def _crash_point(self, rng: Random) -> None:
        process = self._host(rng).process
        steps = rng.randint(1, 25)
        if process is not None:
            self._cluster.count("crash-point")
            process.crash.left = steps

    # ---- disks --------------------------------------------------------------------------------------------------

    def _power_cut(self, rng: Random) -> None:
        self._cluster.count("power-cut")
        if rng.random() < 0.15:
            for host in self._cluster.hosts:
                host.cut_power()
            return
        host, operations = self._host(rng), rng.choice((0, rng.randint(1, 60)))
        if operations:
            host.disk.cut_power_after(operations)
        else:
            host.cut_power()

    def _fill_disk(self, rng: Random) -> None:
        host, left = self._host(rng), rng.choice((0, 2_000, 20_000, 100_000))
        self._cluster.count("full-disk")
        host.fill_disk(left)
        self._while_active(rng.randrange(2 * LASTS_US_MAX), host.empty_disk)

    def _fail_sync(self, rng: Random) -> None:
        self._cluster.count("failed-sync")
        self._host(rng).disk.fail_sync_after(rng.randint(1, 5))

    def _flip_bit(self, rng: Random) -> None:
        """Flip a bit inside an entry of the log, on a host whose process is down; one host at a time."""
        host, place, bit = rng.choice(self._cluster.hosts), rng.random(), rng.randrange(8)
        process = host.process
        if process is None or any(other.damaged for other in self._cluster.hosts):
            return
        if not self._can_lose(host):
            return
        log = process.core.log
        lo, hi = log.first_index(), LogIndex(log.last_index + 1)
        entries = [entry for entry in log.entries(lo, hi, 1 << 30) if len(entry.data) > 20] if lo < hi else []
        file = process.store.file
        content = host.disk.content(file)
        found = [at for entry in entries if (at := content.find(entry.data[:200])) > 0]
        if not found:
            return
        host.kill()
        self._cluster.count("bit-flip")
        host.damaged = True
        host.disk.flip_bit(file, found[int(place * len(found))] + 12, bit)

    def _lose_disk(self, rng: Random) -> None:
        """All that a replica has promised is gone, and it starts again under its old name. One replica at a time."""
        host = self._host(rng)
        if any(other.has_lost for other in self._cluster.hosts):
            return
        memberships = possible_memberships(self._cluster)
        votes = any(membership.is_voter(NodeId(host.number)) for membership in memberships)
        # With fewer than three voters, one disk is not a minority.
        if not votes or any(len(membership.voters) < 3 for membership in memberships):
            return
        self._cluster.count("lost-disk")
        host.lose_disk()
        if max(len(membership.voters) for membership in memberships) > FORGET_ABOVE_VOTERS:
            self._cluster.network.forget(host.address)
        self._restart_later(host)

    def _can_lose(self, host: Host) -> bool:
        """Whether every membership that is or may come into force has a majority without this host."""
        rest = {
            NodeId(other.number)
            for other in self._cluster.hosts
            if other is not host and not other.damaged and not other.has_lost
        }
        return all(has_quorum(membership, rest) for membership in possible_memberships(self._cluster))

    def _jump_clock(self, rng: Random) -> None:
        self._cluster.count("clock")
        host, jump_s = self._host(rng), rng.choice((-86_400, -3_600, -5, 5, 60, 600, 86_400))
        host.wall_offset_ms += jump_s * 1_000

    # ---- the operator -------------------------------------------------------------------------------------------

    def _transfer(self, rng: Random) -> None:
        leader = self._cluster.leader()
        if leader is None:
            return
        self._cluster.count("transfer")
        envelope = frames.Envelope(
            hello=frames.Hello(node=99), group=self._cluster.config.group(self._cluster.shard)
        )
        target = rng.choice((0, rng.choice(self._cluster.hosts).number))
        body = frames.TransferLeader(target=target).SerializeToString()
        envelope.requests.add(call=0, method=frames.TRANSFER_LEADER, body=body)
        leader.receive("c1", envelope.SerializeToString())

    def _change_membership(self, rng: Random) -> None:
        """A random change, proposed to the leader; whether it can be made is the core's business."""
        leader = self._cluster.leader()
        node, kind, other = (
            rng.choice(self._cluster.hosts),
            rng.choice(list(StepKind)),
            rng.choice(self._cluster.hosts),
        )
        joint, bold = rng.random(), rng.random()
        if leader is None:
            return
        steps = [Step(kind, NodeId(node.number))]
        if joint < 0.3 and other is not node:
            steps.append(Step(StepKind.ADD_VOTER, NodeId(other.number)))
        if any(host.damaged for host in self._cluster.hosts):
            return
        voters = leader.core.membership.voters
        if kind is not StepKind.ADD_VOTER and len(voters) < 3 and len(steps) == 1:
            return
        self._cluster.count("membership")
        if bold < 0.5:
            return self._cluster.operator.ask(*steps)
        # Past the rules of who may ask: whatever the core takes must be safe. But who joins learns first, since a voter
        # on an empty disk takes itself for one that has lost it.
        members = leader.core.membership.nodes()
        if any(step.kind is StepKind.ADD_VOTER and step.node not in members for step in steps):
            return
        transition = Transition.JOINT_AUTO_LEAVE if len(steps) > 1 else Transition.AUTO
        outcome = leader.core.propose_membership(MembershipChange(tuple(steps), transition))
        self._world.note(f"operator {leader}: {steps} {outcome}")
        leader.wake(1)

    def _operate(self) -> None:
        """Replace what is damaged: take it out of the membership, give it an empty disk, let it learn, promote it."""
        if not self._active:
            return
        self._world.after(500 * MS + self._operator.randrange(500 * MS), self._operate)
        leader = self._cluster.leader()
        if leader is None:
            return
        membership = leader.core.membership
        for host in self._cluster.hosts:
            node = NodeId(host.number)
            if host.refuses is not None:
                if node in membership.nodes():
                    self._cluster.operator.ask(Step(StepKind.REMOVE, node))
                elif self._is_out(leader.core.log.applied, node):
                    self._cluster.count("replaced")
                    host.replace()
                    host.start()
            elif host.disks > 1 and host.begins_with is None and host.process is not None:
                if node not in membership.nodes():
                    self._cluster.operator.ask(Step(StepKind.ADD_LEARNER, node))
                elif node in membership.learners:
                    self._cluster.operator.ask(Step(StepKind.ADD_VOTER, node))

    def _is_out(self, applied: int, node: NodeId) -> bool:
        """Whether a majority of the others has applied the removal, and nobody has its return in a log."""
        pending = self._cluster.checkers.pending_memberships(self._cluster.processes())
        if any(entry.kind is EntryKind.MEMBERSHIP for entry in pending):
            return False
        return all(node not in process.core.membership.nodes() for process in self._cluster.processes())
