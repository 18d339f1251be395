"""regatta.v1.Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import metadata as packages
from typing import TYPE_CHECKING, Any, Final

from coordinator.services.decoding import decode
from proto import errors
from proto.regatta import early_pb2 as early
from proto.regatta import regatta_pb2 as regatta

if TYPE_CHECKING:
    from config import ClusterConfig, NodeConfig
    from coordinator.api.call import Call, Handler
    from coordinator.catalog.cache import Catalog
    from coordinator.shards.memberships import Memberships
    from coordinator.shards.replica_status import ReplicaStatuses
    from proto.ids import ShardId
    from proto.internal import frames_pb2 as frames

VERSION: Final = "0.5.2"
"""The Regatta that we behave as; regatta-go refuses what does not parse, or is older than 0.5."""

CLIENT_VERSION_KEY: Final = "client-api-version"


class RegattaCluster:
    """MemberList, Status."""

    def __init__(
        self,
        catalog: Catalog,
        statuses: ReplicaStatuses,
        cluster: ClusterConfig,
        memberships: Memberships,
        node: NodeConfig,
    ) -> None:
        self._catalog = catalog
        self._statuses = statuses
        self._cluster = cluster
        self._node = node
        self._memberships = memberships

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/regatta.v1.Cluster/MemberList": self.member_list,
            "/regatta.v1.Cluster/Status": self.status,
        }

    async def member_list(self, call: Call) -> bytes:
        """All nodes, as they are members now. Field 1 has two meanings in two published forms of the API, and each
        form's clients may choke on the other's: who is asking decides, and whoever can't be told apart gets no field
        1."""
        request = decode(regatta.MemberListRequest.FromString, call.body)
        members = self._listed()
        if request.linearizable:  # a field that only the early form has
            header = regatta.ResponseHeader(replica_id=self._node.id)
            return early.MemberListResponse(header=header, members=members).SerializeToString()
        response = regatta.MemberListResponse(members=members)
        if CLIENT_VERSION_KEY in call.metadata:  # regatta-go, current form
            response.cluster = self._cluster.cluster
        return response.SerializeToString()

    def _listed(self) -> list[regatta.Member]:
        """In order of their numbers. A node that was added and has not started yet has no name."""
        return [
            regatta.Member(
                id=str(member.node),
                name=member.name,
                # Without a scheme, unlike the next.
                peerURLs=[url.partition("://")[2] for url in member.peer_urls],
                clientURLs=member.client_urls,
            )
            for member in sorted(self._memberships.members(), key=lambda member: member.node)
        ]

    async def status(self, call: Call) -> bytes:
        """This node and every table, as the nearest replica of its shard sees it. A shard that does not answer is
        an entry in `errors`, never a failure."""
        request = decode(regatta.StatusRequest.FromString, call.body)
        response = regatta.StatusResponse(
            id=str(self._node.id), version=VERSION, info=f"boathouse {packages.version('boathouse')}"
        )
        tables = [table for table in await self._catalog.newest(call.deadline) if not table.is_reserved]
        shards = sorted({table.shard for table in tables})
        answers = await asyncio.gather(*(self._ask(shard) for shard in shards))
        by_shard = dict(zip(shards, answers, strict=True))
        for table in tables:
            answer = by_shard[table.shard]
            if isinstance(answer, errors.BoathouseError):
                response.errors.append(f"{table.name}: {answer.detail}")
            else:
                response.tables[table.name].CopyFrom(_table_status(answer))
        if request.config:
            response.config.update(_flat(self._cluster.model_dump(mode="json")))
        return response.SerializeToString()

    async def _ask(self, shard: ShardId) -> frames.ReplicaStatus | errors.BoathouseError:
        try:
            return await self._statuses.nearest(shard)
        except errors.BoathouseError as error:
            return error


def _table_status(replica: frames.ReplicaStatus) -> regatta.TableStatus:
    return regatta.TableStatus(
        logSize=replica.last_index + 1 - replica.first_index if replica.last_index else 0,
        dbSize=replica.database_bytes,
        leader=str(replica.leader),
        raftIndex=replica.applied_index,
        raftTerm=replica.term,
        raftAppliedIndex=replica.applied_index,
    )


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one level with dots, which is how Regatta's console shows them."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[prefix + key] = value
    return flat
