"""How replication goes, as whoever replicates writes it into the lease row: for metrics, and for people.

Earlier versions read the row, too: during an upgrade each takes it over from the other. They can't read one with a
field that they do not know, and only an empty one is free to them. So what was added since is in a row beside it, and
so is the last word of who lets go of the lease.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
MORE_KEY: Final = b"lease/more"
"""Of the row beside it, which is written with it."""
_KEYS_END: Final = b"lease0"  # "/" + 1
READ_S: Final = 1.0


COPIES_MAX: Final = 100
"""Told one by one: those that are worst off. The row is written every second, and lies in everybody's log."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """Of one table's copy."""

    name: str
    revision: int
    """Where it ends: its position, which of a cluster of Regatta's own is an index of its log."""
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

    def encode(self) -> Rows:
        """The values of both rows."""
        row = asdict(self)
        more: dict[str, Any] = {
            "at_s": self.at_s,
            "stuck_s": {copy["name"]: stuck_s for copy in row["copies"] if (stuck_s := copy.pop("stuck_s"))},
        }
        if self.node:
            return Rows(json.dumps(row).encode(), json.dumps(more).encode())
        return Rows(b"", json.dumps(more | {"last": row}).encode())


class Rows(NamedTuple):
    """What is written of a report."""

    lease: bytes
    """Empty: nobody holds it."""
    more: bytes = b""


def parse(rows: Rows) -> Report | None:
    """None if nobody holds the row, or if this version can't read it."""
    report = last_word(rows)
    return report if report is not None and report.node else None


def is_free(lease: bytes) -> bool:
    """Whether nobody holds the row. One that this version can't read is somebody's."""
    report = last_word(Rows(lease))  # an earlier version says with its last word that it was the last
    return not lease or (report is not None and not report.node)


def last_word(rows: Rows) -> Report | None:
    """As parse(), though whoever held the row has let go of it."""
    try:
        more: Any = json.loads(rows.more or b"{}")
        row: Any = json.loads(rows.lease) if rows.lease else more["last"]
        # An earlier version that writes the one row leaves the other as it was.
        stuck_s = more["stuck_s"] if more.get("at_s") == row["at_s"] else {}
        copies = [
            CopyReport(**{"stuck_s": stuck_s.get(copy["name"], 0.0), **_known(copy, CopyReport)})
            for copy in row["copies"]
        ]
        return Report(**{**_known(row, Report), "copies": copies})
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _known(row: dict[str, Any], of: type[Report | CopyReport]) -> dict[str, Any]:
    """Without what a later version has added."""
    names = {field.name for field in fields(of)}
    return {name: value for name, value in row.items() if name in names}


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
    return etcd.RangeRequest(key=LEASE_KEY, range_end=_KEYS_END)


def in_rows(answer: etcd.RangeResponse) -> Report | None:
    """What is said in the answer to it."""
    return parse(told(answer))


def told(answer: etcd.RangeResponse) -> Rows:
    """The rows in the answer to it."""
    values = {row.key: row.value for row in answer.kvs}
    return Rows(values.get(LEASE_KEY, b""), values.get(MORE_KEY, b""))


def question() -> bytes:
    """The same for its shard, by ETCD_RANGE."""
    return asked().SerializeToString()


def in_answer(body: bytes) -> Report | None:
    """What is said in the answer to that."""
    return in_rows(etcd.RangeResponse.FromString(body))
