"""Polls a plain etcd cluster over its API: one group with one keyspace, of which each member tells how it is.

What the API calls a member is a node here. Processes are not seen."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from proto.etcd import rpc_pb2 as rpc
from tools.admin.etcd_client import Refused
from tools.admin.snapshot import Node, Replica, Snapshot, Table, make_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.message import Message

    from tools.admin.etcd_client import EtcdClient, Pending

    A = TypeVar("A", bound=Message)

ETCD_SHARD: Final = 1
ETCD_TABLE: Final = "etcd"
"""What its one keyspace is called here."""


@dataclass(frozen=True, slots=True)
class _Member:
    id: int
    name: str
    endpoint: str
    is_learner: bool


class EtcdSource:
    """One cluster, again and again. From one thread at a time."""

    def __init__(self, endpoints: Sequence[str], client: EtcdClient) -> None:
        """endpoints: host:port of some members; the others are found through them."""
        self._endpoints = list(endpoints)
        self._client = client
        self._members: list[_Member] = []
        self._cluster_id = 0
        self._replicas: dict[str, Replica] = {}
        self._revision = 0

    def poll(self) -> Snapshot:
        """Ask everybody at once, twice: who there is, and then how each is."""
        problems: list[str] = []
        alarms = self._look_around(problems)
        asked = [(member, self._client.status(member.endpoint)) for member in self._members]
        self._replicas = {member.name: self._replica(member, pending) for member, pending in asked}
        voters = [member.name for member in self._members if not member.is_learner]
        return Snapshot(
            cluster=f"etcd {self._cluster_id:x}",
            taken_at=time.time(),
            nodes=[
                Node(
                    name=member.name,
                    endpoint=member.endpoint,
                    is_up=self._replicas[member.name].is_answering,
                )
                for member in self._members
            ],
            shards=[make_shard(ETCD_SHARD, list(self._replicas.values()), voters)] if self._members else [],
            problems=problems,
            is_etcd=True,
            alarms=alarms,
        )

    def _look_around(self, problems: list[str]) -> Mapping[str, Sequence[str]]:
        """Members and alarms, as the first that answers has them; members stay as they were if nobody does."""
        known = list(dict.fromkeys([*self._endpoints, *(member.endpoint for member in self._members)]))
        members = [self._client.member_list(endpoint) for endpoint in known]
        alarms = [self._client.alarms(endpoint) for endpoint in known]
        listed = _first(members, problems)
        if listed is not None:
            self._cluster_id = listed.header.cluster_id
            self._members = [
                _Member(
                    member.ID,
                    member.name or f"{member.ID:x}",
                    _endpoint(member.clientURLs, known[0]),
                    member.isLearner,
                )
                for member in sorted(listed.members, key=lambda member: (member.name, member.ID))
            ]
        raised = _first(alarms, [])
        by_node: dict[str, list[str]] = {}
        for alarm in raised.alarms if raised is not None else ():
            by_node.setdefault(self._name(alarm.memberID), []).append(rpc.AlarmType.Name(alarm.alarm))
        return by_node

    def _name(self, member_id: int) -> str:
        return next((member.name for member in self._members if member.id == member_id), "")

    def _replica(self, member: _Member, pending: Pending[rpc.StatusResponse]) -> Replica:
        try:
            status = pending.result()
        except Refused:
            known = self._replicas.get(member.name, Replica(shard=ETCD_SHARD, node=member.name))
            return replace(known, is_answering=False)
        self._revision = max(self._revision, status.header.revision)
        return Replica(
            shard=ETCD_SHARD,
            node=member.name,
            is_answering=True,
            answered_at=time.time(),
            role="learner" if status.isLearner else "leader" if status.leader == member.id else "follower",
            leader=self._name(status.leader),
            term=status.raftTerm,
            commit_index=status.raftIndex,
            applied_index=status.raftAppliedIndex,
            database_bytes=status.dbSize,
            no_space=any("NOSPACE" in error for error in status.errors),
            tables=[Table(name=ETCD_TABLE, shard=ETCD_SHARD, revision=self._revision)],
        )


def _first(pending: Iterable[Pending[A]], problems: list[str]) -> A | None:
    """The first good answer; else None, and what each said instead."""
    refused = []
    for each in pending:
        try:
            return each.result()
        except Refused as error:
            refused.append(str(error))
    problems += refused
    return None


def _endpoint(urls: Sequence[str], default: str) -> str:
    return urls[0].partition("://")[2].rstrip("/") if urls else default
