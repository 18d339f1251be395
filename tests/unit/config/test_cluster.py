"""What follows from a cluster file: placement, identities, addresses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config import ConfigError
from config.loading import load, parse
from config.paths import SOCKET_PATH_BYTES_MAX
from config.placement import rotation

THREE_NODES = Path(__file__).parents[3] / "config" / "examples" / "three-nodes.yaml"


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[str], int, int]:
    """Nodes, shards, replicas that can be placed."""
    nodes = [f"n{number}" for number in range(1, draw(st.integers(1, 12)) + 1)]
    return nodes, draw(st.integers(1, 60)), draw(st.integers(1, len(nodes)))


@given(layouts())
def test_replicas_of_a_shard_are_on_different_nodes(layout: tuple[list[str], int, int]) -> None:
    nodes, shards, replicas = layout
    for shard in range(1, shards + 1):
        placed = rotation(nodes, shard, replicas)
        assert len(placed) == len(set(placed)) == replicas
        assert set(placed) <= set(nodes)


@given(layouts())
def test_preferred_leaders_spread_evenly(layout: tuple[list[str], int, int]) -> None:
    nodes, shards, replicas = layout
    leads = [rotation(nodes, shard, replicas)[0] for shard in range(1, shards + 1)]
    counts = [leads.count(node) for node in nodes]
    assert max(counts) - min(counts) <= 1


@given(layouts())
def test_replicas_spread_evenly(layout: tuple[list[str], int, int]) -> None:
    nodes, shards, replicas = layout
    placed = [node for shard in range(1, shards + 1) for node in rotation(nodes, shard, replicas)]
    counts = [placed.count(node) for node in nodes]
    # A whole round of shards puts the same on each node; what is left is less than a round of distinct
    # windows.
    assert max(counts) - min(counts) <= min(replicas, len(nodes) - replicas, shards % len(nodes))


def test_placement_does_not_depend_on_the_order_of_lines() -> None:
    lines = [
        "  n1: {id: 1, client_port: 1001, http_port: 2001, peer_port: 3001}\n",
        "  n2: {id: 2, client_port: 1002, http_port: 2002, peer_port: 3101}\n",
        "  n3: {id: 3, client_port: 1003, http_port: 2003, peer_port: 3201}\n",
    ]
    ahead, back = (
        parse("nodes:\n" + "".join(order) + "shards: 5\nreplicas: 1\n", "f") for order in (lines, lines[::-1])
    )
    for shard in range(1, 6):
        assert [n.name for n in ahead.replica_nodes(shard)] == [n.name for n in back.replica_nodes(shard)]


def test_shards_of_a_node_are_those_placed_on_it() -> None:
    cluster = parse(
        "nodes:\n"
        + "".join(f"  n{i}: {{client_port: {i}, http_port: 2{i}, peer_port: {i}00}}\n" for i in range(1, 6))
        + "shards: 7\nreplicas: 3\n",
        "f",
    )
    placed = {(node.name, shard) for shard in range(1, 8) for node in cluster.replica_nodes(shard)}
    assert placed == {(name, shard) for name in cluster.nodes for shard in cluster.shards_of(name)}


def test_identities_are_the_same_everywhere_and_for_ever() -> None:
    """They are on disk and on the wire: a change here makes existing data foreign."""
    cluster = load(THREE_NODES)
    assert f"{cluster.cluster_id:016x}" == "58e5513ff559bc28"
    assert len({cluster.cluster_id, *(cluster.member_id(node) for node in cluster.nodes)}) == 4
    assert len({cluster.group(shard) for shard in range(1, 5)}) == 4
    assert cluster.member_id("n2") == cluster.member_id(2)
    other = parse("cluster: other\nnodes: {n1: {}}\n", "f")
    assert other.cluster_id != cluster.cluster_id
    assert other.member_id("n1") != cluster.member_id("n1")
    assert other.group(1) != cluster.group(1)


def test_nodes_are_found_by_name_and_by_id() -> None:
    cluster = load(THREE_NODES)
    assert cluster.node("n3") is cluster.node(3)
    for unknown in ("n4", 4, 0):
        with pytest.raises(KeyError):
            cluster.node(unknown)


def test_addresses() -> None:
    cluster = parse(
        "nodes: {a: {host: '::1', peer_port: 7000},"
        " b: {host: localhost, client_port: 2389, http_port: 8089, peer_port: 7100}}\n",
        "f",
    )
    assert cluster.worker_tcp("a", 2) == "tcp://[::1]:7001"
    assert cluster.worker_tcp("b", 1) == "tcp://127.0.0.1:7100"
    assert cluster.node("a").client_endpoint == "[::1]:2379"
    assert cluster.worker_ipc("b", 1) == f"ipc://{cluster.runtime_dir}/b.1"
    assert cluster.replica_dir(1, 2) == cluster.data_dir / "a" / "shard-2"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("::", False),
        ("10.0.0.1", False),
        ("db.example", False),
    ],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert (
        parse(f"nodes: {{n1: {{host: '{host}'}}}}\ninsecure: true\n", "f").node("n1").is_loopback is loopback
    )


def test_socket_paths_fit_however_deep_the_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOATHOUSE_RUNTIME_DIR", raising=False)
    name = "n" * 32
    cluster = parse(f"data_dir: /{'d' * 500}\nnodes: {{{name}: {{}}}}\nshards: 256\n", "f")
    paths = [str(cluster.control_socket(name)), cluster.worker_ipc(name, 256).removeprefix("ipc://")]
    assert all(len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX for path in paths)


def test_clusters_with_other_data_have_other_sockets() -> None:
    one, two = (parse(f"data_dir: /{name}\nnodes: {{n1: {{}}}}\n", "f") for name in ("one", "two"))
    assert one.control_socket("n1") != two.control_socket("n1")


def test_models_are_frozen() -> None:
    cluster = load(None)
    with pytest.raises(ValidationError, match="frozen"):
        cluster.shards = 3


ONE = "nodes: {n1: {}}\n"


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [("none", 0), ("1", 1), ("512KiB", 512 << 10), ("2GiB", 2 << 30), ("3 TiB", 3 << 40)],
)
def test_a_quota_is_written_as_people_write_sizes(written: str, size_bytes: int) -> None:
    cluster = parse(ONE + f"tables: {{t: {{quota: {written}}}}}\n", "f")
    assert cluster.table_quota("t") == size_bytes


def test_a_table_without_a_quota_of_its_own_has_the_clusters() -> None:
    cluster = parse(ONE + "limits: {table_quota: 1MiB}\ntables: {own: {quota: none}, t: {}}\n", "f")
    assert [cluster.table_quota(name) for name in ("own", "t", "made later")] == [0, None, None]
    assert cluster.limits.table_quota == 1 << 20


@pytest.mark.parametrize("written", ["-1", "1.5", "2GB", "0KiB", "all", "9999999TiB"])
def test_what_is_no_quota_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="must be none, a number of bytes"):
        parse(ONE + f"tables: {{t: {{quota: {written}}}}}\n", "f")


@pytest.mark.parametrize(("written", "seconds"), [("90s", 90), ("30m", 1_800), ("1h", 3_600)])
def test_a_retention_is_a_time(written: str, seconds: int) -> None:
    cluster = parse(ONE + f"tables: {{t: {{compaction: {{mode: periodic, retention: {written}}}}}}}\n", "f")
    compaction = cluster.table_compaction("t")
    assert compaction is not None
    assert compaction.retention_s == seconds


@pytest.mark.parametrize(
    "written",
    ["{mode: revision, retention: 1h}", "{mode: periodic, retention: 5}", "{mode: revision, retention: 0}"],
)
def test_a_retention_fits_its_mode(written: str) -> None:
    with pytest.raises(ConfigError, match="retention"):
        parse(ONE + f"tables: {{t: {{compaction: {written}}}}}\n", "f")
