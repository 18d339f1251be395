"""One node's coordinator: everything it is made of, in the order it is built and taken down."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Final

import grpc
import structlog
import zmq
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import make_wsgi_app

from config.topology import FileTopology
from coordinator.api import outcomes
from coordinator.api.headers import EtcdHeaders, RegattaHeaders
from coordinator.catalog.bootstrap import bootstrap
from coordinator.catalog.cache import Catalog
from coordinator.catalog.tables import Tables
from coordinator.door import Api, Door, Route, Unary
from coordinator.http import HttpServer, alive
from coordinator.metrics import make_registry
from coordinator.services import etcd_kv, etcd_tables, regatta_cluster, regatta_kv
from coordinator.services.etcd_cluster import EtcdCluster
from coordinator.services.etcd_maintenance import EtcdMaintenance
from coordinator.shards.bounds import Bounds
from coordinator.shards.driver import Driver
from coordinator.shards.replica_status import ReplicaStatuses
from coordinator.shards.request_ids import RequestIds
from coordinator.shards.table_calls import TableCalls
from proto.etcd import election_pb2, lock_pb2, rpc_pb2
from proto.ids import NodeId, ShardId
from proto.regatta import maintenance_pb2, regatta_pb2, replication_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

    from config import ClusterConfig, NodeConfig
    from proto.internal import frames_pb2 as frames

REGATTA_MESSAGE_BYTES_MAX: Final = 4 << 20
"""Regatta's limit for a request."""
ETCD_HEADROOM_BYTES: Final = 512 << 10
"""etcd takes messages this much over its request limit, to refuse them with a better word."""

CALLS_END_S: Final = 8.0
"""On an orderly stop, calls in flight get this long: their usual time limit, and a moment. Less than a supervisor
waits before it kills."""

SCRAPE_TIMEOUT_S: Final = 5.0
"""Replicas have answered or are given up long before; only an event loop that hangs takes longer."""

OPTIONS: Final = (
    # etcd's Go clients ping every 10 to 30 s. C-core's default tolerates one ping in 300 s, answers the third with
    # GOAWAY "too_many_pings" and drops the connection with all its watches.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 7_200_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_send_message_length", -1),
    # A second coordinator on the port must fail, not share it unnoticed.
    ("grpc.so_reuseport", 0),
)

API_FILES: Final[tuple[FileDescriptor, ...]] = tuple(
    module.DESCRIPTOR
    for module in (rpc_pb2, lock_pb2, election_pb2, regatta_pb2, maintenance_pb2, replication_pb2)
)

log = structlog.get_logger()


def api_services() -> frozenset[str]:
    """Full names of all services of both APIs, built or not."""
    return frozenset(service.full_name for file in API_FILES for service in file.services_by_name.values())


class PortTaken(Exception):
    """A port of the node can't be listened on."""


