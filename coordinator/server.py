"""One node's coordinator: everything it is made of, in the order it is built and taken down.

What stands behind it, towards the shards, is in backend.py, and what carries out its methods in handlers.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from config.process.listeners import client_listeners
from config.process.names import ProcessName
from coordinator.apis import (
    API_FILES,
    GRPC_FILES,
    GRPC_SERVICES,
    REGATTA_MESSAGE_BYTES_MAX,
    api_services,
    make_apis,
)
from coordinator.auth.authenticator import Authenticator
from coordinator.auth.passwords import Passwords
from coordinator.backend import Backend
from coordinator.front import http1, http_pages
from coordinator.front.answers import CommonShare
from coordinator.front.front import Front
from coordinator.front.json_gateway import CORS, gateway_headers, gateway_pages
from coordinator.front.limits import DEFAULT
from coordinator.front.listener import Listener
from coordinator.front.routes import Routes, make_routes
from coordinator.front.server_tls import H2, HTTP1, ServerTls
from coordinator.front.tally import Held
from coordinator.handlers import Handlers
from coordinator.metrics.figures import coordinator_figures
from coordinator.metrics.scrape import Scrape
from coordinator.metrics.siblings import Siblings
from coordinator.replication.gate import Gate
from coordinator.services.etcd_calls import EtcdCalls
from coordinator.services.etcd_pages import EtcdPages
from coordinator.services.etcd_tables import LISTENER_KEY, TABLE_KEY
from coordinator.services.health import Health
from coordinator.services.readiness import Readiness
from coordinator.services.reflection import Reflection
from coordinator.services.serving_tables import ServingTables
from proto import errors
from proto.ids import NodeId, ShardId
from proto.methods import ApiName

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from config import ClusterConfig, NodeConfig
    from config.process.listeners import ClientListener
    from config.process.tracing import Tracing
    from coordinator.api.call import Route

CATALOG_S: Final = 2.0
"""So long a start waits for the catalog before it accepts. A successor is not in a hurry, since the process before it
goes on meanwhile; without a quorum there is nothing to wait for, and clients are to be told so."""
NOTICE_S: Final = 0.1
"""On an orderly stop, what clients call before they have heard of it is served; later calls are refused in a way that
makes them call elsewhere unasked."""
CALLS_END_S: Final = 8.0
"""On an orderly stop, calls in flight get this long: their usual time limit, and a moment. Less than a supervisor
waits before it kills."""
LAST_WORDS_S: Final = 1.0
"""For clients to read the last answers."""

log = structlog.get_logger()


class Coordinator:
    """Serves all APIs on one port, over links to the replicas of all shards."""

    def __init__(
        self,
        cluster: ClusterConfig,
        node: NodeConfig,
        sockets: Mapping[str, socket.socket],
        *,
        number: int | None = None,
        report: Callable[[str, Mapping[str, object]], None] = lambda _event, _details: None,
        tracing: Tracing | None = None,
    ) -> None:
        """Must be made on the running event loop. Nothing is accepted before start(). Raises TlsUnusable,
        BadTokenKey, BadTokenFile or BadKeyFile.

        sockets: by name (config/process/listeners.py), bound; they are closed in the end. number: among the node's
        coordinators, if it has several. report: tells the supervisor something (config/process/events.py)."""
        signed: SignedTokens | None = None
        if cluster.auth.jwt is not None:
            # Here, because cryptography takes 10 MB that only who signs tokens needs.
            from coordinator.auth.signed_tokens import SignedTokens

            signed = SignedTokens(cluster.auth.jwt)
        self._cluster = cluster
        self._node = node
        loop = asyncio.get_running_loop()
        backend = self._backend = Backend(
            cluster, node, held_bytes=lambda: self._front.room.tally.bytes, report=report, tracing=tracing
        )
        self._passwords = Passwords(cost=cluster.auth.bcrypt_cost)
        gate = Gate(cluster.replication.of_node(node.name), loop.time)
        authenticator = Authenticator(backend.calls, self._passwords, signed, gate)
        by_path: dict[str, Route] = {}
        etcd = EtcdCalls(by_path)
        apis = make_apis(cluster.limits.request_bytes_max)
        handlers = self._handlers = Handlers(cluster, node, backend, authenticator, gate, etcd, tracing)
        served = {path.split("/")[1] for path in handlers.by_path} | GRPC_SERVICES
        self._health = Health(served, ServingTables(backend.calls))
        reflection = Reflection(served, (*API_FILES, *GRPC_FILES))
        routes = make_routes(
            {**handlers.by_path, **self._health.handlers, **reflection.handlers},
            apis,
            read_timeout_s=cluster.limits.read_timeout_ms / 1000,
            write_timeout_s=cluster.limits.write_timeout_ms / 1000,
        )
        by_path.update({route.path: route for route in routes})
        self._front = Front(
            loop,
            Routes(routes, known_services=api_services() | GRPC_SERVICES, unserved=apis[ApiName.ETCD]),
            DEFAULT,
        )
        me = ProcessName.coordinator(node.name, number)
        self._siblings = Siblings(
            cluster,
            me,
            lambda: coordinator_figures(
                me.local, by_path, self._front, backend.bounds, handlers.watched, backend.catalog.tables
            ),
        )
        scrape = Scrape(
            cluster, node.name, backend.topology, backend.driver, backend.statuses, self._siblings
        )
        readiness = Readiness(
            NodeId(node.id),
            backend.topology,
            backend.driver,
            backend.statuses,
            lambda: backend.catalog.is_read,
        )
        # To the room for answers, the clients of HTTP/1.1 are one together.
        room = self._front.room
        held = Held(room.tally, room.release_soon)
        self._pages = http_pages.Pages(
            {
                **scrape.pages,
                ("GET", "/healthz"): http_pages.alive,
                **EtcdPages(etcd, loop).pages,
                **readiness.pages,
                **gateway_pages(by_path, loop, CommonShare(room, held)),
            },
            # In base64 a message takes a third more; only etcd's have paths there.
            http_pages.Limits(
                body_bytes_max=2 * max(apis[ApiName.ETCD].message_bytes_max, REGATTA_MESSAGE_BYTES_MAX)
            ),
            held,
            cors=CORS,
        )
        self._listeners = [
            self._listener(listener, sockets[listener.name])
            for listener in client_listeners(cluster, node.name)
        ]

    def _listener(self, listener: ClientListener, sock: socket.socket) -> Listener:
        table = listener.table
        metadata = {} if table is None else {TABLE_KEY: table, LISTENER_KEY: listener.name}
        headers = gateway_headers(metadata)
        return Listener(
            self._front,
            http1.Door(self._pages, headers),
            sock,
            metadata=metadata,
            tls=self._tls(listener),
            only_http1=listener.only_http1,
        )

    def _tls(self, listener: ClientListener) -> ServerTls | None:
        """None: in the clear, as on a unix socket always."""
        files = self._cluster.client_tls(self._node.id)
        if files is None or listener.path is not None:
            return None
        alpn = (HTTP1,) if listener.only_http1 else (HTTP1, H2)
        return ServerTls(files, alpn, asyncio.get_running_loop().time)

    @property
    def served(self) -> frozenset[str]:
        """The paths of all methods that are served."""
        return frozenset(self._front.routes.by_path)

    # ---- life --------------------------------------------------------------------------------------------------------

    async def start(self, catalog_s: float = CATALOG_S) -> None:
        """Accept, once the catalog is read or catalog_s have passed. Calls that come before it is read wait for it."""
        await self._backend.start(catalog_s)
        for listener in self._listeners:
            await listener.start()
        await self._siblings.start()
        if self._node.joins:
            here = NodeId(self._node.id)
            publishing = self._handlers.member_changes.publish(
                self._cluster, self._node, here, self._handlers.headers.become
            )
            self._backend.work(publishing)
        log.info("serving", endpoint=self._node.client_endpoint, node=self._node.name)

    @property
    def ready(self) -> bool:
        """Whether the catalog is read and every table it names exists."""
        return self._backend.ready

    def leader_believed(self, shard: int) -> int:
        """Node id of the shard's leader as last heard, 0 = none."""
        return self._backend.driver.routes(ShardId(shard)).leader_believed or 0

    async def stop(self) -> None:
        """Send clients elsewhere, let calls in flight end (at most CALLS_END_S), and let go of everything.

        What waits to be accepted stays in the sockets, for whoever shares them."""
        await self._backend.stop_work()
        for listener in self._listeners:
            listener.close()
        self._health.close()
        self._siblings.close()
        self._pages.close()
        front = self._front
        front.announce_end()
        front.end_calls(errors.ShuttingDown(), only_lasting=True)
        if front.sessions:
            await asyncio.sleep(NOTICE_S)
        front.refuse_calls()
        await front.wait_until_idle(CALLS_END_S)
        # What is left has no time any more. The driver knows what can be said of each: it may have been applied.
        self._backend.driver.end_calls()
        await asyncio.sleep(0)
        front.end_calls(errors.ShuttingDown())
        await front.wait_until_idle(LAST_WORDS_S)
        front.close()
        self._passwords.close()
        await self._backend.close()
