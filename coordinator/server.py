"""One node's coordinator: everything it is made of, in the order it is built and taken down."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import secrets
from typing import TYPE_CHECKING, Final

import structlog
import zmq
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from config.process.listeners import client_listeners
from config.process.names import ProcessName
from config.tls_files import peer_keys
from config.topology import LearningTopology
from coordinator.api import outcomes
from coordinator.api.call import Api
from coordinator.api.headers import EtcdHeaders, RegattaHeaders
from coordinator.auth.authenticator import Authenticator
from coordinator.auth.bearer import MAINTENANCE, TABLES, Bearers
from coordinator.auth.guard import Guard
from coordinator.auth.passwords import Passwords
from coordinator.catalog.bootstrap import bootstrap
from coordinator.catalog.cache import Catalog
from coordinator.catalog.changes import TableChanges, finish_deletions
from coordinator.catalog.lead import LeadRow
from coordinator.catalog.moves import MoveRows
from coordinator.catalog.tables import Tables
from coordinator.front import http1
from coordinator.front.front import Front
from coordinator.front.json_gateway import gateway_headers, gateway_pages, with_cors
from coordinator.front.limits import DEFAULT
from coordinator.front.listener import Listener
from coordinator.front.routes import Routes, make_routes
from coordinator.front.server_tls import H2, HTTP1, ServerTls
from coordinator.metrics.figures import coordinator_figures
from coordinator.metrics.scrape import Scrape
from coordinator.metrics.siblings import Siblings
from coordinator.moves.moves import TableMoves
from coordinator.replication.gate import Gate
from coordinator.replication.leading import Leading, LeadWatch
from coordinator.replication.source import TableSource
from coordinator.services.etcd_auth import EtcdAuth
from coordinator.services.etcd_calls import EtcdCalls
from coordinator.services.etcd_cluster import EtcdCluster
from coordinator.services.etcd_election import EtcdElection
from coordinator.services.etcd_kv import EtcdKV
from coordinator.services.etcd_lease import EtcdLease
from coordinator.services.etcd_lock import EtcdLock
from coordinator.services.etcd_maintenance import EtcdMaintenance
from coordinator.services.etcd_pages import EtcdPages
from coordinator.services.etcd_tables import TABLE_KEY, EtcdTables
from coordinator.services.etcd_watch import EtcdWatch
from coordinator.services.health import Health
from coordinator.services.reflection import Reflection
from coordinator.services.regatta_cluster import RegattaCluster
from coordinator.services.regatta_kv import RegattaKV
from coordinator.services.regatta_maintenance import RegattaMaintenance
from coordinator.services.regatta_replication import RegattaReplication
from coordinator.services.regatta_tables import RegattaTables
from coordinator.services.restore import Restore
from coordinator.services.serving_tables import ServingTables
from coordinator.services.table_moves import Moves
from coordinator.shards.bounds import AnswerBudget, Bounds
from coordinator.shards.driver import Driver
from coordinator.shards.member_changes import MemberChanges
from coordinator.shards.memberships import Memberships
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.replica_status import ReplicaStatuses
from coordinator.shards.request_ids import RequestIds
from coordinator.shards.table_calls import TableCalls
from coordinator.shards.vigil import LeaderVigil
from coordinator.watch.feed import ShardFeed
from coordinator.watch.tables import WatchedTables
from proto import errors
from proto.boathouse import moves_pb2, restore_pb2
from proto.etcd import election_pb2, lock_pb2, rpc_pb2
from proto.ids import NodeId, ShardId
from proto.methods import METHODS, ApiName, Kind
from proto.regatta import maintenance_pb2, regatta_pb2, replication_pb2

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from google.protobuf.descriptor import FileDescriptor

    from config import ClusterConfig, NodeConfig
    from config.process.listeners import ClientListener
    from config.process.tracing import Tracing
    from coordinator.api.call import Handler, Route
    from coordinator.front.limits import Limits
    from coordinator.replication.forward import Forwarder
    from coordinator.tracing import CallTracer

REGATTA_MESSAGE_BYTES_MAX: Final = 4 << 20
"""Regatta's limit for a request."""
LOAD_BYTES_MAX: Final = 64 << 20
"""Of a piece of a table that is restored: as a rule a megabyte, but a revision is never cut."""
GRPC_MESSAGE_BYTES_MAX: Final = 64 << 10
"""Of gRPC's own services: names."""
ETCD_HEADROOM_BYTES: Final = 512 << 10
"""etcd takes messages this much over its request limit, to refuse them with a better word."""

