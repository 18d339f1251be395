"""One node's coordinator: everything it is made of, in the order it is built and taken down."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Final

import structlog
import zmq
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from config.process.names import CLIENT_SOCKET, HTTP_SOCKET
from coordinator import metrics
from coordinator.api import outcomes
from coordinator.api.call import Api
from coordinator.api.headers import EtcdHeaders, RegattaHeaders
from coordinator.catalog.cache import Catalog
from coordinator.front import http1
from coordinator.front.front import Front
from coordinator.front.json_gateway import gateway_pages, with_cors
from coordinator.front.limits import DEFAULT
from coordinator.front.listener import Listener
from coordinator.front.routes import Routes, make_routes
from coordinator.services.etcd_calls import EtcdCalls
from coordinator.services.etcd_cluster import EtcdCluster
from coordinator.services.etcd_election import EtcdElection
from coordinator.services.etcd_kv import EtcdKV
from coordinator.services.etcd_lock import EtcdLock
from coordinator.services.etcd_maintenance import EtcdMaintenance
from coordinator.services.etcd_pages import EtcdPages
from coordinator.services.etcd_tables import EtcdTables
from coordinator.services.health import Health
from coordinator.services.reflection import Reflection
from coordinator.services.regatta_cluster import RegattaCluster
from coordinator.services.regatta_kv import RegattaKV
from coordinator.shards.dispatch import Dispatch
from coordinator.shards.link import Link
from coordinator.shards.replica_status import ReplicaStatuses
from coordinator.shards.request_ids import RequestIds
from coordinator.shards.routing import ShardRoutes
from coordinator.shards.table_calls import Forward
from proto import errors
from proto.etcd import election_pb2, lock_pb2, rpc_pb2
from proto.methods import METHODS, ApiName, Kind
from proto.regatta import maintenance_pb2, regatta_pb2, replication_pb2

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from google.protobuf.descriptor import FileDescriptor

    from config import ClusterConfig, NodeConfig
    from coordinator.api.call import Handler, Route
    from coordinator.front.limits import Limits
    from proto.internal import frames_pb2 as frames

REGATTA_MESSAGE_BYTES_MAX: Final = 4 << 20
"""Regatta's limit for a request."""
GRPC_MESSAGE_BYTES_MAX: Final = 64 << 10
"""Of gRPC's own services: names."""
ETCD_HEADROOM_BYTES: Final = 512 << 10
"""etcd takes messages this much over its request limit, to refuse them with a better word."""

NOTICE_S: Final = 0.1
"""On an orderly stop, what clients call before they have heard of it is served; later calls are refused in a way that
makes them call elsewhere unasked."""
CALLS_END_S: Final = 8.0
"""On an orderly stop, calls in flight get this long: their usual time limit, and a moment. Less than a supervisor
waits before it kills."""
CALLS_END_INTERVAL_S: Final = 0.02
LAST_WORDS_S: Final = 1.0
"""For clients to read the last answers."""

API_FILES: Final[tuple[FileDescriptor, ...]] = tuple(
    module.DESCRIPTOR
    for module in (rpc_pb2, lock_pb2, election_pb2, regatta_pb2, maintenance_pb2, replication_pb2)
)

