"""How replication goes, as whoever replicates writes it into the lease row: for metrics, and for people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from coordinator.replication.tail import STALLED_S
from coordinator.shards.shard_call import NEAREST, ShardCall
from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from coordinator.shards.driver import Driver

LEASE_KEY: Final = b"lease"
READ_S: Final = 1.0


COPIES_MAX: Final = 100
"""Told one by one: those that are worst off. The row is written every second, and lies in everybody's log."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """Of one table's copy."""

    name: str
    revision: int
    """Where it ends."""
    lag_revisions: int
    """What the leader cluster has beyond that, as last heard."""
    lag_s: float
    """Since when it is not known to be level."""
    does: str
    """tail.Does."""
    stalled: bool
    """Neither further nor level for so long that somebody should have a look."""
    trouble: str
    """Why the last step came to nothing; "" if it came to something."""
    backoff_s: float
    """What is waited before the next; 0 = nothing."""
    stuck_s: float = 0.0
    """For how long it has neither come further nor been level."""

    def aged(self, by_s: float) -> CopyReport:
        """Of the same copy, which nobody has copied for so long since."""
        stuck_s = round(self.stuck_s + by_s, 1)
        return replace(self, lag_s=round(self.lag_s + by_s, 1), stuck_s=stuck_s, stalled=stuck_s >= STALLED_S)


@dataclass(frozen=True, slots=True)
class Report:
    """Of one moment."""

    node: str
    """Which one replicates; "" = none, since this one has stopped."""
    at_s: float
    """Unix time, by that node's clock. One that gets old says that nobody replicates."""
    tables: int
    lag_revisions: int
    """Of the table that is furthest behind, as last heard of the leader cluster."""
    lag_s: float
    """Since when that, or another table, is not known to be level."""
    stalled: int
    """How many tables are."""
    epoch: int
    """The highest that is known (proto.catalog.Lead)."""
    leads: bool
    """It was promoted: there is nothing to copy, and the cluster that led before is told so until it answers."""
    trouble: str
    """Why it is not known which tables the leader cluster has, or whether it gave way; "" if it is."""
    refused: Mapping[str, str]
    """Tables of the leader cluster that are not copied, and why."""
    copies: Sequence[CopyReport]
    """The worst first; of many tables not all."""

    @classmethod
    def of(
        cls,
        node: str,
        at_s: float,
        copies: Iterable[CopyReport],
        *,
        epoch: int = 1,
        leads: bool = False,
        trouble: str = "",
        refused: Mapping[str, str] | None = None,
    ) -> Report:
        """Of all copies."""
        worst = sorted(copies, key=lambda copy: (-copy.stalled, -copy.lag_s, -copy.lag_revisions, copy.name))
        return cls(
            node=node,
            at_s=at_s,
            tables=len(worst),
            lag_revisions=max((copy.lag_revisions for copy in worst), default=0),
            lag_s=max((copy.lag_s for copy in worst), default=0.0),
            stalled=sum(copy.stalled for copy in worst),
            epoch=epoch,
            leads=leads,
            trouble=trouble,
            refused=refused or {},
            copies=worst[:COPIES_MAX],
        )

    def encode(self) -> bytes:
        """The row's value."""
        return json.dumps(asdict(self)).encode()


def parse(value: bytes) -> Report | None:
    """None if nobody holds the row, or if this version can't read it."""
    report = last_word(value)
    return report if report is not None and report.node else None


def is_free(value: bytes) -> bool:
    """Whether nobody holds the row. One that this version can't read is somebody's."""
    report = last_word(value)
    return not value or (report is not None and not report.node)


def last_word(value: bytes) -> Report | None:
    """As parse(), though whoever held the row has let go of it."""
    try:
        row: Any = json.loads(value)
        copies = [CopyReport(**copy) for copy in row.pop("copies")]
        return Report(copies=copies, **row)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


async def read(driver: Driver) -> Report | None:
    """What the nearest replica knows. None if that is nothing, or nobody answers soon."""
    table = catalog.REPLICATION
    body = question()
    deadline = driver.time() + READ_S
    call = ShardCall(table.shard, NEAREST, Access.READ, frames.ETCD_RANGE, table.id, body, deadline=deadline)
    try:
        reply = await driver.ask(call)
    except errors.BoathouseError:
        return None
    return in_answer(reply.body)


def asked() -> etcd.RangeRequest:
    """Of the table catalog.REPLICATION."""
    return etcd.RangeRequest(key=LEASE_KEY)


def in_rows(answer: etcd.RangeResponse) -> Report | None:
    """What is said in the answer to it."""
    return next((parse(row.value) for row in answer.kvs), None)


def question() -> bytes:
    """The same for its shard, by ETCD_RANGE."""
    return asked().SerializeToString()


def in_answer(body: bytes) -> Report | None:
    """What is said in the answer to that."""
    return in_rows(etcd.RangeResponse.FromString(body))
