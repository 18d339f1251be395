"""What a program of an operator is attached to: a cluster to be looked at, looked into and, by its file, acted on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, Self

from proto.catalog import CATALOG_NAME, CATALOG_SHARD
from tools.admin.cluster_source import ClusterSource
from tools.admin.control_client import RequestRefused, SupervisorUnreachable
from tools.admin.coordinator_source import CoordinatorSource
from tools.admin.etcd_client import EtcdClient, Refused
from tools.admin.etcd_source import ETCD_TABLE, EtcdSource
from tools.admin.keys import KeyReader
from tools.admin.operate import ControlOperator, rolling_restart
from tools.admin.probe import NotHandedOver, hand_over
from tools.admin.quorum import Verb
from tools.admin.rolling import RestartStuck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config import ClusterConfig
    from config.process.names import ProcessName
    from tools.admin.keys import KeyPage, KeyRow
    from tools.admin.reach import Reach
    from tools.admin.snapshot import Shard, Snapshot

SUPERVISOR_TIMEOUT_S: Final = 0.5
"""A supervisor that takes longer is shown as it was, with its age."""
HAND_OVER_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 1.0


class NotDone(Exception):
    """An operation was refused or did not get to its end; the text says why."""


class TableReader(Protocol):
    """keys.KeyReader, for its users."""

    def page(self, start: bytes) -> KeyPage: ...

    def history(self, key: bytes) -> list[KeyRow]: ...


class Attachment(Protocol):
    """One cluster. Everything blocks: bounded when it looks, as long as it takes when it acts."""

    @property
    def file(self) -> str:
        """The cluster file as its user wrote it, for commands: "" for the built-in cluster, FILE if not known."""

    @property
    def can_act(self) -> bool:
        """Whether act() can do anything."""

    def poll(self) -> Snapshot:
        """How the cluster is. From one thread at a time."""

    def table(self, name: str) -> TableReader:
        """A look into a table."""

    def act(self, verb: Verb, name: ProcessName, leader: str | None, *, force: bool) -> str:
        """Do that to a process; what was done, in words. leader: the node that leads its shard. force: also if its
        shard can't do without it. Raises NotDone."""


class ClusterAttachment:
    """By the cluster file. Use as a context manager."""

    def __init__(self, cluster: ClusterConfig, file: str, reach: Reach) -> None:
        self.file = file
        self.can_act = True
        self._cluster = cluster
        self._reach = reach
        self._source = ClusterSource(
            cluster, supervisor_timeout_s=SUPERVISOR_TIMEOUT_S, reach=reach, counts_calls=True
        )

    def __enter__(self) -> Self:
        self._source.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._source.__exit__()

    def poll(self) -> Snapshot:
        return self._source.poll()

    def table(self, name: str) -> TableReader:
        endpoints = [node.client_endpoint for node in self._cluster.nodes.values()]
        return KeyReader(endpoints, name, self._reach)

    def act(self, verb: Verb, name: ProcessName, leader: str | None, *, force: bool) -> str:
        try:
            return self._act(verb, name, leader, force=force)
        except (SupervisorUnreachable, RequestRefused, RestartStuck, NotHandedOver) as error:
            raise NotDone(str(error)) from None

    def _act(self, verb: Verb, name: ProcessName, leader: str | None, *, force: bool) -> str:
        operator = ControlOperator(self._cluster)
        match verb:
            case Verb.START:
                report = operator.start(name)
                return f"{name} is {report.state}"
            case Verb.STOP:
                report = operator.stop(name)
                return f"{name} is {report.state}"
            case Verb.RESTART:
                rolling_restart(self._cluster, force=force).run([name], lambda report: None)
                return (
                    f"{name} was restarted and is back in its shard"
                    if name.shard
                    else f"{name} was restarted"
                )
            case Verb.MOVE_LEADER:
                return self._move_leader(name, leader)

    def _move_leader(self, name: ProcessName, leader: str | None) -> str:
        assert name.shard is not None
        if leader is None:
            raise NotHandedOver(f"shard {name.shard} has no leader to move")
        target = None if leader == name.node else name.node
        source = type(name).replica(leader, name.shard)
        hand_over(self._source.cluster, source, target, timeout_s=HAND_OVER_TIMEOUT_S)
        return f"{leader} hands shard {name.shard} over to {target or 'the voter that is furthest'}"


class EndpointAttachment:
    """By endpoints: of coordinators, or of a plain etcd cluster over etcd's API. Use as a context manager."""

    def __init__(self, endpoints: Sequence[str], reach: Reach) -> None:
        self.file = "FILE"
        self.can_act = True
        self._seen: Snapshot | None = None
        self._endpoints = endpoints
        self._reach = reach
        self._client = EtcdClient(ANSWER_TIMEOUT_S, reach)
        self._coordinators = CoordinatorSource(endpoints, reach, self._client)
        self._etcd = EtcdSource(endpoints, self._client)
        self._is_etcd = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._coordinators.__exit__()
        self._client.__exit__(failure)

    def poll(self) -> Snapshot:
        snapshot = None if self._is_etcd else self._coordinators.poll()
        if snapshot is None:
            snapshot = self._etcd.poll()
            # Who has no pages of ours, and speaks etcd's API, is asked for them no more.
            self._is_etcd = self._coordinators.speaks_to_others and bool(snapshot.nodes)
        self._seen = snapshot
        return snapshot

    def table(self, name: str) -> TableReader:
        return KeyReader(self._endpoints, None if name == ETCD_TABLE else name, self._reach)

    def act(self, verb: Verb, name: ProcessName, leader: str | None, *, force: bool) -> str:
        """Leaders are moved by etcd's API; the rest is the supervisors' business, which are not in reach."""
        shard = self._seen.shard(name.shard) if self._seen is not None and name.shard is not None else None
        if verb is not Verb.MOVE_LEADER or self._seen is None or shard is None:
            raise NotDone("processes can be acted on by a cluster file only")
        if leader is None:
            raise NotDone(f"shard {shard.number} has no leader to move")
        target = name.node if name.node != leader else _furthest(shard, leader)
        table = shard.tables[0].name if shard.tables else None
        if shard.number == CATALOG_SHARD:
            table = CATALOG_NAME
        if target is None or table is None:
            missing = (
                "voter that could lead instead" if target is None else "table by which it could be named"
            )
            raise NotDone(f"shard {shard.number} has no {missing}")
        endpoint = next((node.endpoint for node in self._seen.nodes if node.name == leader), None)
        if endpoint is None:
            raise NotDone(
                f"{leader}, which leads shard {shard.number}, is not among the nodes that are known"
            )
        with EtcdClient(HAND_OVER_TIMEOUT_S, self._reach) as client:
            try:
                members = client.member_list(endpoint).result().members
                member = next((each.ID for each in members if each.name == target), 0)
                client.move_leader(endpoint, member, table).result()
            except Refused as error:
                raise NotDone(str(error)) from None
        return f"{target} leads shard {shard.number}"


def _furthest(shard: Shard, leader: str) -> str | None:
    others = [replica for replica in shard.serving if replica.node != leader]
    return max(others, key=lambda replica: replica.applied_index or 0).node if others else None
