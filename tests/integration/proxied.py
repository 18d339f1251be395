"""Three nodes, each with a supervisor of its own, as on three machines, with the fault proxy between them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.integration.cluster import BOATHOUSE, ROOT, Cluster
from tests.integration.proxy import FaultProxy, Link, Way
from tests.waiting import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHARDS: Final = 2
TABLES: Final = {"default": {"shard": 1}, "second": {"shard": 2}}


class ProxiedCluster(Cluster):
    """Every node has a cluster file of its own, in which the ports of the others are links of the proxy."""

    def __init__(self, folder: Path, proxy: FaultProxy, **settings: Any) -> None:
        """`settings` are further keys of the file."""
        super().__init__(
            folder, nodes=3, shards=SHARDS, replicas=3, tables=TABLES, separate=True, settings=settings
        )
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

    def links_of(self, node: str) -> list[tuple[Link, Way]]:
        """The links between this node and the others, each with the way that leads away from the node."""
        return [
            (link, Way.TO_TARGET if asking == node else Way.FROM_TARGET)
            for (asking, asked), links in self.links.items()
            if node in (asking, asked)
            for link in links
        ]

    def isolate(self, node: str) -> None:
        """Nothing passes between this node and the others."""
        for link, _ in self.links_of(node):
            link.cut()

    def silence(self, node: str) -> None:
        """The others hear nothing of this node, which still hears them."""
        for link, away in self.links_of(node):
            link.cut(away)

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
