"""What clients did and what they were told: the material of every check in this folder.

An operation has one of three ends. It succeeded, and its result is known. It was refused, and certainly
changed nothing. Or nobody knows: the connection broke, or the server said that it can't tell; such an
operation may take effect at any time after it was invoked, long after the client gave up, or never.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Value = bytes | None
"""A register's content; None is a key that does not exist."""


class Kind(enum.Enum):
    """What an operation does to its key."""

    GET = "get"
    PUT = "put"
    DELETE = "delete"
    CAS = "cas"


class Outcome(enum.Enum):
    """How an operation ended for its client."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. `invoked` <= `returned`, both on one clock."""

    client: int
    kind: Kind
    key: bytes
    invoked: int
    returned: int
    outcome: Outcome
    value: Value = None
    """PUT and CAS: the value written."""
    expected: Value = None
    """CAS: the value it wants to find; None is absence."""
    found: Value = None
    """GET: the value read."""
    hit: bool = True
    """CAS: whether it succeeded. DELETE: whether there was something to delete."""
    revision: int = 0
    """The revision in the answer's header; 0 if it is not known."""
    mod_revision: int = 0
    """GET: the found value's own revision; 0 if it is not known or nothing was found."""
    linearizable: bool = True
    """GET: false for a read that may be stale."""

    @property
    def changes(self) -> bool:
        """Whether the operation wrote, going by its result."""
        return self.kind is Kind.PUT or (self.kind is not Kind.GET and self.hit)

    def __str__(self) -> str:
        match self.kind:
            case Kind.GET:
                call, result = "get", f"-> {self.found!r}"
            case Kind.PUT:
                call, result = f"put {self.value!r}", "-> ok"
            case Kind.DELETE:
                call, result = "delete", f"-> {'deleted' if self.hit else 'nothing there'}"
            case Kind.CAS:
                call, result = (
                    f"cas {self.expected!r} to {self.value!r}",
                    f"-> {'ok' if self.hit else 'differs'}",
                )
        if self.outcome is not Outcome.OK:
            result = f"-> {self.outcome.value}"
        at = f" at revision {self.revision}" if self.revision else ""
        return f"[{self.invoked}, {self.returned}] client {self.client}: {self.key!r} {call} {result}{at}"


@dataclass(slots=True)
class Pending:
    """An operation that was invoked and has not ended. Exactly one of its ends is to be called."""

    recorder: Recorder
    client: int
    kind: Kind
    key: bytes
    value: Value
    expected: Value
    linearizable: bool
    invoked: int

    def succeeded(
        self, *, found: Value = None, hit: bool = True, revision: int = 0, mod_revision: int = 0
    ) -> Operation:
        """The server answered."""
        return self._end(Outcome.OK, found=found, hit=hit, revision=revision, mod_revision=mod_revision)

    def refused(self) -> Operation:
        """The server said, definitely, that nothing was changed."""
        return self._end(Outcome.REFUSED)

    def lost(self) -> Operation:
        """Nobody knows."""
        return self._end(Outcome.UNKNOWN)

    def _end(
        self,
        outcome: Outcome,
        *,
        found: Value = None,
        hit: bool = True,
        revision: int = 0,
        mod_revision: int = 0,
    ) -> Operation:
        operation = Operation(
            client=self.client,
            kind=self.kind,
            key=self.key,
            invoked=self.invoked,
            returned=self.recorder.clock(),
            outcome=outcome,
            value=self.value,
            expected=self.expected,
            found=found,
            hit=hit,
            revision=revision,
            mod_revision=mod_revision,
            linearizable=self.linearizable,
        )
        self.recorder.pending.pop(id(self), None)
        self.recorder.operations.append(operation)
        return operation


@dataclass(slots=True)
class Recorder:
    """Collects the operations of many clients, from threads or from one event loop.

    The clock is read right before the call leaves and right after it came back, so that a recorded interval
    contains the real one: a wider interval may hide a violation, a narrower one would invent one."""

    clock: Callable[[], int] = time.monotonic_ns
    operations: list[Operation] = field(default_factory=list)
    pending: dict[int, Pending] = field(default_factory=dict)

    def invoke(
        self,
        client: int,
        kind: Kind,
        key: bytes,
        *,
        value: Value = None,
        expected: Value = None,
        linearizable: bool = True,
    ) -> Pending:
        """Note that a client is about to make this call."""
        pending = Pending(self, client, kind, key, value, expected, linearizable, self.clock())
        self.pending[id(pending)] = pending
        return pending

    def history(self) -> list[Operation]:
        """Everything so far, in the order of invocation; what has not ended has an unknown end."""
        for pending in list(self.pending.values()):
            pending.lost()
        return sorted(self.operations, key=lambda operation: (operation.invoked, operation.returned))
