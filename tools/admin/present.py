"""The cluster as it is now: who belongs to each shard by its replicas' own word, whether or not the file names them.

The file founds a cluster, and a machine's files may stay as they are when nodes come and go. So whoever reasons about
quorums and leaders asks replicas first, and goes on with a ClusterConfig that says what they said: `holders` is by
their memberships, and `nodes` has a line for each member that the file lacks, out of the record that its shard's log
keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from config import NodeConfig
from config.process.names import ProcessName
from proto.node_records import in_record, keys_of, members_of
from tools.admin.probe import ReplicaProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from config import ClusterConfig
    from proto.internal import frames_pb2 as frames
    from tools.admin.probe import Answered

ANSWER_S: Final = 1.0


class PresentCluster:
    """One cluster, as its replicas say that it is, again and again."""

    def __init__(self, file: ClusterConfig, probe: ReplicaProbe) -> None:
        self._file = file
        self._probe = probe
        self._told: dict[int, frames.ReplicaStatus] = {}
        """By shard, the newest word of who belongs to it."""
        self.cluster = file
        """As it is by all that was told so far."""

    def told(self, shard: int) -> frames.ReplicaStatus | None:
        """The newest word of who belongs to a shard."""
        return self._told.get(shard)

    def learn(self, statuses: Iterable[frames.ReplicaStatus]) -> None:
        """What replicas have said, or would if they ran."""
        # Leaders last: their word counts whatever was said before, for the cluster may have been made anew.
        for status in sorted(statuses, key=lambda status: (_leads(status), *_age(status))):
            told = self._told.get(status.shard)
            is_newer = told is None or _age(status) >= _age(told)
            if status.membership.voters and (is_newer or _leads(status)):
                self._told[status.shard] = status
        now = _by_word_of(self._file, self._told)
        if now != self.cluster:
            self.cluster = now
            self._probe.go_by(now)

    def ask(
        self, *, timeout_s: float, is_up: Callable[[ProcessName], bool] = lambda name: True
    ) -> dict[ProcessName, Answered]:
        """What every replica says of itself; `cluster` is as they say then. Who isn't up is not asked."""
        answers: dict[ProcessName, Answered] = {}
        asked: set[ProcessName] = set()
        while wanted := self._not_asked(asked, heard={name.shard for name in answers}):
            answers |= self._probe.ask(filter(is_up, wanted), timeout_s=timeout_s)
            asked.update(wanted)
            self.learn([answer.status for answer in answers.values()])
        return answers

    def _not_asked(self, asked: set[ProcessName], heard: set[int | None]) -> list[ProcessName]:
        """Who holds a shard as far as is known; if none of them answered, every node. heard: shards of
        which one did."""
        wanted: list[ProcessName] = []
        for shard, replicas in all_replicas(self.cluster).items():
            in_vain = shard not in heard and asked.issuperset(replicas)
            wanted += (
                [ProcessName.replica(node, shard) for node in self.cluster.nodes] if in_vain else replicas
            )
        return [name for name in wanted if name not in asked]


def present(cluster: ClusterConfig) -> ClusterConfig:
    """The cluster by the word of those of its replicas that answer; as it was told, of shards of which none does."""
    return ask_present(cluster)[0]


def ask_present(
    cluster: ClusterConfig, *, timeout_s: float = ANSWER_S
) -> tuple[ClusterConfig, dict[ProcessName, frames.ReplicaStatus]]:
    """The same, and what they said of themselves."""
    with ReplicaProbe(cluster) as probe:
        now = PresentCluster(cluster, probe)
        answers = now.ask(timeout_s=timeout_s)
    return now.cluster, {name: answer.status for name, answer in answers.items()}


def all_replicas(cluster: ClusterConfig) -> dict[int, list[ProcessName]]:
    """By shard, in placement order."""
    return {
        shard: [ProcessName.replica(node.name, shard) for node in cluster.replica_nodes(shard)]
        for shard in range(1, cluster.shards + 1)
    }


def _leads(status: frames.ReplicaStatus) -> bool:
    return status.leader == status.node


def _age(status: frames.ReplicaStatus) -> tuple[int, int, int]:
    return status.membership.generation, status.term, status.applied_index


def _by_word_of(file: ClusterConfig, told: Mapping[int, frames.ReplicaStatus]) -> ClusterConfig:
    holders = {shard: members_of(status.membership) for shard, status in told.items()}
    nodes = dict(file.nodes)
    known = {node.id for node in nodes.values()}
    for number, record in _records(told).items():
        if number not in known:
            node = _node(number, record, taken=nodes)
            nodes[node.name] = node
    named = {node.id for node in file.nodes.values()}
    keys = {number: key for status in told.values() for number, key in keys_of(status.membership).items()}
    later = {node.id: "" for node in nodes.values()} | dict(file.member_keys) | keys
    return file.model_copy(
        update={
            "holders": {**file.holders, **holders},
            "nodes": nodes,
            "member_keys": {number: key for number, key in later.items() if number not in named},
        }
    )


def _records(told: Mapping[int, frames.ReplicaStatus]) -> dict[int, frames.NodeRecord | None]:
    """Of all members, by id, ascending; None for one of whom no shard was told anything. With a name, if any has it."""
    found: dict[int, frames.NodeRecord | None] = {}
    for status in told.values():
        records = {entry.node: in_record(entry.record) for entry in status.membership.directory}
        for number in members_of(status.membership):
            before, record = found.get(number), records.get(number)
            if before is None or (record is not None and record.name and not before.name):
                found[number] = record
    return dict(sorted(found.items()))


def _node(number: int, record: frames.NodeRecord | None, taken: Mapping[str, NodeConfig]) -> NodeConfig:
    """A member that the file does not name. Without a record nobody knows where it is: its host is empty."""
    names = ("" if record is None else record.name, f"node-{number}", f"unnamed-{number}")
    name = next(name for name in names if name and name not in taken)
    peer = urlsplit(record.peer_urls[0] if record is not None and record.peer_urls else "")
    client = urlsplit(record.client_urls[0] if record is not None and record.client_urls else "")
    host = client.hostname or peer.hostname or ""
    known = NodeConfig(name=name, id=number, joins=True, host=host)
    ports = {"peer_port": peer.port, "client_port": client.port}
    return known.model_copy(update={field: port for field, port in ports.items() if port})
