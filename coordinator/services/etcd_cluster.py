"""etcdserverpb.Cluster: the nodes as etcd members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.auth.credentials import NOBODY
from coordinator.services.decoding import decode
from proto.etcd import rpc_pb2 as etcd
from proto.ids import NodeId
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from config import ClusterConfig
    from config.topology import Topology
    from coordinator.api.call import Call, Handler
    from coordinator.services.etcd_tables import EtcdTables
    from coordinator.shards.table_calls import TableCalls


class EtcdCluster:
    """MemberList."""

    def __init__(
        self, calls: TableCalls, tables: EtcdTables, cluster: ClusterConfig, topology: Topology
    ) -> None:
        self._calls = calls
        self._tables = tables
        members = etcd.MemberListResponse(
            members=sorted(
                (
                    etcd.Member(
                        ID=cluster.member_id(node.id),
                        name=node.name,
                        peerURLs=[f"http://{topology.peer_endpoint_of(NodeId(node.id))}"],
                        clientURLs=[cluster.client_url(node.id)],
                    )
                    for node in cluster.nodes.values()
                ),
                key=lambda member: member.ID,
            )
        )
        self._members = members.SerializeToString()

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {"/etcdserverpb.Cluster/MemberList": self.member_list}

    async def member_list(self, call: Call) -> bytes:
        """All nodes, by id. Linearizable on request: then it proves that the table's shard has a quorum."""
        request = decode(etcd.MemberListRequest.FromString, call.body)
        table = await self._tables.find(call)
        term = 0
        if request.linearizable:
            table, reply = await self._calls.read(
                table, frames.TABLE_STATUS, b"", call.deadline, linearizable=True, who=NOBODY
            )
            term = reply.term
        return self._tables.header(table, revision=0, term=term) + self._members