LEADER_PATIENCE_ELECTIONS: Final = 3
"""Election timeouts without a leader after which a stream that insists on one ends, as in etcd."""

NOTICE_S: Final = 0.1
"""On an orderly stop, what clients call before they have heard of it is served; later calls are refused in a way that
makes them call elsewhere unasked."""
CALLS_END_S: Final = 8.0
"""On an orderly stop, calls in flight get this long: their usual time limit, and a moment. Less than a supervisor
waits before it kills."""
LAST_WORDS_S: Final = 1.0
"""For clients to read the last answers."""

API_FILES: Final[tuple[FileDescriptor, ...]] = tuple(
    module.DESCRIPTOR
    for module in (
        rpc_pb2,
        lock_pb2,
        election_pb2,
        regatta_pb2,
        maintenance_pb2,
        replication_pb2,
        restore_pb2,
        moves_pb2,
    )
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
        self._context = zmq.Context(io_threads=1)
        self._report = report
        self._topology = LearningTopology(cluster)
        bounds = Bounds(
            calls_max=cluster.limits.pending_requests_max, bytes_max=cluster.limits.pending_bytes_max
        )
        budget = AnswerBudget(lambda: self._front.room.tally.bytes, bytes_max=cluster.limits.answer_bytes_max)
        self._topology.changes(self._tell_members)
        make_driver: Callable[..., Driver] = Driver
        self._tracer: CallTracer | None = None
        if tracing is not None:
            # Here, because it imports what only who traces has installed.
            from coordinator.tracing import CallTracer, TracedDriver

            make_driver, self._tracer = functools.partial(TracedDriver, tracing), CallTracer(tracing)
        self._driver = make_driver(
            self._context,
            loop,
            self._topology,
            local=NodeId(node.id),
            keys=peer_keys(cluster, node.name),
            bounds=bounds,
            budget=budget,
            memberships=Memberships(cluster, self._topology),
        )
        ids = self._ids = RequestIds(secrets.token_bytes(8))
        self._statuses = ReplicaStatuses(self._driver)
        own_calls = OwnCalls(self._driver, ids)
        shards = self._topology.shards()
        self._tables = Tables(own_calls, self._statuses, shards=shards, named=cluster.tables)
        self._catalog = Catalog(self._tables, promised=cluster.tables)
        self._leading = Leading(cluster, self._catalog, self._tables, LeadRow(own_calls))
        self._lead: LeadWatch | None = None
        self._moves = TableMoves(
            self._catalog,
            MoveRows(own_calls, self._statuses),
            self._driver,
            self._statuses,
            ids,
            shards=shards,
        )
        self._forwarder: Forwarder | None = None
        if cluster.follows is not None:
            # Here, because grpcio takes memory that only a follower cluster needs.
            from coordinator.replication.channels import LeaderChannels
            from coordinator.replication.forward import Forwarder

            channels = LeaderChannels(cluster.follows.of_node(node.name), loop.time)
            self._lead = LeadWatch(self._leading, lambda: self._catalog.load(linearizable=True), loop.time)
            self._forwarder = Forwarder(str(cluster.follows), channels, self._driver, self._lead)
        self._calls = TableCalls(
            self._driver,
            self._catalog,
            ids,
            bounds,
            step_timeout_s=cluster.limits.read_timeout_ms / 1000,
            forwarder=self._forwarder,
        )
        self._passwords = Passwords(cost=cluster.auth.bcrypt_cost)
        gate = self._gate = Gate(cluster.replication.of_node(node.name), loop.time)
        self._authenticator = Authenticator(self._calls, self._passwords, signed, gate)
        self._by_path: dict[str, Route] = {}
        self._etcd = EtcdCalls(self._by_path)
        apis = self._apis()
        handlers = self._handlers()
        served = {path.split("/")[1] for path in handlers} | GRPC_SERVICES
        self._health = Health(served, ServingTables(self._calls))
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
        me = ProcessName.coordinator(node.name, number)
        self._siblings = Siblings(
            cluster,
            me,
            lambda: coordinator_figures(
                me.local, self._by_path, self._front, bounds, self._watched, self._catalog.tables
            ),
        )
        scrape = Scrape(cluster, node.name, self._topology, self._driver, self._statuses, self._siblings)
        self._pages = http1.Pages(
            with_cors(
                {
                    **scrape.pages,
                    ("GET", "/healthz"): http1.alive,
                    **EtcdPages(self._etcd, loop).pages,
                    **gateway_pages(self._by_path, loop),
                }
            ),
            # In base64 a message takes a third more; only etcd's have paths there.
            http1.Limits(
                body_bytes_max=2 * max(apis[ApiName.ETCD].message_bytes_max, REGATTA_MESSAGE_BYTES_MAX)
            ),
        )
        self._listeners = [
            self._listener(listener, sockets[listener.name])
            for listener in client_listeners(cluster, node.name)
        ]
        self._bootstrap: asyncio.Task[None] | None = None
        self._mending: asyncio.Task[None] | None = None
        self._watching_lead: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._publishing: asyncio.Task[None] | None = None

    def _tell_members(self, shard: ShardId) -> None:
        """Tell the supervisor who holds a shard, as far as replicas have said it."""
        members = self._topology.members_of(shard)
        if members is not None:
            self._report("members", {"shard": shard, "index": members.index, "nodes": dict(members.nodes)})

    def _listener(self, listener: ClientListener, sock: socket.socket) -> Listener:
        table = {} if listener.table is None else {TABLE_KEY: listener.table}
        headers = gateway_headers(table)
        return Listener(
            self._front,
            lambda: http1.Http1Protocol(self._pages, headers),
            sock,
            metadata=table,
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

    def _apis(self) -> dict[ApiName, Api]:
        request_bytes_max = self._cluster.limits.request_bytes_max
        return {
            ApiName.ETCD: Api(
                outcomes=outcomes.ETCD, message_bytes_max=request_bytes_max + ETCD_HEADROOM_BYTES
            ),
            ApiName.ETCD_ADMIN: Api(
                outcomes=outcomes.ETCD_ADMIN, message_bytes_max=request_bytes_max + ETCD_HEADROOM_BYTES
            ),
            ApiName.ETCD_CONCURRENCY: Api(
                outcomes=outcomes.ETCD_CONCURRENCY, message_bytes_max=request_bytes_max + ETCD_HEADROOM_BYTES
            ),
            ApiName.REGATTA: Api(outcomes=outcomes.REGATTA, message_bytes_max=REGATTA_MESSAGE_BYTES_MAX),
            ApiName.REGATTA_TABLES: Api(
                outcomes=outcomes.REGATTA_TABLES, message_bytes_max=REGATTA_MESSAGE_BYTES_MAX
            ),
            ApiName.BOATHOUSE: Api(outcomes=outcomes.ETCD, message_bytes_max=LOAD_BYTES_MAX),
            ApiName.GRPC: Api(outcomes=outcomes.GRPC, message_bytes_max=GRPC_MESSAGE_BYTES_MAX),
        }

    def _handlers(self) -> dict[str, Handler]:
        """Every served method of both APIs by its path; proto.methods.METHODS says what each is."""
        cluster, node, calls = self._cluster, self._node, self._calls
        limits, statuses = cluster.limits, self._statuses
        memberships = self._driver.memberships
        self._headers = EtcdHeaders(cluster_id=cluster.cluster_id, member_id=cluster.member_id(node.id))
        self._changes = MemberChanges(self._driver, statuses, memberships)
        tables = EtcdTables(
            calls,
            self._headers,
            self._vigil(),
        )
        self._watched = WatchedTables(
            ShardFeed(self._driver, calls),
            lambda table: lambda revision: tables.header(table, revision=revision, term=0),
            random.Random(),
        )
        authenticator = self._authenticator
        source = TableSource(self._driver, calls, self._ids)
        changes = TableChanges(self._catalog, self._tables)
        bearers = Bearers(cluster, node)
        services = (
            EtcdKV(
                calls,
                tables,
                authenticator,
                request_bytes_max=limits.request_bytes_max,
                txn_ops_max=limits.txn_ops_max,
            ),
            EtcdAuth(calls, tables, authenticator),
            EtcdWatch(
                tables,
                authenticator,
                self._watched,
                random.Random(),
                progress_interval_s=cluster.watch.progress_interval_ms / 1000,
            ),
            EtcdLease(calls, tables, authenticator, ttl_s_min=cluster.raft.lease_ttl_s_min),
            EtcdCluster(calls, tables, self._topology, memberships, self._changes),
            EtcdMaintenance(calls, tables, authenticator, statuses, self._topology, memberships, node),
            Restore(calls, tables, authenticator),
            Moves(self._moves, authenticator),
            RegattaKV(calls, RegattaHeaders(replica_id=node.id), authenticator),
            RegattaReplication(
                cluster.cluster,
                self._gate,
                self._catalog,
                source,
                self._leading,
                authenticator,
                follows=cluster.follows is not None,
                is_exposed=not (cluster.insecure or all(node.is_loopback for node in cluster.nodes.values())),
            ),
            RegattaMaintenance(
                cluster.cluster,
                calls,
                source,
                changes,
                authenticator,
                follows=cluster.follows is not None,
                is_guarded=bearers.is_guarded(MAINTENANCE),
            ),
            RegattaTables(changes, self._topology, authenticator, is_guarded=bearers.is_guarded(TABLES)),
            RegattaCluster(self._catalog, statuses, cluster, self._topology, node),
            EtcdLock(self._etcd, asyncio.get_running_loop()),
            EtcdElection(self._etcd, asyncio.get_running_loop()),
        )
        guard = Guard(tables, authenticator)
        guarded = {
            path: bearers.guarded(path, guard.guarded(path, handler))
            for service in services
            for path, handler in service.handlers.items()
        }
        if self._tracer is None:
            return guarded
        return {path: self._tracer.traced(path, handler) for path, handler in guarded.items()}

    def _vigil(self) -> LeaderVigil:
        raft = self._cluster.raft
        patience_ms = LEADER_PATIENCE_ELECTIONS * raft.election_ticks * raft.tick_ms
        return LeaderVigil(self._calls.is_led, patience_s=patience_ms / 1000)

    @property
    def served(self) -> frozenset[str]:
        """The paths of all methods that are served."""
        return frozenset(self._front.routes.by_path)

    # ---- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Accept. Calls are taken from now on; those that need the catalog wait until it is read."""
        for listener in self._listeners:
            await listener.start()
        await self._siblings.start()
        self._bootstrap = asyncio.create_task(bootstrap(self._catalog, self._tables, self._cluster.tables))
        self._mending = asyncio.create_task(finish_deletions(self._catalog, self._tables))
        if self._lead is not None:
            self._watching_lead = asyncio.create_task(self._lead.run())
        self._moving = asyncio.create_task(self._moves.keep_going())
        if self._node.joins:
            here = NodeId(self._node.id)
            publishing = self._changes.publish(self._cluster, self._node, here, self._headers.become)
            self._publishing = asyncio.create_task(publishing)
        log.info("serving", endpoint=self._node.client_endpoint, node=self._node.name)

    @property
    def ready(self) -> bool:
        """Whether the catalog is read and every table it names exists."""
        return self._bootstrap is not None and self._bootstrap.done()

    def leader_believed(self, shard: int) -> int:
        """Node id of the shard's leader as last heard, 0 = none."""
        return self._driver.routes(ShardId(shard)).leader_believed or 0

    async def stop(self) -> None:
        """Send clients elsewhere, let calls in flight end (at most CALLS_END_S), and let go of everything.

        What waits to be accepted stays in the sockets, for whoever shares them."""
        self._moves.close()
        tasks = (self._bootstrap, self._mending, self._watching_lead, self._moving, self._publishing)
        for task in tasks:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for listener in self._listeners:
            listener.close()
        self._health.close()
        self._siblings.close()
        self._pages.close()
        front = self._front
        front.announce_end()
        # Streams that last end at once, so that their clients go on elsewhere; the others get the time to end.
        front.end_calls(errors.ShuttingDown(), only=frozenset({Kind.BIDI_STREAM}))
        if front.sessions:
            await asyncio.sleep(NOTICE_S)
        front.refuse_calls()
        await front.wait_until_idle(CALLS_END_S)
        # What is left has no time any more. The driver knows what can be said of each: it may have been applied.
        self._driver.end_calls()
        await asyncio.sleep(0)
        front.end_calls(errors.ShuttingDown())
        await front.wait_until_idle(LAST_WORDS_S)
        front.close()
        if self._forwarder is not None:
            await self._forwarder.close()
        self._let_go()

    def _let_go(self) -> None:
        self._passwords.close()
        self._driver.close()
        self._context.term()
