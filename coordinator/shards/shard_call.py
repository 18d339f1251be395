"""One request on its way to a shard: what it asks, of whom, until when; and where it is."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Protocol

from coordinator.api.credentials import NOBODY
from proto.methods import Access

if TYPE_CHECKING:
    from coordinator.api.credentials import Credentials
    from proto import errors
    from proto.ids import NodeId, ShardId
    from proto.internal import frames_pb2 as frames


class Role(enum.Enum):
    """Whom a call is for, if it is not for one replica by name."""

    LEADER = "leader"
    NEAREST = "nearest"


LEADER: Final = Role.LEADER
NEAREST: Final = Role.NEAREST

if TYPE_CHECKING:
    Target = Role | NodeId
    """A node's id stands for its replica, and no other will do."""


class Waiter(Protocol):
    """Who is told the outcome of a call: an asyncio future, or what a test puts in its place."""

    def done(self) -> bool: ...
    def set_result(self, reply: frames.Reply, /) -> object: ...
    def set_exception(self, error: errors.BoathouseError, /) -> object: ...


class ShardCall:
    """One request on its way, and in the end its reply or its error."""

    __slots__ = (
        "access", "body", "client", "cursor", "deadline", "error", "faults", "hops", "in_doubt", "in_shard",
        "linearizable", "method", "node", "number", "repeat_until", "reply", "request_id", "shard",
        "shown_revision", "table_id", "target", "trace", "waiter", "who",
    )  # fmt: skip

    number: int
    """Correlates its reply: another one for each time it is sent."""
    node: NodeId | None
    """Whose replica has it in flight, or answered it; None while it is parked."""
    faults: int
    """How often a replica refused it because its data is damaged."""
    hops: int
    """How often it was sent on to another shard."""
    in_doubt: bool
    """Whether it was sent somewhere and not answered for certain: it may yet take effect, or have done so."""
    repeat_until: float
    """On the clock of its deadline: once it is in doubt, it is sent no more after this."""
    reply: frames.Reply | None
    error: errors.BoathouseError | None
    """Once it has ended, one of the two."""
    trace: str
    """Whose trace it is part of, as its replica is told; "" = of none."""
    waiter: Waiter
    """Set and used by who submits it; of no interest to the router."""

    def __init__(
        self,
        shard: ShardId,
        target: Target,
        access: Access,
        method: frames.Method.ValueType,
        table_id: int,
        body: bytes,
        *,
        deadline: float,
        request_id: bytes = b"",
        linearizable: bool = False,
        shown_revision: int = 0,
        cursor: int = 0,
        client: int = 0,
        who: Credentials = NOBODY,
        in_shard: bool = False,
    ) -> None:
        """deadline is on the clock that poll() is told. A write, and nothing else, has a request_id. client tells
        whose call it is, for shares of what is scarce; 0 = not told. who: what he has shown, for what he may do.
        in_shard: it is for this very shard, wherever the table is. shown_revision: see frames.Request."""
        assert (access is Access.WRITE) == bool(request_id)
        self.shard = shard
        self.target = target
        self.access = access
        self.method = method
        self.table_id = table_id
        self.body = body
        self.deadline = deadline
        self.request_id = request_id
        self.linearizable = linearizable
        self.shown_revision = shown_revision
        self.cursor = cursor
        self.client = client
        self.who = who
        self.trace = ""
        self.in_shard = in_shard
        self.number = 0
        self.node = None
        self.faults = 0
        self.hops = 0
        self.in_doubt = False
        self.repeat_until = deadline
        self.reply = None
        self.error = None
