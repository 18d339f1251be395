"""A follower cluster of a leader cluster of three nodes, each an endpoint: whichever of them is gone, hangs or is
swallowed by the network, the copies come level."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from proto.etcd import rpc_pb2 as etcd
from tests.integration.cluster import Cluster
from tests.integration.proxy import FaultProxy
from tests.integration.test_replication import positions, wait_level
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.proxy import Link
    from tools.admin.client import KvClient

pytestmark = pytest.mark.long

NOTICED_S = 15.0
"""After so long a silent connection is given up (channels.OPTIONS)."""


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "leader"
    folder.mkdir()
    with Cluster(folder, nodes=3, tables={"default": {}}, settings={"cluster": "harbour"}) as cluster:
        yield cluster


@pytest.fixture
def links(leader: Cluster) -> Iterator[list[Link]]:
    """The ways to the leader cluster's nodes."""
    with FaultProxy(0) as proxy:
        yield [proxy.link(node.client_port) for node in leader.config.nodes.values()]


@pytest.fixture
def follower(tmp_path: Path, leader: Cluster, links: list[Link]) -> Iterator[Cluster]:
    folder = tmp_path / "follower"
    folder.mkdir()
    endpoints = [f"127.0.0.1:{link.port}" for link in links]
    follows = {"cluster": leader.config.cluster, "endpoints": endpoints}
    with Cluster(
        folder, nodes=1, replicas=1, tables={}, settings={"cluster": "island", "follows": follows}
    ) as cluster:
        yield cluster


class Writer:
    """Puts, one after the other, until it is stopped."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = cluster.client(table="default", timeout_s=60.0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write, args=(self._client,))

    def _write(self, client: KvClient) -> None:
        number = 0
        while not self._stopped.wait(0.02):
            client.put(etcd.PutRequest(key=b"k%d" % (number % 50), value=b"%d" % number))
            number += 1

    def __enter__(self) -> None:
        self._client.__enter__()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._client.__exit__()


def _revision(cluster: Cluster) -> int:
    return positions(cluster)["default"][0]


def _wait_past(follower: Cluster, leader: Cluster, timeout_s: float) -> None:
    """Until the copy has what was written by now, although more is written all the time."""
    revision = _revision(leader)
    wait_until(
        lambda: _revision(follower) >= revision,
        timeout_s=timeout_s,
        what=f"the copy to come to revision {revision}",
        interval_s=0.1,
    )


def test_one_of_three_may_be_swallowed_by_the_network(
    leader: Cluster, links: list[Link], follower: Cluster
) -> None:
    wait_level(leader, follower)
    with Writer(leader):
        for link in links:
            link.cut()  # nothing ends: what is said disappears
            _wait_past(follower, leader, NOTICED_S + 15)
            link.heal()
        for away in links:
            others = [link for link in links if link is not away]
            for link in others:
                link.cut()
            _wait_past(follower, leader, 3 * NOTICED_S + 15)
            for link in others:
                link.heal()
    wait_level(leader, follower, timeout_s=3 * NOTICED_S)


def test_one_of_three_may_die_or_hang(leader: Cluster, follower: Cluster) -> None:
    wait_level(leader, follower)
    with Writer(leader):
        for shard in range(1, leader.config.shards + 1):
            leader.kill(leader.leader(shard))
            _wait_past(follower, leader, 20)
        for node in leader.config.nodes:
            leader.kill(ProcessName.coordinator(node))
            _wait_past(follower, leader, 20)
        leader.wait_running()  # the copy may be faster than who was killed last is back
        for node in leader.config.nodes:
            hung = leader.pause(ProcessName.coordinator(node))
            _wait_past(follower, leader, NOTICED_S + 15)
            leader.resume(hung)
    wait_level(leader, follower, timeout_s=3 * NOTICED_S)
