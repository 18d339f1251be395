"""The follower cluster itself, as its replicator works on it: its catalog and the lease row; copies.py has the rest."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

import zmq

from config.tls_files import peer_keys
from config.topology import LearningTopology
from coordinator.catalog.cache import Catalog
from coordinator.catalog.changes import TableChanges
from coordinator.catalog.identities import Identities
from coordinator.catalog.lead import LeadRow
from coordinator.catalog.tables import Tables
from coordinator.replication import followers
from coordinator.replication.aside import Aside
from coordinator.replication.copies import WRITE_S, Copies
from coordinator.replication.leading import Leading
from coordinator.replication.prefixes import Prefixes
from coordinator.replication.report import LEASE_KEY, MORE_KEY, Rows, question, told
from coordinator.shards.bounds import AnswerBudget, Bounds
from coordinator.shards.driver import Driver
from coordinator.shards.memberships import Memberships
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.replica_status import ReplicaStatuses
from coordinator.shards.request_ids import RequestIds
from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd
from proto.ids import NodeId
from proto.internal import frames_pb2 as frames
from proto.internal.curve import BadKeyFile
from proto.methods import Access

if TYPE_CHECKING:
    from config import ClusterConfig, NodeConfig
    from coordinator.catalog.contents import Contents
    from coordinator.replication.followers import Forgotten
    from proto.catalog import TableEntry

ASIDE: Final = "copies-set-aside"
"""In the folder of a node."""
LEASE_S: Final = 1.0
"""For a look at the lease row, and for a try to write it."""


class LeaseRow(NamedTuple):
    """Who replicates, as written."""

    value: Rows
    revision: int
    """Of the last change of the lease; 0 = there is no row."""


class LocalCluster:
    """Over links to the replicas of all shards. close() it in the end."""

    def __init__(self, cluster: ClusterConfig, node: NodeConfig) -> None:
        """Must be made on the running event loop. Raises BadKeyFile."""
        self._context = zmq.Context(io_threads=1)
        topology = LearningTopology(cluster)
        limits = cluster.limits
        self._driver = Driver(
            self._context,
            asyncio.get_running_loop(),
            topology,
            local=NodeId(node.id),
            keys=peer_keys(cluster, node.name),
            bounds=Bounds(calls_max=limits.pending_requests_max, bytes_max=limits.pending_bytes_max),
            budget=AnswerBudget(lambda: 0, bytes_max=limits.answer_bytes_max),
            memberships=Memberships(cluster, topology),
        )
        self._ids = RequestIds(secrets.token_bytes(8))
        self._shards = OwnCalls(self._driver, self._ids)
        tables = Tables(
            self._shards,
            ReplicaStatuses(self._driver),
            shards=topology.shards(),
            named=cluster.tables,
        )
        self._catalog = Catalog(tables, promised=())
        self._changes = TableChanges(self._catalog, tables)
        self.identities = Identities(self._shards)
        self.leading = Leading(cluster, self._catalog, tables, LeadRow(self._shards))
        self.copies = Copies(self._shards)
        self.prefixes = Prefixes(self._shards)
        self.aside = Aside(
            self._driver,
            cluster.node_dir(node.name) / ASIDE,
            free_bytes_min=cluster.store.disk_free_bytes_min,
        )

    @classmethod
    def of_any_node(cls, cluster: ClusterConfig) -> LocalCluster:
        """As the first node whose keys are on this machine. Raises BadKeyFile if none is."""
        failure: BadKeyFile | None = None
        for node in cluster.nodes.values():
            try:
                return cls(cluster, node)
            except BadKeyFile as error:
                failure = error
        assert failure is not None, "a cluster has nodes"
        raise failure

    def close(self) -> None:
        """End all calls, and let go of everything."""
        self._driver.close()
        self._context.term()

    # ---- tables -----------------------------------------------------------------------------------------------------

    async def contents(self) -> Contents:
        """The catalog as it is now. Raises what a linearizable read may."""
        return await self._catalog.load(linearizable=True)

    async def create(self, name: str, *, history: int, origin: int) -> None:
        """Make a copy of a table, empty yet. Raises what making a table may."""
        await self._changes.create(name, catalog.TableSettings(history=history, origin=origin))

    async def adopt(self, entry: TableEntry, origin: int) -> None:
        """See Leading."""
        await self.leading.adopt(entry, origin)

    async def delete(self, copy: TableEntry) -> None:
        """The copy of a table that is gone; its users, if it has any, were given to it here. Raises OtherOrigin if this
        is no such copy any more, and what deleting a table may."""

        async def check(found: TableEntry) -> None:
            check_is(found, copy)

        await self._changes.delete(copy.name, check)
        await self.prefixes.forget(copy)

    async def forget_follower(self, name: str) -> Forgotten:
        """See followers. Raises what a linearizable read may."""
        return await followers.forget(self._shards, (await self.contents()).entries.values(), name)

    # ---- the lease row ----------------------------------------------------------------------------------------------

    async def make_lease_table(self) -> None:
        """No harm if it is there."""
        table = catalog.REPLICATION
        spec = frames.TableSpec(id=table.id, name=table.name, history=table.history)
        await self._shards.ask(Access.WRITE, frames.TABLE_CREATE, table, spec.SerializeToString(), WRITE_S)

    async def read_lease(self) -> LeaseRow:
        """As it is now. Raises what a linearizable read may."""
        reply = await self._shards.ask(
            Access.READ, frames.ETCD_RANGE, catalog.REPLICATION, question(), LEASE_S
        )
        answer = etcd.RangeResponse.FromString(reply.body)
        changed = next((row.mod_revision for row in answer.kvs if row.key == LEASE_KEY), 0)
        return LeaseRow(told(answer), changed)

    async def swap_lease(self, value: Rows, *, seen: int) -> int:
        """Write the row if it was last changed at revision `seen`. The revision of that, or 0 if somebody else was
        faster. Raises what a write may; then it may have been written nevertheless."""
        txn = etcd.TxnRequest()
        txn.compare.add(key=LEASE_KEY, target=etcd.Compare.MOD, mod_revision=seen)
        for key, written in ((LEASE_KEY, value.lease), (MORE_KEY, value.more)):
            txn.success.add().request_put.CopyFrom(etcd.PutRequest(key=key, value=written))
        body = txn.SerializeToString()
        reply = await self._shards.ask(Access.WRITE, frames.ETCD_TXN, catalog.REPLICATION, body, LEASE_S)
        return reply.revision if etcd.TxnResponse.FromString(reply.body).succeeded else 0


def check_is(found: TableEntry, copy: TableEntry) -> None:
    """Raises OtherOrigin if what has the name of this copy is another table now, or no copy of the same one."""
    if (found.id, found.origin) != (copy.id, copy.origin):
        raise errors.OtherOrigin(
            f"table {found.name} has id {found.id} and origin {found.origin} now, and not {copy.id} and {copy.origin}"
        )
