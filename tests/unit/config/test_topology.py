"""Who is where, as the cluster file says it."""

from __future__ import annotations

from config.loading import parse
from config.topology import FileTopology, Topology
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
