"""What the doctor finds out by trying, on folders and ports of the test's own."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from config import ClusterConfig
from config.process.names import ProcessName
from tests.waiting import free_ports
from tools.admin.checks import SYNCS, check, sync_time_s
from tools.admin.findings import Code, Severity
from tools.admin.snapshot import Node, Process, Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tools.admin.findings import Finding


@pytest.fixture(name="cluster")
def _cluster(tmp_path: Path) -> ClusterConfig:
    client, http, peer = (block[0] for block in (free_ports(1), free_ports(1), free_ports(1)))
    node = {"client_port": client, "http_port": http, "peer_port": peer}
    return ClusterConfig.model_validate(
        {
            "data_dir": str(tmp_path / "data"),
            "nodes": {"n1": node},
            "shards": 1,
            "store": {"disk_free_bytes_min": 1},
        }
    )


def found(cluster: ClusterConfig, *, is_up: bool | None = False) -> list[Finding]:
    node = Node(name="n1", endpoint=cluster.node("n1").client_endpoint, is_up=is_up)
    replica = Process(name=ProcessName.replica("n1", 1), state="running")
    snapshot = Snapshot(cluster="c", taken_at=0.0, nodes=[node], processes=[replica])
    everything = check(cluster, snapshot, file="c.yaml")
    return [
        finding for finding in everything if finding.code is not Code.DISK_SLOW
    ]  # whatever runs beside this


def test_nothing_is_wrong_before_the_first_start(cluster: ClusterConfig) -> None:
    assert found(cluster) == []


def test_syncing_leaves_nothing_behind(tmp_path: Path) -> None:
    assert 0 < sync_time_s(tmp_path) < 60
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_somebody_else_has(cluster: ClusterConfig) -> None:
    with closing(socket.create_server(("127.0.0.1", cluster.node("n1").client_port))):
        assert [finding.code for finding in found(cluster)] == [Code.PORT_TAKEN]
        assert Code.PORT_TAKEN not in {finding.code for finding in found(cluster, is_up=True)}


def test_ports_of_a_node_that_is_up_take_connections(cluster: ClusterConfig) -> None:
    assert [finding.code for finding in found(cluster, is_up=True)] == [Code.PORT_CLOSED] * 3


def test_a_node_of_which_nothing_is_known_is_left_alone(cluster: ClusterConfig) -> None:
    assert found(cluster, is_up=None) == []


def test_what_is_on_other_hosts_is_named(cluster: ClusterConfig) -> None:
    there = cluster.node("n1").model_copy(update={"host": "192.0.2.1"})
    (finding,) = found(cluster.model_copy(update={"nodes": {"n1": there}}), is_up=None)
    assert (finding.code, finding.severity) == (Code.NOT_TRIED, Severity.NOTE)
    assert finding.says == "disks and folders of n1 were not tried"
    cluster.node_dir("n1").mkdir(parents=True, mode=0o700)
    assert found(cluster.model_copy(update={"nodes": {"n1": there}}), is_up=None) == []


def test_a_folder_that_others_can_read(cluster: ClusterConfig) -> None:
    folder = cluster.node_dir("n1")
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    assert found(cluster) == []
    folder.chmod(0o750)
    (finding,) = found(cluster)
    assert (finding.code, finding.remedies) == (Code.FOLDER_OPEN, (f"chmod -R go= {folder}",))


def test_a_disk_that_is_nearly_full(cluster: ClusterConfig) -> None:
    store = cluster.store.model_copy(update={"disk_free_bytes_min": 1 << 39})
    assert [each.code for each in found(cluster.model_copy(update={"store": store}))] == [Code.DISK_LOW]


@pytest.mark.parametrize(("slow", "is_found"), [(3, False), (4, True)])
def test_a_disk_is_slow_if_half_of_its_syncs_are(
    cluster: ClusterConfig, monkeypatch: pytest.MonkeyPatch, slow: int, is_found: bool
) -> None:
    times = iter([1.0] * slow + [0.001] * (SYNCS - slow))
    now_s = 0.0

    def sync(_: int) -> None:
        nonlocal now_s
        now_s += next(times)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(time, "perf_counter", lambda: now_s)
    found = check(cluster, Snapshot(cluster="c", taken_at=0.0), file="")
    assert [finding.code for finding in found] == [Code.DISK_SLOW] * is_found


def test_a_slow_disk(cluster: ClusterConfig) -> None:
    slow = check(cluster, Snapshot(cluster="c", taken_at=0.0), file="", disk_slow_s=0.0)
    assert [finding.code for finding in slow] == [Code.DISK_SLOW]