class Coordinator:
    """Serves both APIs on one port, over links to the replicas of all shards."""

    def __init__(self, cluster: ClusterConfig, node: NodeConfig) -> None:
        """Must be made on the running event loop. Nothing listens before start()."""
        self._cluster = cluster
        self._node = node
        loop = asyncio.get_running_loop()
        limits = cluster.limits
        self._context = zmq.Context(io_threads=1)
        self._topology = FileTopology(cluster)
        bounds = Bounds(calls_max=limits.pending_requests_max, bytes_max=limits.pending_bytes_max)
        self._driver = Driver(self._context, loop, self._topology, local=NodeId(node.id), bounds=bounds)
        ids = RequestIds(secrets.token_bytes(8))
        self._statuses = ReplicaStatuses(self._driver)
        self._tables = Tables(self._driver, self._statuses, ids, shards=self._topology.shards())
        self._catalog = Catalog(self._tables, promised=cluster.tables)
        self._calls = TableCalls(
            self._driver, self._catalog, ids, bounds, step_timeout_s=limits.read_timeout_ms / 1000
        )
        self._door = Door(
            loop,
            self._routes(),
            known_services=api_services(),
            unserved=self._etcd_api,
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in grpc-stubs
        # One limit for the port: the larger of the two APIs'. The smaller is checked where its methods are.
        message_bytes_max = max(REGATTA_MESSAGE_BYTES_MAX, self._etcd_api.message_bytes_max)
        self._server = grpc.aio.server(
            options=(*OPTIONS, ("grpc.max_receive_message_length", message_bytes_max))
        )
        self._loop = loop
        self._http = HttpServer(
            loop, {"/metrics": make_wsgi_app(make_registry(self._ask_replicas)), "/healthz": alive}
        )
        self._bootstrap: asyncio.Task[None] | None = None

    # ---- the methods -----------------------------------------------------------------------------------------------

    @property
    def _etcd_api(self) -> Api:
        return Api(
            statuses=outcomes.ETCD,
            message_bytes_max=self._cluster.limits.request_bytes_max + ETCD_HEADROOM_BYTES,
        )

    def _routes(self) -> list[Route]:
        return [*self._etcd_routes(), *self._regatta_routes()]

    def _etcd_routes(self) -> list[Route]:
        cluster, limits = self._cluster, self._cluster.limits
        headers = EtcdHeaders(cluster_id=cluster.cluster_id, member_id=cluster.member_id(self._node.id))
        tables = etcd_tables.EtcdTables(self._calls, headers)
        kv = etcd_kv.EtcdKV(
            self._calls,
            tables,
            request_bytes_max=limits.request_bytes_max,
            txn_ops_max=limits.txn_ops_max,
        )
        members = EtcdCluster(self._calls, tables, cluster)
        maintenance = EtcdMaintenance(tables, self._statuses, cluster)
        api, keys = self._etcd_api, etcd_kv.METADATA_KEYS
        read_s, write_s = limits.read_timeout_ms / 1000, limits.write_timeout_ms / 1000
        methods: list[tuple[str, Unary, float]] = [
            ("KV/Range", kv.range, read_s),
            ("KV/Put", kv.put, write_s),
            ("KV/DeleteRange", kv.delete_range, write_s),
            ("KV/Txn", kv.txn, write_s),
            ("KV/Compact", kv.compact, write_s),
            ("Cluster/MemberList", members.member_list, read_s),
            ("Maintenance/Status", maintenance.status, read_s),
            ("Maintenance/Alarm", maintenance.alarm, read_s),
        ]
        return [
            Route(
                path=f"/etcdserverpb.{name}", api=api, timeout_s=timeout_s, unary=method, metadata_keys=keys
            )
            for name, method, timeout_s in methods
        ]

    def _regatta_routes(self) -> list[Route]:
        cluster, limits = self._cluster, self._cluster.limits
        api = Api(statuses=outcomes.REGATTA, message_bytes_max=REGATTA_MESSAGE_BYTES_MAX)
        read_s, write_s = limits.read_timeout_ms / 1000, limits.write_timeout_ms / 1000
        kv = regatta_kv.RegattaKV(self._calls, RegattaHeaders(replica_id=self._node.id))
        members = regatta_cluster.RegattaCluster(self._catalog, self._statuses, cluster, self._node)
        writes, asking = regatta_kv.METADATA_KEYS, regatta_cluster.MEMBER_LIST_METADATA_KEYS
        methods: list[tuple[str, Unary, float, frozenset[str]]] = [
            ("KV/Range", kv.range, read_s, frozenset()),
            ("KV/Put", kv.put, write_s, writes),
            ("KV/DeleteRange", kv.delete_range, write_s, writes),
            ("KV/Txn", kv.txn, write_s, writes),
            ("Cluster/MemberList", members.member_list, read_s, asking),
            ("Cluster/Status", members.status, read_s, frozenset()),
        ]
        iterate = Route(
            path="/regatta.v1.KV/IterateRange", api=api, timeout_s=read_s, streaming=kv.iterate_range
        )
        return [
            iterate,
            *(
                Route(
                    path=f"/regatta.v1.{name}", api=api, timeout_s=timeout_s, unary=method, metadata_keys=keys
                )
                for name, method, timeout_s, keys in methods
            ),
        ]

    # ---- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Calls are taken from now on; those that need the catalog wait until it is read.

        Raises PortTaken."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        served = [*api_services(), health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(served, self._server)
        self._server.add_generic_rpc_handlers((self._door,))
        endpoint = self._node.client_endpoint
        try:
            self._server.add_insecure_port(endpoint)
        except RuntimeError:
            raise self._taken(endpoint) from None
        try:
            self._http.start(self._node.host, self._node.http_port)
        except OSError:
            raise self._taken(self._node.http_endpoint) from None
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self._bootstrap = asyncio.create_task(bootstrap(self._catalog, self._tables, self._cluster.tables))
        log.info("serving", endpoint=endpoint, node=self._node.name)

    def _taken(self, endpoint: str) -> PortTaken:
        return PortTaken(
            f"node {self._node.name} can't listen on {endpoint}: another program has the port, or the address is not "
            "this machine's"
        )

    def _ask_replicas(self) -> dict[ShardId, frames.ReplicaStatus | None]:
        """How this node's replicas are, by shard; for a scrape, from its thread."""
        asking = self._statuses.on(NodeId(self._node.id), self._topology.shards_on(NodeId(self._node.id)))
        return asyncio.run_coroutine_threadsafe(asking, self._loop).result(SCRAPE_TIMEOUT_S)

    @property
    def ready(self) -> bool:
        """Whether the catalog is read and every table it names exists."""
        return self._bootstrap is not None and self._bootstrap.done()

    def leader_believed(self, shard: int) -> int:
        """Node id of the shard's leader as last heard, 0 = none."""
        return self._driver.routes(ShardId(shard)).leader_believed or 0

    async def stop(self) -> None:
        """Take no more calls, let those in flight end (at most CALLS_END_S), and let go of everything."""
        if self._bootstrap is not None:
            self._bootstrap.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._bootstrap
        self._http.close()
        await self._health.enter_graceful_shutdown()
        # gRPC ends what outlives its grace as CANCELLED, which etcd's Go client would send again. So the driver
        # ends it first, with words that say what is known.
        ending = asyncio.create_task(self._server.stop(CALLS_END_S + 1.0))
        await asyncio.wait((ending,), timeout=CALLS_END_S)
        self._driver.end_calls()
        await ending
        self._let_go()

    def _let_go(self) -> None:
        self._driver.close()
        self._context.term()
