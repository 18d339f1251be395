from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from config import ClusterConfig
from tests.unit.tools.fake_coordinator import Coordinator
from tests.waiting import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(name="coordinator")
def _coordinator() -> Iterator[tuple[Coordinator, ClusterConfig]]:
    """One of two nodes answers."""
    here, gone = free_ports(2)
    nodes = {"n1": {"client_port": here}, "n2": {"client_port": gone, "http_port": 8_080, "peer_port": 7_201}}
    cluster = ClusterConfig.model_validate({"nodes": nodes, "shards": 3, "replicas": 1})
    made = Coordinator()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[made])
        server.add_insecure_port(f"127.0.0.1:{here}")
        server.start()
        yield made, cluster
        server.stop(None).wait()
