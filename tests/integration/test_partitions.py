"""Three nodes whose links pass through the fault proxy: cut both ways, cut one way, slow. Histories are judged."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.integration.clients import Load
from tests.integration.cluster import BOATHOUSE, ROOT, Cluster
from tests.integration.proxy import FaultProxy, Link, Way
from tests.waiting import free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SHARDS = 2
TABLES = {"default": {"shard": 1}, "second": {"shard": 2}}
READY_S = 60.0
CALM_ANSWERS = 200
SEED = 7


class ProxiedCluster(Cluster):
    """Every node has a cluster file of its own, in which the ports of the others are links of the proxy."""

    def __init__(self, folder: Path, proxy: FaultProxy) -> None:
        super().__init__(folder, nodes=3, shards=SHARDS, replicas=3, tables=TABLES, separate=True)
        self.links: dict[tuple[str, str], list[Link]] = {}
        for node in self.config.nodes:
            document: dict[str, Any] = yaml.safe_load(self.file.read_text())
            for other in self.config.nodes:
                if other != node:
                    ports = free_ports(SHARDS, contiguous=True)
                    target = self.config.node(other).peer_port
                    links = [proxy.link(target + offset, port=port) for offset, port in enumerate(ports)]
                    self.links[node, other] = links
                    document["nodes"][other]["peer_port"] = ports[0]
            self._file_of(node).write_text(yaml.safe_dump(document, sort_keys=False))

    def _file_of(self, node: str) -> Path:
        return self.folder / f"cluster-{node}.yaml"

    def _up(self, name: str, nodes: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [*BOATHOUSE, "up", str(self._file_of(name)), "--node", name]
        with (self.folder / f"up-{name}.out").open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)

    def isolate(self, node: str) -> None:
        """Nothing passes between this node and the others."""
        for ends, links in self.links.items():
            if node in ends:
                for link in links:
                    link.cut()

    def silence(self, node: str) -> None:
        """The others hear nothing of this node, which still hears them."""
        for (asking, asked), links in self.links.items():
            way = Way.TO_TARGET if asking == node else Way.FROM_TARGET
            if node in (asking, asked):
                for link in links:
                    link.cut(way)

    def slow_down(self, least_s: float, most_s: float) -> None:
        """Everything between nodes waits for a time between these."""
        for links in self.links.values():
            for link in links:
                link.delay(least_s, most_s)

    def heal(self) -> None:
        """All links are as new."""
        for links in self.links.values():
            for link in links:
                link.heal()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedCluster]:
    with FaultProxy(SEED) as proxy, ProxiedCluster(tmp_path_factory.mktemp("partitions"), proxy) as running:
        running.wait_leaders()
        yield running


def wait_for_answers(load: Load, more: int = CALM_ANSWERS) -> None:
    wanted = load.answers + more
    wait_until(lambda: load.answers >= wanted, timeout_s=READY_S, what=f"{more} more answers")


@pytest.mark.parametrize(("how", "seed"), [("isolate", 41), ("silence", 42)])
def test_a_leader_cut_off_is_replaced_and_comes_back(cluster: ProxiedCluster, how: str, seed: int) -> None:
    """Clients of the other nodes see no error, and what the cut-off leader had proposed happens once or never."""
    leader = cluster.leader(1).node
    others = [cluster.endpoint(node) for node in cluster.config.nodes if node != leader]
    with Load(others, tuple(TABLES), clients=32, seed=seed) as load:
        wait_for_answers(load)
        getattr(cluster, how)(leader)
        wait_for_answers(load, 2 * CALM_ANSWERS)
        cluster.heal()
        cluster.wait_leaders()
        wait_for_answers(load)
    assert load.failures == []
    load.check()


def test_slow_links_change_no_answer(cluster: ProxiedCluster) -> None:
    cluster.slow_down(0.0, 0.04)
    with Load(cluster.endpoints, tuple(TABLES), clients=64, seed=50) as load:
        wait_for_answers(load, 3 * CALM_ANSWERS)
    cluster.heal()
    assert load.failures == []
    load.check()
