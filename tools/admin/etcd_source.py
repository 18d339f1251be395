"""Polls a cluster by endpoints, over etcd's API: coordinators of boathouse, or the members of a plain etcd cluster.

Processes are not seen from here. Of a boathouse cluster the catalog is read as well, and each shard that holds a table
is asked about through that table; etcd is one shard with one table. What the API calls a member is a node here."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self, TypeVar

from proto import catalog
from proto.etcd import rpc_pb2 as rpc
from tools.admin.etcd_client import EtcdClient, Refused
from tools.admin.snapshot import Node, Replica, Snapshot, Table, make_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.message import Message

    from tools.admin.etcd_client import Pending
    from tools.admin.reach import Reach

    A = TypeVar("A", bound=Message)

TIMEOUT_S: Final = 1.0
TABLES_MAX: Final = 64
"""Tables whose revision is asked for; each costs a call a poll."""
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
    """One cluster, again and again. Use as a context manager."""

    def __init__(self, endpoints: Sequence[str], reach: Reach) -> None:
        """endpoints: host:port of some members; the others are found through them."""
        self._endpoints = list(endpoints)
        self._client = EtcdClient(TIMEOUT_S, reach)
        self._members: list[_Member] = []
        self._entries: list[catalog.TableEntry] | None = None
        """Of boathouse's catalog; None for etcd."""
        self._cluster_id = 0
        self._replicas: dict[tuple[int, str], Replica] = {}
        self._tables: dict[str, Table] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    def poll(self) -> Snapshot:
        """Ask everybody at once, twice: who there is, and then how each is."""
        problems: list[str] = []
        alarms = self._look_around(problems)
        self._ask_members()
        taken_at = time.time()
        numbers = sorted({number for number, _ in self._replicas})
        names = [member.name for member in self._members]
        voters = [member.name for member in self._members if not member.is_learner]
        shards = [
            make_shard(
                number,
                [self._replicas[number, name] for name in names if (number, name) in self._replicas],
                voters,
            )
            for number in numbers
        ]
        answering = {replica.node for shard in shards for replica in shard.replicas if replica.is_answering}
        return Snapshot(
            cluster=f"{'etcd' if self._entries is None else 'boathouse'} {self._cluster_id:x}",
            taken_at=taken_at,
            nodes=[
                Node(name=member.name, endpoint=member.endpoint, is_up=member.name in answering)
                for member in self._members
            ],
            shards=shards,
            problems=problems,
            is_etcd=self._entries is None,
            alarms=alarms,
        )

    # ---- who there is -----------------------------------------------------------------------------------------------

    def _look_around(self, problems: list[str]) -> Mapping[str, Sequence[str]]:
        """Members, tables and alarms, as the first that answers has them; they stay as they were if nobody does."""
        known = list(dict.fromkeys([*self._endpoints, *(member.endpoint for member in self._members)]))
        members = [self._client.member_list(endpoint) for endpoint in known]
        tables_request = rpc.RangeRequest(
            key=catalog.TABLES_PREFIX, range_end=catalog.TABLES_END, serializable=True
        )
        tables = [self._client.range(endpoint, tables_request, catalog.CATALOG_NAME) for endpoint in known]
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
        rows = _first(tables, [])
        if rows is not None:
            self._entries = _entries(rows) or None
        raised = _first(alarms, [])
        by_node: dict[str, list[str]] = {}
        for alarm in raised.alarms if raised is not None else ():
            by_node.setdefault(self._name(alarm.memberID), []).append(rpc.AlarmType.Name(alarm.alarm))
        return by_node

    def _name(self, member_id: int) -> str:
        return next((member.name for member in self._members if member.id == member_id), "")

    # ---- how each is ------------------------------------------------------------------------------------------------

    def _ask_members(self) -> None:
        asked: list[tuple[int, _Member, Pending[rpc.StatusResponse]]] = []
        for number, table in self._representatives().items():
            asked += [
                (number, member, self._client.status(member.endpoint, table)) for member in self._members
            ]
        self._replicas = {
            (number, member.name): self._replica(number, member, pending) for number, member, pending in asked
        }
        self._ask_for_tables()
        for number, name in self._replicas:
            mine = tuple(table for table in self._tables.values() if table.shard == number)
            self._replicas[number, name] = replace(self._replicas[number, name], tables=mine)

    def _ask_for_tables(self) -> None:
        """Their revisions, of the first member that has just answered: any knows them."""
        answering = {name for (_, name), replica in self._replicas.items() if replica.is_answering}
        endpoint = next((member.endpoint for member in self._members if member.name in answering), None)
        if endpoint is None:
            return
        entries = (self._entries or [])[:TABLES_MAX]
        for entry, pending in [(entry, self._client.status(endpoint, entry.name)) for entry in entries]:
            try:
                self._note(entry.name, entry.shard, pending.result().header.revision, str(entry.history_word))
            except Refused:
                continue

    def _representatives(self) -> dict[int, str | None]:
        """By shard: a table of it, through which its replicas are asked."""
        if self._entries is None:
            return {ETCD_SHARD: None}
        return {int(entry.shard): entry.name for entry in reversed(self._entries)}

    def _replica(self, number: int, member: _Member, pending: Pending[rpc.StatusResponse]) -> Replica:
        try:
            status = pending.result()
        except Refused:
            known = self._replicas.get((number, member.name), Replica(shard=number, node=member.name))
            return replace(known, is_answering=False)
        if self._entries is None:
            self._note(ETCD_TABLE, ETCD_SHARD, status.header.revision, "")
        role = "learner" if status.isLearner else "leader" if status.leader == member.id else "follower"
        return Replica(
            shard=number,
            node=member.name,
            is_answering=True,
            answered_at=time.time(),
            role=role,
            leader=self._name(status.leader),
            term=status.raftTerm,
            commit_index=status.raftIndex,
            applied_index=status.raftAppliedIndex,
            database_bytes=status.dbSize,
            no_space=any("NOSPACE" in error for error in status.errors),
        )

    def _note(self, name: str, shard: int, revision: int, history: str) -> None:
        known = self._tables.get(name)
        if known is None or revision > known.revision:
            self._tables[name] = Table(name=name, shard=shard, revision=revision, history=history)


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


def _entries(rows: rpc.RangeResponse) -> list[catalog.TableEntry]:
    found = []
    for row in rows.kvs:
        try:
            found.append(catalog.parse_row(row.key, row.value))
        except catalog.UnreadableRow:
            continue
    return found


def _endpoint(urls: Sequence[str], default: str) -> str:
    return urls[0].partition("://")[2].rstrip("/") if urls else default
