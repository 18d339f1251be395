"""etcdserverpb.Maintenance. What a member is to etcd, the replica of the table's shard on this node is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.services.decoding import decode
from coordinator.shards.replica_status import table_revision
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.ids import NodeId
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from config import ClusterConfig, NodeConfig
    from coordinator.api.call import Call, Handler
    from coordinator.services.etcd_tables import EtcdTables
    from coordinator.shards.replica_status import ReplicaStatuses
    from coordinator.shards.table_calls import TableCalls
    from proto.catalog import TableEntry

VERSION: Final = "3.5.21"
"""The etcd that we behave as. Clients compare it: kube-apiserver wants 3.5.13 at least."""


class EtcdMaintenance:
    """Status, Alarm, MoveLeader."""

    def __init__(
        self,
        calls: TableCalls,
        tables: EtcdTables,
        statuses: ReplicaStatuses,
        cluster: ClusterConfig,
        node: NodeConfig,
    ) -> None:
        self._calls = calls
        self._tables = tables
        self._statuses = statuses
        self._cluster = cluster
        self._node = NodeId(node.id)
        self._nodes = {cluster.member_id(one.id): NodeId(one.id) for one in cluster.nodes.values()}

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/etcdserverpb.Maintenance/Status": self.status,
            "/etcdserverpb.Maintenance/Alarm": self.alarm,
            "/etcdserverpb.Maintenance/MoveLeader": self.move_leader,
        }

    async def status(self, call: Call) -> bytes:
        """How the replica stands. Needs no leader."""
        decode(etcd.StatusRequest.FromString, call.body)
        table = await self._tables.find(call)
        replica = await self._statuses.nearest(table.shard)
        response = etcd.StatusResponse(
            version=VERSION,
            dbSize=replica.database_bytes,
            dbSizeInUse=replica.database_in_use_bytes,
            leader=self._cluster.member_id(replica.leader) if replica.leader else 0,
            raftIndex=replica.commit_index,
            raftAppliedIndex=replica.applied_index,
            raftTerm=self._tables.term_shown(table, replica.term),
            errors=self._complaints(replica),
            isLearner=replica.node in replica.learners,
        )
        return self._header(table, replica) + response.SerializeToString()

    def _complaints(self, replica: frames.ReplicaStatus) -> list[str]:
        complaints = [] if replica.leader else ["etcdserver: no leader"]
        if replica.no_space:
            # The trailing space is etcd's.
            complaints.append(f"memberID:{self._cluster.member_id(replica.node)} alarm:NOSPACE ")
        if replica.fault:
            complaints.append(replica.fault)
        return complaints

    async def alarm(self, call: Call) -> bytes:
        """GET: a NOSPACE for each replica of the table's shard whose disk is full. It ends with its cause, so it
        can't be set or cleared by hand."""
        request = decode(etcd.AlarmRequest.FromString, call.body)
        if request.action != etcd.AlarmRequest.GET:
            raise errors.MethodNotServed("alarms follow the replicas' disks and can't be set or cleared")
        table = await self._tables.find(call)
        replicas = await self._statuses.everywhere(table.shard)
        if not replicas:
            raise errors.NoLeader(f"no replica of shard {table.shard} answers")
        response = etcd.AlarmResponse()
        if request.alarm in (etcd.NONE, etcd.NOSPACE):
            for replica in replicas:
                if replica.no_space:
                    response.alarms.add(memberID=self._cluster.member_id(replica.node), alarm=etcd.NOSPACE)
        newest = max(replicas, key=lambda replica: table_revision(replica, table.id))
        return self._header(table, newest) + response.SerializeToString()

    async def move_leader(self, call: Call) -> bytes:
        """Make another member lead the table's shard; answered when it does. Only the leader itself takes this."""
        request = decode(etcd.MoveLeaderRequest.FromString, call.body)
        table = await self._tables.find(call)
        # A node that is no member of the cluster has no number, and 0 would leave the choice to the leader.
        target = self._nodes.get(request.targetID)
        if self._calls.leader_believed(table) != self._node:
            raise errors.MemberNotLeader
        if target is None:
            raise errors.BadTransferee(f"no member has the id {request.targetID}")
        body = frames.TransferLeader(target=target, wait=True).SerializeToString()
        try:
            await self._calls.ask_replica(table, self._node, frames.TRANSFER_LEADER, body, call.deadline)
        except errors.NotLeader:
            raise errors.MemberNotLeader from None
        return b""  # without a header, as etcd's

    def _header(self, table: TableEntry, replica: frames.ReplicaStatus) -> bytes:
        return self._tables.header(table, revision=table_revision(replica, table.id), term=replica.term)
