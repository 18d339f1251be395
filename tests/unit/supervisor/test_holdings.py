"""What a node remembers of who holds which shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from config import members
from config.loading import load
from coordinator.supervisor.holdings import Holdings, retire

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig

FILE = """
cluster: c
data_dir: {folder}
shards: 2
replicas: 3
nodes:
  n1: {{}}
  n2: {{client_port: 2479, http_port: 8179, peer_port: 7201}}
  n3: {{client_port: 2579, http_port: 8279, peer_port: 7301}}
  n4: {{client_port: 2679, http_port: 8379, peer_port: 7401, joins: true}}
"""


def cluster_in(folder: Path) -> ClusterConfig:
    file = folder / "cluster.yaml"
    file.write_text(FILE.format(folder=folder / "data"))
    for node in ("n1", "n4"):
        (folder / "data" / node).mkdir(parents=True, exist_ok=True)
    return load(file)


def event(shard: int, index: int, *nodes: int, **addresses: str) -> dict[str, Any]:
    at = {str(node): "" for node in nodes} | {
        name.removeprefix("_"): place for name, place in addresses.items()
    }
    return {"event": "members", "shard": shard, "index": index, "nodes": at}


def test_a_node_that_joins_holds_nothing_and_others_what_the_founders_held(tmp_path: Path) -> None:
    cluster = cluster_in(tmp_path)
    assert [cluster.shards_of(node) for node in cluster.nodes] == [(1, 2), (1, 2), (1, 2), ()]


def test_what_is_as_it_was_founded_leaves_no_trace(tmp_path: Path) -> None:
    cluster = cluster_in(tmp_path)
    holdings = Holdings(cluster, "n1")
    assert not holdings.heard(event(1, 7, 1, 2, 3))
    assert not members.file_of(cluster, "n1").exists()


def test_a_change_is_kept_and_found_by_the_next_process(tmp_path: Path) -> None:
    cluster = cluster_in(tmp_path)
    holdings = Holdings(cluster, "n4")
    holdings.heard(event(1, 7, 1, 2, 3))
    assert holdings.heard(event(2, 9, 1, 2, _4="127.0.0.1:7401"))
    assert holdings.cluster.shards_of("n4") == (2,)
    assert holdings.cluster.shards_of("n3") == (1,)
    assert not holdings.heard(event(2, 10, 1, 2, _4="127.0.0.1:7401"))
    assert not holdings.heard(event(2, 8, 1, 2, 3)), "it is older"
    again = cluster_in(tmp_path)
    assert [again.replica_ids(1), again.replica_ids(2)] == [(1, 2, 3), (1, 2, 4)]
    assert again.worker_tcp(4, 2) == "tcp://127.0.0.1:7402"
    assert Holdings(again, "n1").cluster.shards_of("n3") == (1,)


def test_a_member_that_the_file_does_not_name_is_found_where_the_shard_says(tmp_path: Path) -> None:
    cluster = cluster_in(tmp_path)
    holdings = Holdings(cluster, "n1")
    assert holdings.heard(event(2, 9, 1, 2, _9="[::1]:9401"))
    assert holdings.cluster.replica_ids(2) == (1, 2, 9)
    assert holdings.cluster.worker_tcp(9, 2) == "tcp://[::1]:9402"
    assert [node.name for node in holdings.cluster.replica_nodes(2)] == ["n1", "n2"]


def test_nonsense_and_a_damaged_file_change_nothing(tmp_path: Path) -> None:
    cluster = cluster_in(tmp_path)
    holdings = Holdings(cluster, "n1")
    assert not holdings.heard({"event": "members", "shard": "x"})
    members.file_of(cluster, "n1").write_text("{")
    assert cluster_in(tmp_path).holders == {}


def test_what_a_replica_held_is_put_aside(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        (tmp_path / "shard-1").mkdir()
        (tmp_path / "shard-1" / "replica-1.db").write_bytes(content)
        (tmp_path / "shard-1.json").write_bytes(content)
        retire(tmp_path / "shard-1")
        assert (tmp_path / "removed-shard-1" / "replica-1.db").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["removed-shard-1", "removed-shard-1.json"]
