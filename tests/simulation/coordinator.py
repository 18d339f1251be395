"""A simulated coordinator: production's router in virtual time, over connections that come, go and lose things.

What a real link gets from TCP is kept: while a connection stands, what it carries arrives; when something is lost, or
one end is out of reach, it breaks, both ends forget it, and a new one is made later. What arrives may still be late,
doubled and out of order, which TCP would not do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.shards import envelopes
from coordinator.shards.bounds import AnswerBudget, Bounds
from proto.ids import NodeId, ShardId
from proto.internal import wire
from tests.simulation.violation import Violation
from tests.simulation.world import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.shards.router import CommitPoint, Outgoing, Replica
    from coordinator.shards.routing import ShardRoutes
    from coordinator.shards.shard_call import ShardCall
    from proto import errors
    from proto.internal import frames_pb2 as frames
    from tests.simulation.cluster import Cluster
    from tests.simulation.host import Host

LOOK_US: Final = 250 * MS
"""How often a connection is looked at: the longest that a heartbeat takes to fail, or a new connection to be made."""


class Asked:
    """Who waits for a call, in place of a future."""

    def __init__(
        self, call: ShardCall, sent: Callable[[int], None], ended: Callable[[ShardCall], None]
    ) -> None:
        self._call = call
        self._ended = ended
        self.sent = sent
        """Told the node, each time the call leaves for one."""
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, _reply: frames.Reply, /) -> None:
        self._end()

    def set_exception(self, _error: errors.BoathouseError, /) -> None:
        self._end()

    def _end(self) -> None:
        if self._done:
            raise Violation("ended-once", f"call {self._call.number} ended a second time")
        self._done = True
        self._ended(self._call)


class Coordinator:
    """On the host of the same number, if there is one."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.address = f"c{number}"
        self._number = number
        self._cluster = cluster
        self._world = cluster.world
        self._rng = cluster.world.stream(f"coordinator-{number}")
        self._group = cluster.config.group(cluster.shard)
        self.bounds = Bounds(calls_max=100, bytes_max=1 << 20)
        shard = ShardId(cluster.shard)
        self._router = cluster.build.router(
            [shard], local=NodeId(number), bounds=self.bounds, budget=AnswerBudget(lambda: 0, bytes_max=1)
        )
        self._replicas: dict[int, Replica] = {
            host.number: self._router.add_replica(shard, NodeId(host.number)) for host in cluster.hosts
        }
        self._lives: dict[int, int] = {}
        """The life of the process at the other end, by node, for each connection that stands."""
        self.shown_revision = 0
        """The newest that its clients were shown, as TableCalls notes it."""
        self.committed: CommitPoint = (0, 0, 0)
        """The furthest that a replica has told it of."""
        self.applied: CommitPoint = (0, 0, 0)
        """As far as the replica that answered last."""
        self._wake_us: int | None = None
        cluster.network.attach(self.address, self._receive)
        self._look()

    def now_s(self) -> float:
        """The clock of deadlines."""
        return self._world.now_us / SECOND

    def ask(
        self,
        call: ShardCall,
        *,
        sent: Callable[[int], None],
        ended: Callable[[ShardCall], None],
    ) -> None:
        """Take a call; `ended` is told when it has a reply or an error."""
        call.waiter = Asked(call, sent, ended)
        self._router.submit(call, self.now_s())
        self._turn()

    def cancel(self, call: ShardCall) -> None:
        """Nobody waits for it any more."""
        self._router.cancel(call)
        self._turn()

    def close_cursor(self, shard: ShardId, node: NodeId, cursor: int) -> None:
        """Nobody will read on."""
        self._router.close_cursor(shard, node, cursor)
        self._turn()

    def routes(self, shard: ShardId) -> ShardRoutes:
        """What is known about the shard's replicas."""
        return self._router.routes(shard)

    # ---- what driver.py does ----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        outgoing, ended = self._router.poll(self.now_s())
        for envelope in outgoing:
            self._send(envelope)
        for call in ended:
            if call.error is not None:
                call.waiter.set_exception(call.error)
            elif call.reply is not None:
                call.waiter.set_result(call.reply)
        self._sleep()

    def _sleep(self) -> None:
        deadline = self._router.next_deadline()
        if deadline is None:
            return
        at = max(self._world.now_us, int(deadline * SECOND) + 1)
        if self._wake_us is None or self._wake_us <= self._world.now_us or at < self._wake_us:
            self._wake_us = at
            self._world.at(at, lambda: self._woken(at))

    def _woken(self, at: int) -> None:
        if self._wake_us == at:
            self._wake_us = None
            self._turn()

    def _send(self, outgoing: Outgoing) -> None:
        node = outgoing.replica.node
        for call in outgoing.calls:
            waiter = call.waiter
            assert isinstance(waiter, Asked)
            waiter.sent(node)
        envelope = envelopes.encode(outgoing, local=self._number)
        self._cluster.network.send(self.address, f"n{node}", wire.encode(envelope, self._group))

    def _receive(self, sender: str, payload: bytes) -> None:
        node = int(sender[1:])
        if node in self._lives:
            envelope = wire.decode(payload, self._group)
            if envelope.replies:
                told = envelope.committed
                self.applied = (told.generation, told.index, told.term)
                self.committed = max(self.committed, self.applied)
            self._router.handle_envelope(self._replicas[node], envelope)
            self._turn()

    # ---- connections ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        for host in self._cluster.hosts:
            self._check(host)
        self._world.after(1 + self._rng.randrange(LOOK_US), self._look)

    def _check(self, host: Host) -> None:
        stands = self._lives.get(host.number)
        if stands is not None and (stands != host.lives or not self._reaches(host)):
            self.disconnect(host.number)
        elif stands is None and self._reaches(host) and not host.paused:
            self._lives[host.number] = host.lives
            self._world.note(f"{self.address} connects n{host.number}")
            self._router.handle_connected(self._replicas[host.number])
            self._turn()

    def _reaches(self, host: Host) -> bool:
        there, back = (self.address, host.address), (host.address, self.address)
        blocked = self._cluster.network.blocked
        return host.process is not None and there not in blocked and back not in blocked

    def notice(self, host: Host) -> None:
        """A process has died, or listens: this end hears of it soon, if the network lets it."""
        self._world.after(MS, lambda: self._check(host))

    def disconnect(self, node: int) -> None:
        """The connection is broken, and this end has noticed."""
        if self._lives.pop(node, None) is not None:
            self._world.note(f"{self.address} disconnects n{node}")
            self._router.handle_disconnected(self._replicas[node])
            self._turn()
