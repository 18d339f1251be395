"""Every method of all APIs and what carries it out; proto.methods.METHODS says what each is."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from coordinator.api.headers import EtcdHeaders, RegattaHeaders
from coordinator.auth.bearer import MAINTENANCE, TABLES, Bearers
from coordinator.auth.table_users import TableUsers
from coordinator.catalog.changes import TableChanges
from coordinator.catalog.identities import Meant
from coordinator.catalog.source import TableSource
from coordinator.services.etcd_auth import EtcdAuth
from coordinator.services.etcd_cluster import EtcdCluster
from coordinator.services.etcd_election import EtcdElection
from coordinator.services.etcd_kv import EtcdKV
from coordinator.services.etcd_lease import EtcdLease
from coordinator.services.etcd_lock import EtcdLock
from coordinator.services.etcd_maintenance import EtcdMaintenance
from coordinator.services.etcd_tables import EtcdTables
from coordinator.services.etcd_watch import EtcdWatch
from coordinator.services.guard import Guard
from coordinator.services.passed_on import for_meant_cluster
from coordinator.services.regatta_cluster import RegattaCluster
from coordinator.services.regatta_kv import RegattaKV
from coordinator.services.regatta_maintenance import RegattaMaintenance
from coordinator.services.regatta_replication import RegattaReplication
from coordinator.services.regatta_tables import RegattaTables
from coordinator.services.restore import Restore
from coordinator.services.table_moves import Moves
from coordinator.shards.member_changes import MemberChanges
from coordinator.shards.vigil import LeaderVigil
from coordinator.watch.feed import ShardFeed
from coordinator.watch.tables import WatchedTables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config import ClusterConfig, NodeConfig
    from config.process.tracing import Tracing
    from coordinator.api.call import Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.backend import Backend
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.replication.gate import Gate
    from coordinator.services.etcd_calls import EtcdCalls

LEADER_PATIENCE_ELECTIONS: Final = 3
"""Election timeouts without a leader after which a stream that insists on one ends, as in etcd."""


class Handlers:
    """But those of gRPC's own services."""

    def __init__(
        self,
        cluster: ClusterConfig,
        node: NodeConfig,
        backend: Backend,
        authenticator: Authenticator,
        gate: Gate,
        etcd: EtcdCalls,
        tracing: Tracing | None,
    ) -> None:
        """Must be made on the running event loop. Raises BadTokenFile. etcd: for services that ask others of etcd's."""
        calls, limits, statuses = backend.calls, cluster.limits, backend.statuses
        memberships = backend.driver.memberships
        self.headers = EtcdHeaders(cluster_id=cluster.cluster_id, member_id=cluster.member_id(node.id))
        self.member_changes = MemberChanges(backend.driver, statuses, memberships)
        tables = EtcdTables(calls, self.headers, _vigil(cluster, calls), TableUsers(cluster))
        self.watched = WatchedTables(
            ShardFeed(backend.driver, calls),
            lambda table: lambda revision: tables.header(table, revision=revision, term=0),
            random.Random(),
        )
        source = TableSource(backend.driver, calls, backend.ids)
        changes = TableChanges(backend.catalog, backend.tables)
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
                self.watched,
                random.Random(),
                progress_interval_s=cluster.watch.progress_interval_ms / 1000,
            ),
            EtcdLease(calls, tables, authenticator, ttl_s_min=cluster.raft.lease_ttl_s_min),
            EtcdCluster(cluster, node, calls, tables, backend.topology, memberships, self.member_changes),
            EtcdMaintenance(calls, tables, authenticator, statuses, backend.topology, memberships, node),
            Restore(calls, tables, authenticator),
            Moves(backend.moves, authenticator),
            RegattaKV(calls, RegattaHeaders(replica_id=node.id), authenticator),
            RegattaReplication(
                cluster.cluster,
                gate,
                changes,
                backend.identities,
                source,
                backend.leading,
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
            RegattaTables(changes, backend.topology, authenticator, is_guarded=bearers.is_guarded(TABLES)),
            RegattaCluster(backend.catalog, statuses, cluster, memberships, node),
            EtcdLock(etcd, asyncio.get_running_loop()),
            EtcdElection(etcd, asyncio.get_running_loop()),
        )
        guard = Guard(tables, authenticator, bearers, backend.catalog)
        meant = Meant(backend.identities, asyncio.get_running_loop().time)
        guarded = {
            path: for_meant_cluster(path, bearers.guarded(path, guard.guarded(path, handler)), meant)
            for service in services
            for path, handler in service.handlers.items()
        }
        if tracing is not None:
            # Here, because it imports what only who traces has installed.
            from coordinator.tracing import CallTracer

            tracer = CallTracer(tracing)
            guarded = {path: tracer.traced(path, handler) for path, handler in guarded.items()}
        self.by_path: Mapping[str, Handler] = guarded


def _vigil(cluster: ClusterConfig, calls: TableCalls) -> LeaderVigil:
    raft = cluster.raft
    patience_ms = LEADER_PATIENCE_ELECTIONS * raft.election_ticks * raft.tick_ms
    return LeaderVigil(calls.is_led, patience_s=patience_ms / 1000)
