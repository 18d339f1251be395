"""The cluster as its replicas say that it is, whatever the file says: who counts, who leads, who is where."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from config import ClusterConfig
from config.process.names import ProcessName
from proto.internal import frames_pb2 as frames
from tools.admin.diagnosis import diagnose
from tools.admin.findings import Code
from tools.admin.present import PresentCluster, all_replicas
from tools.admin.probe import Answered
from tools.admin.replica_words import replica_of
from tools.admin.shards import ShardView, view
from tools.admin.snapshot import Snapshot, make_shard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tools.admin.probe import ReplicaProbe

FILE = ClusterConfig.model_validate(
    {"nodes": {f"n{n}": {"host": f"127.0.0.{n}"} for n in (1, 2, 3)}, "shards": 1}
)


def said(
    node: int, voters: Iterable[int], *, leader: int, term: int = 3, applied: int = 50, named: str = "n4"
) -> frames.ReplicaStatus:
    """What a replica says whose shard's log knows where node 4 is."""
    status = frames.ReplicaStatus(
        shard=1, node=node, term=term, leader=leader, commit_index=50, applied_index=applied, last_index=50
    )
    status.voters.extend(voters)
    status.membership.voters.extend(voters)
    record = frames.NodeRecord(name=named, peer_urls=["http://10.0.0.4:7301"], client_urls=["http://h4:2479"])
    status.membership.directory.add(node=4, record=record.SerializeToString())
    return status


class Replicas:
    """Answers as a ReplicaProbe would. By node."""

    def __init__(self, *answering: frames.ReplicaStatus) -> None:
        self.answering = {f"n{status.node}": status for status in answering}
        self.asked: list[str] = []
        self.cluster = FILE

    def go_by(self, cluster: ClusterConfig) -> None:
        self.cluster = cluster

    def ask(self, names: Iterable[ProcessName], *, timeout_s: float) -> dict[ProcessName, Answered]:
        wanted = list(names)
        self.asked += [name.node for name in wanted]
        return {
            name: Answered(self.answering[name.node], 0.0, 0.0)
            for name in wanted
            if name.node in self.answering
        }


def looked(replicas: Replicas) -> tuple[ClusterConfig, ShardView]:
    now = PresentCluster(FILE, cast("ReplicaProbe", replicas))
    answers = {name: answer.status for name, answer in now.ask(timeout_s=1.0).items()}
    return now.cluster, view(1, all_replicas(now.cluster)[1], answers)


def test_a_member_that_the_file_does_not_name_counts_while_it_is_down() -> None:
    """n4 took n3's place, and is down: n1 and n2 are all that the quorum has."""
    _, shard = looked(Replicas(said(1, [1, 2, 4], leader=1), said(2, [1, 2, 4], leader=1)))
    assert [name.node for name in shard.voters] == ["n1", "n2", "n4"]
    assert shard.needs(ProcessName.replica("n2", 1))
    assert [name.node for name in shard.away] == ["n4"]


def test_a_member_that_the_file_does_not_name_is_asked_and_leads() -> None:
    replicas = Replicas(*(said(node, [1, 2, 4], leader=4) for node in (1, 2, 4)))
    cluster, shard = looked(replicas)
    assert shard.leader == ProcessName.replica("n4", 1)
    assert cluster.worker_tcp("n4", 1) == "tcp://10.0.0.4:7301"
    assert cluster.node("n4").client_endpoint == "h4:2479"
    assert replicas.asked == ["n1", "n2", "n3", "n4"]
    assert replicas.cluster == cluster


def test_who_left_is_no_replica_any_more() -> None:
    _, shard = looked(Replicas(said(1, [1, 2, 4], leader=1), said(4, [1, 2, 4], leader=1)))
    assert [name.node for name in shard.replicas] == ["n1", "n2", "n4"]


def test_the_leader_is_believed_and_else_who_is_furthest() -> None:
    old, new = said(3, [1, 2, 3], leader=1, applied=40), said(2, [2, 4], leader=0, applied=50)
    for answering in ((old, new), (new, old)):
        assert [name.node for name in looked(Replicas(*answering))[1].replicas] == ["n2", "n4"]
    leads = said(1, [1, 2, 3], leader=1, term=4, applied=45)
    assert [name.node for name in looked(Replicas(leads, new))[1].replicas] == ["n1", "n2", "n3"]


def test_a_shard_of_which_no_holder_answers_is_looked_for_everywhere() -> None:
    held = FILE.model_copy(update={"holders": {1: {1: ""}}})
    replicas = Replicas(said(2, [2], leader=2))
    now = PresentCluster(held, cast("ReplicaProbe", replicas))
    now.ask(timeout_s=1.0)
    assert [node.name for node in now.cluster.replica_nodes(1)] == ["n2"]
    replicas.answering = {}
    now.ask(timeout_s=1.0)
    assert [node.name for node in now.cluster.replica_nodes(1)] == ["n2"], "what was told stays known"


def test_a_member_of_whom_nothing_is_known_has_a_name_and_a_vote() -> None:
    statuses = [said(node, [1, 2, 5], leader=1) for node in (1, 2)]
    cluster, shard = looked(Replicas(*statuses))
    assert [str(name) for name in shard.away] == ["node-5/shard-1"]
    assert shard.needs(ProcessName.replica("n1", 1))
    assert cluster.node("node-5").host == ""


def test_a_name_that_the_file_gives_to_another_is_not_taken() -> None:
    cluster, _ = looked(Replicas(said(1, [1, 2, 4], leader=1, named="n3")))
    assert cluster.node("node-4").id == 4
    assert cluster.node("n3").id == 3


def test_two_voters_where_the_file_asks_for_three_are_a_finding() -> None:
    answers = [Answered(said(node, [1, 2], leader=1), 0.0, 0.0) for node in (1, 2)]
    replicas = [replica_of(answer, {1: "n1", 2: "n2"}) for answer in answers]
    replicas[0] = replace(replicas[0], role="leader")
    shard = make_shard(1, replicas, ["n1", "n2"], wanted=3)
    found = diagnose(Snapshot(cluster="c", taken_at=0.0, shards=[shard]))
    assert [(each.code, each.says) for each in found] == [
        (Code.SHARD_FEW_VOTERS, "shard 1 has 2 voters, the file asks for 3")
    ]
    assert shard.is_below_replicas
    assert not replace(shard, wanted=2).is_below_replicas
