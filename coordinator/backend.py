"""What stands behind a coordinator: the way to all shards, what the catalog says, and what goes on beside the calls."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from typing import TYPE_CHECKING

import zmq

from config.members import to_event
from config.tls_files import peer_keys
from config.topology import LearningTopology
from coordinator.catalog.bootstrap import bootstrap
from coordinator.catalog.cache import Catalog
from coordinator.catalog.changes import finish_deletions
from coordinator.catalog.identities import Identities
from coordinator.catalog.lead import LeadRow
from coordinator.catalog.moves import MoveRows
from coordinator.catalog.table_calls import TableCalls
from coordinator.catalog.tables import Tables
from coordinator.moves.moves import TableMoves
from coordinator.replication.leading import Leading, LeadWatch
from coordinator.shards.bounds import AnswerBudget, Bounds
from coordinator.shards.driver import Driver
from coordinator.shards.memberships import Memberships
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.replica_status import ReplicaStatuses
from coordinator.shards.request_ids import RequestIds
from proto.ids import NodeId, ShardId

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from config import ClusterConfig, NodeConfig
    from config.process.tracing import Tracing
    from coordinator.replication.forward import Forwarder


class Backend:
    """Of one coordinator."""

    def __init__(
        self,
        cluster: ClusterConfig,
        node: NodeConfig,
        *,
        held_bytes: Callable[[], int],
        report: Callable[[str, Mapping[str, object]], None],
        tracing: Tracing | None,
    ) -> None:
        """Must be made on the running event loop. Raises BadKeyFile. held_bytes: of answers that wait to be sent to
        clients. report: tells the supervisor something (config/process/events.py)."""
        self._cluster = cluster
        loop = asyncio.get_running_loop()
        self._context = zmq.Context(io_threads=1)
        self._report = report
        self.topology = LearningTopology(cluster)
        bounds = self.bounds = Bounds(
            calls_max=cluster.limits.pending_requests_max, bytes_max=cluster.limits.pending_bytes_max
        )
        budget = AnswerBudget(held_bytes, bytes_max=cluster.limits.answer_bytes_max)
        self.topology.changes(self._tell_members)
        make_driver: Callable[..., Driver] = Driver
        if tracing is not None:
            # Here, because it imports what only who traces has installed.
            from coordinator.tracing import TracedDriver

            make_driver = functools.partial(TracedDriver, tracing)
        self.driver = make_driver(
            self._context,
            loop,
            self.topology,
            local=NodeId(node.id),
            keys=peer_keys(cluster, node.name),
            bounds=bounds,
            budget=budget,
            memberships=Memberships(cluster, self.topology),
        )
        ids = self.ids = RequestIds(secrets.token_bytes(8))
        self.statuses = ReplicaStatuses(self.driver)
        own_calls = OwnCalls(self.driver, ids)
        shards = self.topology.shards()
        self.tables = Tables(own_calls, self.statuses, shards=shards, named=cluster.tables)
        self.catalog = Catalog(self.tables, promised=cluster.tables, heard=self.driver.know_tables)
        self.identities = Identities(own_calls)
        self.leading = Leading(cluster, self.catalog, self.tables, LeadRow(own_calls))
        self._lead: LeadWatch | None = None
        self.moves = TableMoves(
            self.catalog,
            MoveRows(own_calls, self.statuses),
            self.driver,
            self.statuses,
            ids,
            shards=shards,
        )
        self._forwarder: Forwarder | None = None
        if cluster.follows is not None:
            # Here, because grpcio takes memory that only a follower cluster needs.
            from coordinator.replication.channels import LeaderChannels
            from coordinator.replication.forward import Forwarder

            channels = LeaderChannels(cluster.follows.of_node(node.name), loop.time)
            self._lead = LeadWatch(self.leading, lambda: self.catalog.load(linearizable=True), loop.time)
            self._forwarder = Forwarder(
                str(cluster.follows), channels, self.driver, self._lead, self._identity_followed
            )
        self.calls = TableCalls(
            self.driver,
            self.catalog,
            ids,
            bounds,
            step_timeout_s=cluster.limits.read_timeout_ms / 1000,
            forwarder=self._forwarder,
        )
        self._bootstrap: asyncio.Task[None] | None = None
        self._work: list[asyncio.Task[None]] = []

    async def _identity_followed(self) -> str:
        follows = self._cluster.follows
        assert follows is not None
        return follows.identity or await self.identities.followed(follows.cluster)

    def _tell_members(self, shard: ShardId) -> None:
        """Tell the supervisor who holds a shard, as far as replicas have said it."""
        members = self.topology.members_of(shard)
        if members is not None:
            self._report("members", {"shard": shard, **to_event(members)})

    # ---- life --------------------------------------------------------------------------------------------------------

    async def start(self, limit_s: float) -> None:
        """Read the catalog, and work beside the calls from now on. Returns when all that it names has been found in its
        shard; after limit_s at the latest, and then that goes on."""
        self._bootstrap = self.work(bootstrap(self.catalog, self.tables, self._cluster.tables))
        self.work(finish_deletions(self.catalog, self.tables))
        if self._lead is not None:
            self.work(self._lead.run())
        self.work(self.moves.keep_going())
        await asyncio.wait({self._bootstrap}, timeout=limit_s)

    def work(self, what: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Do this beside the calls, until it is done or stop_work()."""
        task = asyncio.create_task(what)
        self._work.append(task)
        return task

    @property
    def ready(self) -> bool:
        """Whether the catalog is read and every table it names exists."""
        return self._bootstrap is not None and self._bootstrap.done()

    async def stop_work(self) -> None:
        """End what goes on beside the calls."""
        self.moves.close()
        for task in self._work:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def close(self) -> None:
        """Let go of everything."""
        if self._forwarder is not None:
            await self._forwarder.close()
        self.driver.close()
        self._context.term()
