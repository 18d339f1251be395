"""How replication goes, as whoever replicates writes it into the lease row: for metrics, and for people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from coordinator.shards.router import NEAREST, Call
from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from coordinator.shards.driver import Driver

LEASE_KEY: Final = b"lease"
READ_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """Of one moment."""

    node: str
    """Which one replicates."""
    at_s: float
    """Unix time, by that node's clock. One that gets old says that nobody replicates."""
    tables: int
    lag_revisions: int
    """Of the table that is furthest behind, as last heard of the leader cluster."""
    lag_s: float
    """Since when that, or another table, is not known to be level."""

    def encode(self) -> bytes:
        """The row's value."""
        words = {"node": self.node, "at_s": self.at_s, "tables": self.tables}
        return json.dumps(words | {"lag_revisions": self.lag_revisions, "lag_s": self.lag_s}).encode()


def parse(value: bytes) -> Report | None:
    """None if nobody holds the row, or if this version can't read it."""
    try:
        row: Any = json.loads(value)
        return Report(
            str(row["node"]),
            float(row["at_s"]),
            int(row["tables"]),
            int(row["lag_revisions"]),
            float(row["lag_s"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


async def read(driver: Driver) -> Report | None:
    """What the nearest replica knows. None if that is nothing, or nobody answers soon."""
    table = catalog.REPLICATION
    body = etcd.RangeRequest(key=LEASE_KEY).SerializeToString()
    deadline = driver.time() + READ_S
    call = Call(table.shard, NEAREST, Access.READ, frames.ETCD_RANGE, table.id, body, deadline=deadline)
    try:
        reply = await driver.ask(call)
    except errors.BoathouseError:
        return None
    for row in etcd.RangeResponse.FromString(reply.body).kvs:
        return parse(row.value)
    return None
