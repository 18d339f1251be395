"""Runs a router on an event loop: futures for callers, one timer, and a link to each replica that there is.

Whatever is asked during one turn of the loop leaves at its end, and whatever a link has read is passed on in one go.
An idle coordinator sleeps: there is no timer without calls.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from coordinator.shards.link import Link
from coordinator.shards.router import Router
from proto.catalog import WITHOUT_QUOTA
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    import zmq

    from config.topology import Topology
    from coordinator.shards.bounds import AnswerBudget, Bounds
    from coordinator.shards.memberships import Memberships
    from coordinator.shards.router import Replica
    from coordinator.shards.routing import ShardRoutes
    from coordinator.shards.shard_call import ShardCall
    from proto.catalog import TableEntry
    from proto.ids import NodeId, ShardId
    from proto.internal.curve import PeerKeys


log = structlog.get_logger()


class Driver:
    """All shards, as what a coordinator asks. Runs on the event loop's thread; nothing here blocks."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        topology: Topology,
        *,
        local: NodeId,
        bounds: Bounds,
        budget: AnswerBudget,
        memberships: Memberships,
        keys: PeerKeys | None = None,
    ) -> None:
        """Start connecting to all replicas. local is this coordinator's node, keys are for the others."""
        self._context = context
        self._loop = loop
        self._topology = topology
        self.memberships = memberships
        """Who the nodes are."""
        self._local = local
        self._keys = keys
        self._router = Router(topology.shards(), local=local, bounds=bounds, budget=budget)
        self._links: dict[Replica, Link] = {}
        self._turn_is_due = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._member_keys = topology.member_keys()
        self._quotas: dict[int, int] = {}
        for shard in topology.shards():
            self._follow(shard)
        # Not at once: the link that brings the news may be one that ends by it.
        topology.changes(self._follow_soon)

    def routes(self, shard: ShardId) -> ShardRoutes:
        """What is known about the shard's replicas."""
        return self._router.routes(shard)

    def shard_of(self, table: TableEntry) -> ShardId:
        """Where the table is, as far as this coordinator has heard."""
        return self._router.shard_of(table.id, table.shard)

    def term_shown(self, table: TableEntry, term: int) -> int:
        """The term that the header of an answer about the table shows: clients (Patroni among them) rely on it never
        going down, also when the table has moved to a shard whose term is lower."""
        return max(self._router.term_shown(table.id, table.shard, term), table.term_before)

    def take_waited(self) -> bool:
        """Whether a call had to wait for a table on its way to another shard, since this was last asked."""
        return self._router.take_waited()

    def time(self) -> float:
        """The clock of deadlines."""
        return self._loop.time()

    async def ask(self, call: ShardCall) -> frames.Reply:
        """The reply to a call. Raises the error it ends with, QueueFull and ShuttingDown among them."""
        future: asyncio.Future[frames.Reply] = self._loop.create_future()
        call.waiter = future
        self._router.submit(call, self._loop.time())
        if not self._turn_is_due:
            self._turn_soon()
        try:
            return await future
        except asyncio.CancelledError:
            self._router.cancel(call)
            self._turn_soon()
            raise

    def close_cursor(self, shard: ShardId, node: NodeId, cursor: int) -> None:
        """Tell the replica that nobody will read on. Its answer is of no interest."""
        self._router.close_cursor(shard, node, cursor)
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self.turn)

    def turn(self) -> None:
        """Do what the router wants done."""
        self._turn_is_due = False
        if self._closed:
            return
        router = self._router
        outgoing, ended = router.poll(self._loop.time())
        for envelope in outgoing:
            if not self._links[envelope.replica].send(envelope):
                router.handle_unsent(envelope)
        for call in ended:
            waiter = call.waiter
            if waiter.done():
                continue  # cancelled in this turn of the loop; ask() is about to hear of it
            if call.error is None:
                assert call.reply is not None
                waiter.set_result(call.reply)
            else:
                waiter.set_exception(call.error)
        if self._timer is None:
            deadline = router.next_deadline()
            if deadline is not None:
                self._timer = self._loop.call_at(deadline, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self.turn()

    # ---- links ------------------------------------------------------------------------------------------------------

    def _follow_soon(self, shard: ShardId) -> None:
        self._loop.call_soon(self._follow, shard)

    def _follow(self, shard: ShardId) -> None:
        """Have a link to each replica of the shard, where it is now, and no others."""
        if self._closed:
            return
        self._learn_keys()
        wanted = {
            node: endpoint
            for node in self._topology.replicas_of(shard)
            if self._can_reach(node) and (endpoint := self._endpoint(node, shard))
        }
        for replica, link in list(self._links.items()):
            if replica.shard == shard and wanted.get(replica.node) == link.endpoint:
                del wanted[replica.node]
            elif replica.shard == shard:
                link.close()
                del self._links[replica]
                self._router.remove_replica(replica)
        for node, endpoint in wanted.items():
            replica = self._router.add_replica(shard, node)
            self._links[replica] = Link(
                self._context,
                self._loop,
                self,
                replica,
                endpoint=endpoint,
                group=self._topology.group_of(shard),
                local=self._local,
                keys=self._keys,
            )
        self._turn_soon()

    def _learn_keys(self) -> None:
        """Keys of nodes that came later are known by their memberships: to this process, and by its word to the
        replicas of its node, which let in coordinators of any."""
        found = self._topology.member_keys()
        if self._keys is None or found == self._member_keys:
            return
        self._member_keys = found
        self._keys.of_members = {int(node): key for node, key in found.items()}
        for replica in self._links:
            self._tell_keys(replica)

    def _tell_keys(self, replica: Replica) -> None:
        if self._keys is not None and replica.node == self._local:
            keys = {int(node): key for node, key in self._member_keys.items()}
            self._links[replica].tell(frames.Envelope(node_keys=frames.NodeKeys(keys=keys)))

    def know_tables(self, tables: Iterable[TableEntry]) -> None:
        """What the catalog says of them, who leads their shards has to know: what they were made to hold."""
        found = {
            table.id: WITHOUT_QUOTA if table.quota is None else table.quota
            for table in tables
            if not table.is_reserved
        }
        if found == self._quotas:
            return
        self._quotas = found
        for replica in self._links:
            self._tell_quotas(replica)

    def _tell_quotas(self, replica: Replica) -> None:
        if self._quotas:
            told = frames.TableQuotas(quotas=self._quotas)
            self._links[replica].tell(frames.Envelope(table_quotas=told))

    def _endpoint(self, node: NodeId, shard: ShardId) -> str:
        """Where a replica is; empty if nobody has said it."""
        try:
            return self._topology.address_of(node, shard, seen_from=self._local)
        except KeyError:
            log.error("a replica is not reached: nobody has said where its node is", shard=shard, node=node)
            return ""

    def _can_reach(self, node: NodeId) -> bool:
        if self._keys is None or self._keys.of(node) is not None:
            return True
        log.error("a replica is not reached: this process does not know its node's public key", node=node)
        return False

    def handle_connected(self, replica: Replica) -> None:
        """For its link, as are the next two."""
        self._router.handle_connected(replica)
        self._tell_keys(replica)
        self._tell_quotas(replica)

    def handle_disconnected(self, replica: Replica) -> None:
        """See handle_connected."""
        self._router.handle_disconnected(replica)

    def handle_envelope(self, replica: Replica, envelope: frames.Envelope, attached_bytes: int) -> None:
        """See handle_connected."""
        if envelope.HasField("state") and envelope.state.HasField("membership"):
            self.memberships.hear(replica.shard, envelope.state)
        self._router.handle_envelope(replica, envelope, attached_bytes)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def end_calls(self) -> None:
        """Fail what is still in flight and refuse what comes after."""
        self._router.close()
        self.turn()

    def close(self) -> None:
        """End all calls and let go of the links."""
        self.end_calls()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for link in self._links.values():
            link.close()
        self._links.clear()
