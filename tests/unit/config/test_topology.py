"""Who is where, as the cluster file says it."""

from __future__ import annotations

import pytest

from config.loading import parse
from config.members import ShardMembers
from config.topology import FileTopology, LearningTopology, Topology
from proto.ids import NodeId, ShardId

NODES = "nodes:\n" + "".join(
    f"  {name}: {{client_port: {port}, http_port: {port + 1}, peer_port: {port + 10}}}\n"
    for name, port in (("a", 6990), ("b", 7090), ("c", 7190), ("d", 7290))
)


def test_the_file_is_a_topology() -> None:
    cluster = parse(f"{NODES}shards: 5\nreplicas: 3\n", "f")
    topology: Topology = FileTopology(cluster)
    assert topology.shards() == [1, 2, 3, 4, 5]
    assert set(topology.replicas_of(ShardId(2))) == {2, 3, 4}
    placed = {(node, shard) for shard in topology.shards() for node in topology.replicas_of(shard)}
    on_nodes = {(node, shard) for node in map(NodeId, range(1, 5)) for shard in topology.shards_on(node)}
    assert placed == on_nodes
    assert topology.group_of(ShardId(3)) == cluster.group(3)


def test_a_replica_is_reached_by_a_socket_file_from_its_own_node_only() -> None:
    topology = FileTopology(cluster := parse(NODES, "f"))
    here, there, shard = NodeId(1), NodeId(2), ShardId(2)
    assert topology.address_of(there, shard) == "tcp://127.0.0.1:7101"
    assert topology.address_of(there, shard, seen_from=here) == "tcp://127.0.0.1:7101"
    assert topology.address_of(there, shard, seen_from=there) == f"ipc://{cluster.runtime_dir}/b.2"
    assert topology.peer_endpoint_of(there) == "127.0.0.1:7100"


def test_what_was_told_counts_if_it_can_be_an_address() -> None:
    topology = LearningTopology(parse(f"{NODES}shards: 3\n", "f"))
    shard = ShardId(3)
    told = {1: "10.0.0.1:7000", 2: "", 3: "10.0.0.3:65535", 9: "", 10: "10.0.0.10:65534"}
    topology.learn(shard, ShardMembers(index=7, nodes=told))
    assert topology.replicas_of(shard) == [1, 2, 3, 9, 10]
    reached = {node: topology.address_of(NodeId(node), shard) for node in (1, 2, 3)}
    assert reached == {1: "tcp://10.0.0.1:7002", 2: "tcp://127.0.0.1:7102", 3: "tcp://127.0.0.1:7202"}
    for nobody_says in (9, 10):
        with pytest.raises(KeyError):
            topology.address_of(NodeId(nobody_says), shard)
