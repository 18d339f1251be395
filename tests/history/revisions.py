"""Do the revisions in the answers tell one story that respects real time?

A table numbers its changes, and every answer carries a revision. That gives the order of the writes away, so
a whole table can be checked at once, in n log n, without a search:

- a write has a revision of its own, above every revision that anybody had seen before the write was invoked;
- a linearizable read shows a revision no lower than any that had been seen before the read was invoked;
- what a read finds is exactly the newest write of its key at or below the revision it shows;
- one client, through whatever node, never sees a linearizable answer go back.

A write of unknown fate has no known revision. A read that finds its value proves that it happened; apart from
that it may or may not be there, so a key that has such a write is checked for its known values only where
that is certain.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.history.operations import Kind, Operation, Outcome, Value

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Operations that can't all be right, and why."""

    why: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.why}:", *map(str, self.operations)])


def check(history: Iterable[Operation]) -> list[Anomaly]:
    """All anomalies of one table's history. Operations without a revision take no part."""
    operations = sorted(history, key=lambda operation: (operation.invoked, operation.returned))
    answered = [o for o in operations if o.outcome is Outcome.OK and o.revision]
    return [*_shared_revisions(answered), *_backward(answered), *_wrong_reads(operations, answered)]


def _shared_revisions(answered: list[Operation]) -> list[Anomaly]:
    writers: dict[int, Operation] = {}
    anomalies = []
    for operation in (o for o in answered if o.changes):
        other = writers.setdefault(operation.revision, operation)
        if other is not operation:
            anomalies.append(Anomaly("two writes have one revision", (other, operation)))
    return anomalies


def _backward(answered: list[Operation]) -> list[Anomaly]:
    """Answers whose revision is too low for what had been seen before they were asked for."""
    anomalies = []
    returns = sorted(answered, key=lambda operation: operation.returned)
    newest: Operation | None = None
    position = 0
    for operation in answered:
        while position < len(returns) and returns[position].returned < operation.invoked:
            if newest is None or returns[position].revision > newest.revision:
                newest = returns[position]
            position += 1
        if newest is None or not operation.linearizable:
            continue
        if operation.revision < newest.revision:
            anomalies.append(Anomaly("the revision went back", (newest, operation)))
        elif operation.changes and operation.revision == newest.revision:
            anomalies.append(Anomaly("a write has a revision that was seen before it", (newest, operation)))
    return anomalies


def _wrong_reads(operations: list[Operation], answered: list[Operation]) -> list[Anomaly]:
    writes: dict[bytes, list[tuple[int, Value, Operation]]] = {}
    for operation in (o for o in answered if o.changes):
        after = None if operation.kind is Kind.DELETE else operation.value
        writes.setdefault(operation.key, []).append((operation.revision, after, operation))
    for versions in writes.values():
        versions.sort(key=lambda version: version[0])
    uncertain: dict[bytes, set[Value]] = {}
    for operation in operations:
        # A write whose answer carried no revision is as uncertain as one without an answer.
        if operation.kind is not Kind.GET and (
            operation.outcome is Outcome.UNKNOWN or not operation.revision
        ):
            after = None if operation.kind is Kind.DELETE else operation.value
            uncertain.setdefault(operation.key, set()).add(after)
    anomalies = []
    for read in answered:
        if read.kind is not Kind.GET:
            continue
        versions = writes.get(read.key, [])
        place = bisect_right(versions, read.revision, key=lambda version: version[0])
        expected: Value = versions[place - 1][1] if place else None
        if read.found != expected and read.found not in uncertain.get(read.key, set()):
            cause = (versions[place - 1][2],) if place else ()
            anomalies.append(Anomaly("a read differs from the newest write at its revision", (*cause, read)))
        elif read.found is not None and read.mod_revision > read.revision:
            anomalies.append(Anomaly("a read shows a value from after its revision", (read,)))
    return anomalies