GRPC_FILES: Final[tuple[FileDescriptor, ...]] = (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
GRPC_SERVICES: Final = frozenset(
    {path.split("/")[1] for path, method in METHODS.items() if method.api is ApiName.GRPC}
)

log = structlog.get_logger()


def api_services() -> frozenset[str]:
    """Full names of all services of both APIs, built or not."""
    return frozenset(service.full_name for file in API_FILES for service in file.services_by_name.values())


class Coordinator:
    """Serves both APIs on one port, over links to the replicas of all shards."""

    def __init__(
        self,
        cluster: ClusterConfig,
        node: NodeConfig,
        sockets: Mapping[str, socket.socket],
        limits: Limits = DEFAULT,
    ) -> None:
        """Must be made on the running event loop. Nothing is accepted before start().

        sockets: by name (Kind.sockets), bound; they are closed in the end."""
        self._cluster = cluster
        self._node = node
        loop = asyncio.get_running_loop()
        self._context = zmq.Context(io_threads=1)
        self._dispatch = Dispatch(
            loop,
            calls_max=cluster.limits.pending_requests_max,
            bytes_max=cluster.limits.pending_bytes_max,
        )
        self._links: list[Link] = []
        for shard in range(1, cluster.shards + 1):
            self._add_shard(shard, loop)
        ids = RequestIds(secrets.token_bytes(8))
        self._catalog = Catalog(self._dispatch, ids, shards=cluster.shards, wanted=cluster.tables)
        self._forward = Forward(self._dispatch, self._catalog, ids)
        self._by_path: dict[str, Route] = {}
        self._calls = EtcdCalls(self._by_path)
        apis = self._apis()
        handlers = self._handlers()
        served = {path.split("/")[1] for path in handlers} | GRPC_SERVICES
        self._health = Health(served)
        reflection = Reflection(served, (*API_FILES, *GRPC_FILES))
        routes = make_routes(
            {**handlers, **self._health.handlers, **reflection.handlers},
            apis,
            read_timeout_s=cluster.limits.read_timeout_ms / 1000,
            write_timeout_s=cluster.limits.write_timeout_ms / 1000,
        )
        self._by_path.update({route.path: route for route in routes})
        self._front = Front(
            loop,
            Routes(routes, known_services=api_services() | GRPC_SERVICES, unserved=apis[ApiName.ETCD]),
            limits,
        )
        self._pages = http1.Pages(
            with_cors(
                {
                    ("GET", "/metrics"): metrics.page(self._ask_replicas),
                    ("GET", "/healthz"): http1.alive,
                    **EtcdPages(self._calls, loop).pages,
                    **gateway_pages(self._by_path, loop),
                }
            ),
            http1.Limits(body_bytes_max=2 * max(api.message_bytes_max for api in apis.values())),
        )
        self._listeners = [
            Listener(self._front, self._http1, sockets[CLIENT_SOCKET]),
            Listener(self._front, self._http1, sockets[HTTP_SOCKET], only_http1=True),
        ]
        self._bootstrap: asyncio.Task[None] | None = None

    def _http1(self) -> asyncio.Protocol:
        return http1.Http1Protocol(self._pages)

    def _add_shard(self, shard: int, loop: asyncio.AbstractEventLoop) -> None:
        cluster, local = self._cluster, self._node
        holders = cluster.replica_nodes(shard)
        # The routes first: a link may report from its constructor on.
        self._dispatch.add_shard(shard, ShardRoutes(nodes=[node.id for node in holders], local=local.id))
        for node in holders:
            is_local = node.id == local.id
            link = Link(
                self._context,
                loop,
                self._dispatch,
                shard=shard,
                node=node.id,
                local=local.id,
                endpoint=(cluster.worker_ipc if is_local else cluster.worker_tcp)(node.id, shard),
                group=cluster.group(shard),
            )
            self._dispatch.add_channel(link)
            self._links.append(link)

    def _apis(self) -> dict[ApiName, Api]:
        request_bytes_max = self._cluster.limits.request_bytes_max
        return {
            ApiName.ETCD: Api(
                outcomes=outcomes.ETCD, message_bytes_max=request_bytes_max + ETCD_HEADROOM_BYTES
            ),
            ApiName.ETCD_CONCURRENCY: Api(
                outcomes=outcomes.ETCD_CONCURRENCY, message_bytes_max=request_bytes_max + ETCD_HEADROOM_BYTES
            ),
            ApiName.REGATTA: Api(outcomes=outcomes.REGATTA, message_bytes_max=REGATTA_MESSAGE_BYTES_MAX),
            ApiName.GRPC: Api(outcomes=outcomes.GRPC, message_bytes_max=GRPC_MESSAGE_BYTES_MAX),
        }

    def _handlers(self) -> dict[str, Handler]:
        """Every served method of both APIs by its path; proto.methods.METHODS says what each is."""
        cluster, node, forward = self._cluster, self._node, self._forward
        limits, statuses = cluster.limits, ReplicaStatuses(self._dispatch)
        tables = EtcdTables(
            forward, EtcdHeaders(cluster_id=cluster.cluster_id, member_id=cluster.member_id(node.id))
        )
        services = (
            EtcdKV(
                forward, tables, request_bytes_max=limits.request_bytes_max, txn_ops_max=limits.txn_ops_max
            ),
            EtcdCluster(forward, tables, cluster),
            EtcdMaintenance(tables, statuses, cluster),
            RegattaKV(
                forward, RegattaHeaders(replica_id=node.id), step_timeout_s=limits.read_timeout_ms / 1000
            ),
            RegattaCluster(self._catalog, statuses, cluster, node),
            EtcdLock(self._calls, asyncio.get_running_loop()),
            EtcdElection(self._calls, asyncio.get_running_loop()),
        )
        handlers: dict[str, Handler] = {}
        for service in services:
            handlers.update(service.handlers)
        return handlers

    async def _ask_replicas(self) -> dict[int, frames.ReplicaStatus | None]:
        """How this node's replicas are, by shard."""
        shards = self._cluster.shards_of(self._node.name)
        return await ReplicaStatuses(self._dispatch).on(self._node.id, shards)

    # ---- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Accept. Calls are taken from now on; those that need the catalog wait until it is read."""
        for listener in self._listeners:
            await listener.start()
        self._bootstrap = asyncio.create_task(self._catalog.bootstrap())
        log.info("serving", endpoint=self._node.client_endpoint, node=self._node.name)

    @property
    def ready(self) -> bool:
        """Whether the catalog is read and every table it names exists."""
        return self._bootstrap is not None and self._bootstrap.done()

    def leader_believed(self, shard: int) -> int:
        """Node id of the shard's leader as last heard, 0 = none."""
        return self._dispatch.routes(shard).leader_believed

    async def stop(self) -> None:
        """Send clients elsewhere, let calls in flight end (at most CALLS_END_S), and let go of everything.

        What waits to be accepted stays in the sockets, for whoever shares them."""
        if self._bootstrap is not None:
            self._bootstrap.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._bootstrap
        for listener in self._listeners:
            listener.close()
        self._health.close()
        self._pages.close()
        front = self._front
        front.announce_end()
        # Streams that last end at once, so that their clients go on elsewhere; the others get the time to end.
        front.end_calls(errors.ShuttingDown(), only=frozenset({Kind.BIDI_STREAM}))
        await self._wait_until_idle(NOTICE_S, at_least=True)
        front.refuse_calls()
        await self._wait_until_idle(CALLS_END_S)
        # What is left has no time any more. The dispatch knows what can be said of each: it may have been applied.
        self._dispatch.close()
        await asyncio.sleep(0)
        front.end_calls(errors.ShuttingDown())
        await self._wait_until_idle(LAST_WORDS_S)
        front.close()
        self._let_go()

    async def _wait_until_idle(self, timeout_s: float, *, at_least: bool = False) -> None:
        """Wait for the last call to end. at_least: wait the whole time if any client is connected."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        front = self._front
        while loop.time() < deadline and (not front.is_idle or (at_least and front.sessions)):
            await asyncio.sleep(CALLS_END_INTERVAL_S)

    def _let_go(self) -> None:
        for link in self._links:
            link.close()
        self._links.clear()
        self._context.term()
