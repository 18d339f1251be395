"""What a program of an operator is attached to: a cluster to be looked at, looked into and, by its file, acted on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, Self

from tools.admin.cluster_source import ClusterSource
from tools.admin.control_client import RequestRefused, SupervisorUnreachable
from tools.admin.coordinator_source import CoordinatorSource
from tools.admin.etcd_client import EtcdClient
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
    from tools.admin.snapshot import Snapshot

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
        self.can_act = False
        self._endpoints = endpoints
        self._reach = reach
        self._client = EtcdClient(ANSWER_TIMEOUT_S, reach)
        self._coordinators = CoordinatorSource(endpoints, reach, self._client)
        self._etcd = EtcdSource(endpoints, self._client)
        self._is_etcd = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._coordinators.__exit__()
        self._client.__exit__()

    def poll(self) -> Snapshot:
        snapshot = None if self._is_etcd else self._coordinators.poll()
        if snapshot is None:
            snapshot = self._etcd.poll()
            # Who has no pages of ours, and speaks etcd's API, is asked for them no more.
            self._is_etcd = self._coordinators.speaks_to_others and bool(snapshot.nodes)
        return snapshot

    def table(self, name: str) -> TableReader:
        return KeyReader(self._endpoints, None if name == ETCD_TABLE else name, self._reach)

    def act(self, verb: Verb, name: ProcessName, leader: str | None, *, force: bool) -> str:
        raise NotDone("processes can be acted on by a cluster file only")
