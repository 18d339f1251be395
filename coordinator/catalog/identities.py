"""Which cluster is which, whatever its name.

A cluster that was wiped and made anew has the name, the endpoints and even the ids of tables of the one before, and
nothing of what that held: who copies from it would throw his copies away. So each catalog has a number of its own,
drawn when somebody first asks for it, and a follower cluster remembers that of the cluster whose tables it copies. A
catalog that was lost and is restored from the shards has another one: then a person has to look."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, Protocol

from coordinator.catalog.rows import Rows, if_absent, put
from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.shards.own_calls import OwnCalls

LENGTH: Final = 16
"""In bytes; people see them in hex."""
OWN_S: Final = 1.0
"""What the catalog says of this cluster's is believed for so long: many who follow it ask, and often."""


class Identities:
    """This cluster's, and those of clusters that it has followed. All raise what a linearizable read or a write may."""

    def __init__(self, calls: OwnCalls) -> None:
        self._rows = Rows(calls)

    async def own(self) -> str:
        """Drawn now, if nobody has asked before."""
        found = await self._read(catalog.IDENTITY)
        if not found:
            txn = etcd.TxnRequest()
            if_absent(txn, catalog.IDENTITY)
            put(txn, catalog.IDENTITY, secrets.token_hex(LENGTH).encode())
            await self._rows.commit(txn)
            found = await self._read(catalog.IDENTITY)
        if not found:
            raise errors.NoLeader("the cluster's identity was written, and is not there")
        return found

    async def followed(self, cluster: str) -> str:
        """That of a cluster of this name, as remembered; "" if it was never followed."""
        return await self._read(catalog.followed_key(cluster))

    async def remember(self, cluster: str, identity: str) -> None:
        """The cluster of this name is that one."""
        txn = etcd.TxnRequest()
        put(txn, catalog.followed_key(cluster), identity.encode())
        await self._rows.commit(txn)

    async def _read(self, key: bytes) -> str:
        _, found = await self._rows.range(key, b"", linearizable=True)
        return found.kvs[0].value.decode() if found.kvs else ""


class Own(Protocol):
    """Identities, of which this cluster's is asked for."""

    async def own(self) -> str: ...


class Meant:
    """Whether this is the cluster that another one means, which goes by the identity that it has heard."""

    def __init__(self, identities: Own, clock: Callable[[], float]) -> None:
        self._identities = identities
        self._clock = clock
        self._own, self._until = "", 0.0

    async def check(self, identity: str) -> None:
        """Raises OtherCluster, and what a linearizable read may."""
        now = self._clock()
        if now >= self._until:
            self._own = await self._identities.own()
            self._until = now + OWN_S
        if identity != self._own:
            raise errors.OtherCluster(f"its identity is {self._own}, and not {identity}")
