"""What a canary says that clients saw: only what it probed, and every failure."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from config import ClusterConfig
from proto import catalog
from proto.etcd import rpc_pb2 as rpc
from proto.ids import ShardId
from tests.waiting import free_ports, wait_until
from tools.admin.canary import Canary
from tools.admin.reach import IN_THE_CLEAR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLES = [("_own", 5, 1), ("late", 10_009, 2), ("default", 10_001, 1), ("users", 10_002, 2)]


class Coordinator(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Lists TABLES; other calls are noted, and fail for tables in `failing`."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, str]] = set()
        self.failing: set[str] = set()
        self.changes: threading.Event = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = details.method.rpartition("/")[2]
        table = str(dict(details.invocation_metadata)["table"])

        def serve(request: bytes, context: grpc.ServicerContext) -> bytes:
            if table == catalog.CATALOG_NAME:
                return _catalog()
            self.asked.add((table, method))
            if table in self.failing:
                context.abort(grpc.StatusCode.UNAVAILABLE, "no luck")
            if method == "Txn":
                (never,) = rpc.TxnRequest.FromString(request).compare
                assert (never.target, never.result, never.version) == (
                    rpc.Compare.VERSION,
                    rpc.Compare.LESS,
                    0,
                )
            return b""

        return grpc.unary_unary_rpc_method_handler(serve)


def _catalog() -> bytes:
    response = rpc.RangeResponse()
    for name, number, shard in TABLES:
        entry = catalog.TableEntry(name, number, ShardId(shard))
        response.kvs.add(key=catalog.row_key(name), value=catalog.encode_row(entry))
    return response.SerializeToString()


@pytest.fixture
def coordinator() -> Iterator[tuple[Coordinator, ClusterConfig]]:
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


def _more(canary: Canary, count: int = 20) -> Callable[[], bool]:
    wanted = canary.sighting().probes + count
    return lambda: canary.sighting().probes >= wanted


def test_it_writes_and_reads_the_oldest_table_of_each_shard(
    coordinator: tuple[Coordinator, ClusterConfig],
) -> None:
    made, cluster = coordinator
    with Canary(cluster, IN_THE_CLEAR) as canary:
        wait_until(_more(canary), timeout_s=10, what="probes")
    seen = canary.sighting()
    assert made.asked == {("default", "Txn"), ("default", "Range"), ("users", "Txn"), ("users", "Range")}
    assert (seen.failed, seen.first_failure, seen.coordinators, seen.shards) == (0, "", ("n1",), (1, 2))
    assert seen.slowest_ms > 0
    gone, without = seen.not_probed
    assert gone.startswith("n2: ")
    assert without == "shard 3: no table of it answered"
    assert str(seen).startswith("clients saw 0 failed, slowest ")


def test_every_failure_counts(coordinator: tuple[Coordinator, ClusterConfig]) -> None:
    made, cluster = coordinator
    with Canary(cluster, IN_THE_CLEAR) as canary:
        made.failing = {"users"}
        wait_until(_more(canary), timeout_s=10, what="probes")
    seen = canary.sighting()
    assert 0 < seen.failed < seen.probes
    assert seen.first_failure == "n1, table users: no luck (UNAVAILABLE)"
    assert f"clients saw {seen.failed} failed" in str(seen)


def test_what_fails_before_is_left_out_and_named(coordinator: tuple[Coordinator, ClusterConfig]) -> None:
    made, cluster = coordinator
    made.failing = {"users"}
    with Canary(cluster, IN_THE_CLEAR) as canary:
        wait_until(_more(canary), timeout_s=10, what="probes")
    seen = canary.sighting()
    assert (seen.failed, seen.shards) == (0, (1,))
    assert "n1, table users: no luck (UNAVAILABLE)" in seen.not_probed


def test_without_a_probe_nothing_is_claimed() -> None:
    here, http, peer = free_ports(3)
    node = {"client_port": here, "http_port": http, "peer_port": peer}
    with Canary(ClusterConfig.model_validate({"nodes": {"n1": node}, "shards": 1}), IN_THE_CLEAR) as canary:
        pass
    assert str(canary.sighting()).startswith("what clients saw is not known: nothing could be probed (n1: ")
