"""etcdserverpb.Cluster: the nodes as etcd members.

A member is a node, and etcd's one group is here every shard. So MemberAdd gives a node a replica of each shard, and
MemberRemove takes all that it holds. Each is several changes, shard by shard, and can be repeated when it was
interrupted. A member that is added to vote learns first, as every replica does, and is shown as a voter meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from config.process.listeners import client_listeners
from coordinator.api.credentials import NOBODY
from coordinator.catalog.table_calls import Asked
from coordinator.services.decoding import decode
from coordinator.services.etcd_tables import LISTENER_KEY
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.node_records import check_are_urls, check_peer_urls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config import ClusterConfig, NodeConfig
    from config.process.listeners import ClientListener
    from config.topology import Topology
    from coordinator.api.call import Call, Handler
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.services.etcd_tables import EtcdTables
    from coordinator.shards.member_changes import MemberChanges
    from coordinator.shards.memberships import Member, Memberships
    from proto.catalog import TableEntry

Step = frames.MembershipStep


def check_added_urls(call: Call) -> None:
    """Whoever asks for a member to be added hears of URLs that are none, before it is asked who he is. Raises
    BadMemberUrls."""
    request = decode(etcd.MemberAddRequest.FromString, call.body)
    try:
        check_are_urls(request.peerURLs)
    except ValueError as error:
        raise errors.BadMemberUrls(str(error)) from None


class EtcdCluster:
    """MemberList, MemberAdd, MemberRemove, MemberUpdate, MemberPromote."""

    def __init__(
        self,
        cluster: ClusterConfig,
        node: NodeConfig,
        calls: TableCalls,
        tables: EtcdTables,
        topology: Topology,
        memberships: Memberships,
        changes: MemberChanges,
    ) -> None:
        """node: this one, whose clients ask."""
        self._cluster = cluster
        self._listeners = {
            listener.name: listener for listener in client_listeners(cluster, node.name) if listener.table
        }
        self._calls = calls
        self._tables = tables
        self._topology = topology
        self._memberships = memberships
        self._changes = changes

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/etcdserverpb.Cluster/MemberList": self.member_list,
            "/etcdserverpb.Cluster/MemberAdd": self.member_add,
            "/etcdserverpb.Cluster/MemberRemove": self.member_remove,
            "/etcdserverpb.Cluster/MemberUpdate": self.member_update,
            "/etcdserverpb.Cluster/MemberPromote": self.member_promote,
        }

    async def member_list(self, call: Call) -> bytes:
        """All nodes, by id. Linearizable on request: then it proves that the table's shard has a quorum."""
        request = decode(etcd.MemberListRequest.FromString, call.body)
        table = await self._tables.find(call)
        term = 0
        if request.linearizable:
            asked = Asked(table, frames.TABLE_STATUS, b"", call.deadline, NOBODY)
            table, reply = await self._calls.read(asked, linearizable=True)
            term = reply.term
        listed = etcd.MemberListResponse(members=self._listed(call)).SerializeToString()
        return self._tables.header(table, revision=0, term=term) + listed

    async def member_add(self, call: Call) -> bytes:
        """A node that is to hold a replica of every shard, known by where its replicas will listen."""
        request = decode(etcd.MemberAddRequest.FromString, call.body)
        urls = self._checked(request.peerURLs)
        table = await self._tables.find(call)
        if not request.isLearner:
            self._check_started()
        for shard in self._topology.shards():
            voters, active = await self._changes.active_voters(shard)
            if active < voters:
                raise errors.Unhealthy(f"shard {shard} has {len(active)} of {len(voters)} voters")
        member = self._unfinished(urls)
        if member is None:
            node = self._memberships.new_node()
            record = frames.NodeRecord(
                member_id=self._memberships.new_member_id(node, urls),
                peer_urls=urls,
                promote=not request.isLearner,
            )
        else:
            node, record = member.node, self._memberships.record(member.node)
        for shard in self._topology.shards():
            await self._changes.change(
                shard, Step(kind=Step.ADD_LEARNER, node=node, record=record), call.deadline
            )
        added = etcd.Member(ID=record.member_id, peerURLs=urls, isLearner=request.isLearner)
        others = [one for one in self._listed(call) if one.ID != added.ID]
        members = sorted([*others, added], key=lambda one: one.ID)
        return self._answer(table, etcd.MemberAddResponse(member=added, members=members))

    def _check_started(self) -> None:
        """Raises NotEnoughStarted if a further voter could be waited for in vain: too few have come that were added."""
        voters = [member for member in self._memberships.members() if not member.is_learner]
        started = sum(bool(member.name) for member in voters)
        if len(voters) > 1 and started < (len(voters) + 1) // 2 + 1:
            raise errors.NotEnoughStarted(f"{started} of {len(voters)} have started")

    def _check_started_without(self, member_id: int) -> None:
        """Raises NotEnoughStarted if too few voters have come to go on without this one; a learner is nobody's loss.
        As with etcd, that comes before whether there is such a member."""
        members = self._memberships.members()
        is_learner = any(one.is_learner for one in members if one.member_id == member_id)
        voters = [one for one in members if not one.is_learner and one.member_id != member_id]
        started = sum(bool(one.name) for one in voters)
        if not is_learner and started < len(voters) // 2 + 1:
            raise errors.NotEnoughStarted(f"{started} of {len(voters)} others have started")

    def _unfinished(self, urls: list[str]) -> Member | None:
        """A member that was to be added with these URLs, and does not hold every shard yet. Raises PeerUrlExists."""
        for member in self._memberships.members():
            if set(member.peer_urls) & set(urls):
                held = self._memberships.held_by(member.node)
                if member.name or len(held) == len(self._topology.shards()):
                    raise errors.PeerUrlExists(f"{member.name or 'a member'} is at {urls[0]}")
                return member
        return None

    async def member_remove(self, call: Call) -> bytes:
        """Take a node out of all its shards."""
        request = decode(etcd.MemberRemoveRequest.FromString, call.body)
        table = await self._tables.find(call)
        self._check_started_without(request.ID)
        member = self._member(request.ID)
        shards = self._memberships.held_by(member.node)
        for shard in shards:
            voters, active = await self._changes.active_voters(shard)
            stay = voters - {member.node}
            if member.node in voters and len(stay & active) < len(stay) // 2 + 1:
                raise errors.Unhealthy(f"shard {shard} would lose its quorum")
        for shard in shards:
            await self._changes.change(shard, Step(kind=Step.REMOVE, node=member.node), call.deadline)
        members = [one for one in self._listed(call) if one.ID != request.ID]
        return self._answer(table, etcd.MemberRemoveResponse(members=members))

    async def member_update(self, call: Call) -> bytes:
        """Tell every shard of a node where its replicas listen from now on."""
        request = decode(etcd.MemberUpdateRequest.FromString, call.body)
        table = await self._tables.find(call)
        member = self._member(request.ID)
        others = (one for one in self._memberships.members() if one.member_id != request.ID)
        if any(set(one.peer_urls) & set(request.peerURLs) for one in others):
            raise errors.PeerUrlExists(f"another member is at {request.peerURLs[0]}")
        urls = self._checked(request.peerURLs)
        record = self._memberships.record(member.node)
        record.peer_urls[:] = urls
        for shard in self._memberships.held_by(member.node):
            await self._changes.change(
                shard, Step(kind=Step.UPDATE, node=member.node, record=record), call.deadline
            )
        members = self._listed(call)
        for one in members:
            if one.ID == request.ID:
                one.peerURLs[:] = urls
        return self._answer(table, etcd.MemberUpdateResponse(members=members))

    async def member_promote(self, call: Call) -> bytes:
        """Give a learner its vote in every shard that it is within reach of."""
        request = decode(etcd.MemberPromoteRequest.FromString, call.body)
        table = await self._tables.find(call)
        member = self._member(request.ID)
        shards = [
            shard
            for shard in self._memberships.held_by(member.node)
            if self._memberships.learns(member.node, shard)
        ]
        if not shards:
            raise errors.MemberNotLearner(member.name)
        step = Step(kind=Step.ADD_VOTER, node=member.node)
        for shard in shards:  # it votes in all of them or in none
            await self._changes.check(shard, step, call.deadline)
        for shard in shards:
            await self._changes.change(shard, step, call.deadline)
        members = self._listed(call)
        for one in members:
            if one.ID == request.ID:
                one.isLearner = False
        return self._answer(table, etcd.MemberPromoteResponse(members=members))

    def _checked(self, urls: Iterable[str]) -> list[str]:
        found = list(urls)
        try:
            check_peer_urls(found, shards=len(self._topology.shards()))
        except ValueError as error:
            raise errors.BadMemberUrls(str(error)) from None
        return found

    def _member(self, member_id: int) -> Member:
        for member in self._memberships.members():
            if member.member_id == member_id:
                return member
        raise errors.MemberNotFound(f"{member_id:x}")

    def _listed(self, call: Call) -> list[etcd.Member]:
        listener = self._listeners.get(call.metadata.get(LISTENER_KEY, ""))
        own = None if listener is None or listener.table != call.table else listener
        return [
            etcd.Member(
                ID=member.member_id,
                name=member.name,
                peerURLs=member.peer_urls,
                clientURLs=member.client_urls if own is None else self._urls(member, own),
                isLearner=member.is_learner,
            )
            for member in self._memberships.members()
        ]

    def _urls(self, member: Member, listener: ClientListener) -> list[str]:
        """Where a client that has come by a table's own listener finds this table at a member. There it may have none:
        the member's other ports would mean another table to him, and clients do call where members are listed."""
        table = self._cluster.tables[listener.table or ""]
        if listener.path is not None:
            path = table.socket_on(member.name) if member.name else None
            return [] if path is None else [f"unix://{path}"]
        port = table.port_on(member.name)
        return [] if port is None else [f"{url.rpartition(':')[0]}:{port}" for url in member.client_urls]

    def _answer(
        self,
        table: TableEntry,
        response: etcd.MemberAddResponse
        | etcd.MemberRemoveResponse
        | etcd.MemberUpdateResponse
        | etcd.MemberPromoteResponse,
    ) -> bytes:
        return self._tables.header(table, revision=0, term=0) + response.SerializeToString()
