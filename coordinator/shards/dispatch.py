"""Calls in flight: each is sent, re-sent where that is safe, and resolved exactly once.

A call goes to the leader (writes, linearizable reads), to the nearest replica (reads that may be stale) or to one
named replica (its own status, an open cursor). It is sent again, with the same request id, when the replica says it
does not lead or lost its leadership, when the link breaks, and when another replica turns out to lead; while nobody
is known to lead it is parked. Sending a write twice is safe because the state machine applies each request id once.

Time is kept by one timer, and only while there are calls: an idle coordinator sleeps. Every call has a deadline. What
has not been answered by then fails as TimedOut (a write: nobody knows) or ReadTimedOut.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from proto import errors
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    import asyncio

    from coordinator.shards.routing import ShardRoutes

SWEEP_INTERVAL_S: Final = 0.1
"""How late a deadline may be noticed, and how often a parked call is tried without news about the leader."""

LEADER: Final = -1
NEAREST: Final = -2
"""Targets of a call; any other number is the node id of one replica and no other will do."""

_PARKED: Final = 0
_ELSEWHERE: Final = frozenset({errors.Retry.OTHER_REPLICA, errors.Retry.SAME_REQUEST_ID})


class Channel(Protocol):
    """The part of a link that a dispatch needs."""

    @property
    def shard(self) -> int: ...
    @property
    def node(self) -> int: ...

    def send(
        self,
        number: int,
        method: frames.Method.ValueType,
        table_id: int,
        body: bytes,
        request_id: bytes,
        linearizable: bool,
        cursor: int,
        /,
    ) -> None: ...


class Call:
    """One request on its way."""

    __slots__ = (
        "body", "cursor", "deadline", "faults", "future", "in_doubt", "linearizable", "method", "node", "request_id",
        "shard", "table_id", "target",
    )  # fmt: skip

    future: asyncio.Future[frames.Reply]
    """Gives the successful reply or raises the error."""
    node: int
    """Where it is in flight or was answered; 0 = parked."""
    shard: _Shard
    target: int
    method: frames.Method.ValueType
    table_id: int
    body: bytes
    request_id: bytes
    linearizable: bool
    cursor: int
    deadline: float
    faults: int
    """How often a replica refused it because its data is damaged."""
    in_doubt: bool
    """Whether it was sent somewhere and not answered for certain: it may yet take effect, or have done so."""


@dataclass(slots=True)
class _Shard:
    routes: ShardRoutes
    channels: dict[int, Channel]


class Dispatch:
    """All calls of one coordinator. Runs on the event loop's thread; nothing here blocks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, calls_max: int, bytes_max: int) -> None:
        """calls_max and bytes_max bound what is in flight, parked calls included."""
        self._loop = loop
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._shards: dict[int, _Shard] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def add_shard(self, shard: int, routes: ShardRoutes) -> None:
        """Serve a shard; its channels follow."""
        self._shards[shard] = _Shard(routes, {})

    def add_channel(self, channel: Channel) -> None:
        """Reach one replica of a known shard."""
        self._shards[channel.shard].channels[channel.node] = channel

    def routes(self, shard: int) -> ShardRoutes:
        """What is known about the shard's replicas."""
        return self._shards[shard].routes

    @property
    def calls_count(self) -> int:
        """Calls in flight or parked."""
        return len(self._calls)

    def submit(
        self,
        shard: int,
        target: int,
        method: frames.Method.ValueType,
        table_id: int,
        body: bytes,
        *,
        deadline: float,
        request_id: bytes = b"",
        linearizable: bool = False,
        cursor: int = 0,
    ) -> Call:
        """Send a request; await the `future` of what this returns.

        deadline is on the loop's clock. A write is a request with a request_id. Raises QueueFull, ShuttingDown."""
        if self._closed:
            raise errors.ShuttingDown
        if len(self._calls) >= self._calls_max or self._bytes + len(body) > self._bytes_max:
            raise errors.QueueFull(f"{len(self._calls)} calls are in flight")
        call = Call()
        call.future = self._loop.create_future()
        call.shard = self._shards[shard]
        call.target = target
        call.method = method
        call.table_id = table_id
        call.body = body
        call.request_id = request_id
        call.linearizable = linearizable
        call.cursor = cursor
        call.deadline = deadline
        call.faults = 0
        call.in_doubt = False
        self._bytes += len(body)
        self._send(next(self._numbers), call)
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)
        return call

    def _send(self, number: int, call: Call, avoid: int | None = None) -> None:
        """Put the call on the best channel that is not avoid, or park it, or fail it if its only replica is away."""
        self._calls[number] = call
        shard = call.shard
        node: int | None
        if call.target == LEADER:
            node = shard.routes.leader
        elif call.target == NEAREST:
            node = shard.routes.nearest(avoid=avoid)
        else:
            node = call.target
            if not shard.routes.is_connected(node):
                del self._calls[number]
                self._fail(call, _out_of_reach(call))
                return
        if node is None or node == avoid:
            call.node = _PARKED
            return
        call.node = node
        shard.channels[node].send(
            number, call.method, call.table_id, call.body, call.request_id, call.linearizable, call.cursor
        )

    def _resend(self, number: int, call: Call, avoid: int | None = None) -> None:
        """As _send, under a new number: a late answer to the old one is not for us any more.

        avoid is the replica that has just answered; without one the call may still be on its way somewhere."""
        del self._calls[number]
        call.in_doubt |= avoid is None and call.node != _PARKED
        if call.future.done():
            self._bytes -= len(call.body)
            return
        self._send(next(self._numbers), call, avoid)

    def _calls_of(self, shard: _Shard, node: int) -> list[tuple[int, Call]]:
        return [(n, call) for n, call in self._calls.items() if call.node == node and call.shard is shard]

    # ---- what links say -------------------------------------------------------------------------------------------

    def handle_connected(self, channel: Channel) -> None:
        """A replica can be reached."""
        shard = self._shards[channel.shard]
        shard.routes.handle_connected(channel.node)
        self._leader_maybe_changed(shard)

    def handle_disconnected(self, channel: Channel) -> None:
        """A replica is gone: what was in flight there goes elsewhere, except what only it could answer."""
        shard = self._shards[channel.shard]
        shard.routes.handle_disconnected(channel.node)
        for number, call in self._calls_of(shard, channel.node):
            if call.target == channel.node:
                del self._calls[number]
                self._fail(call, _out_of_reach(call))
            else:
                self._resend(number, call)
        self._leader_maybe_changed(shard)

    def handle_unsent(self, channel: Channel) -> None:
        """An envelope could not leave. Which calls were in it is not known, so all of this channel's wait a while:
        the link is about to report a disconnect, or the replica has stopped reading."""
        for number, call in self._calls_of(self._shards[channel.shard], channel.node):
            if call.cursor:
                # Asked for twice, a part would be skipped.
                del self._calls[number]
                self._fail(call, _out_of_reach(call))
            else:
                call.node = _PARKED
                call.in_doubt = True

    def handle_envelope(self, channel: Channel, envelope: frames.Envelope) -> None:
        """Answers and news from a replica."""
        if envelope.HasField("state"):
            self._handle_belief(channel, envelope.state.term, envelope.state.leader)
        calls = self._calls
        for reply in envelope.replies:
            number = reply.call
            call = calls.get(number)
            if call is None:  # resolved or sent elsewhere since
                self._close_unwanted_cursor(channel, reply)
                continue
            if reply.error and not call.future.done():
                self._handle_refusal(channel, number, call, reply)
                continue
            del calls[number]
            self._bytes -= len(call.body)
            if call.future.done():
                self._close_unwanted_cursor(channel, reply)
            else:
                call.future.set_result(reply)

    def _close_unwanted_cursor(self, channel: Channel, reply: frames.Reply) -> None:
        """Nobody waits for this reply any more, so nobody will read on: the few cursors of a replica are for others."""
        if reply.cursor:
            number = next(self._numbers)
            channel.send(number, frames.CURSOR_CLOSE, 0, b"", b"", False, reply.cursor)

    def _handle_refusal(self, channel: Channel, number: int, call: Call, reply: frames.Reply) -> None:
        try:
            error = errors.from_frame(reply.error, reply.detail)
        except errors.InvariantBroken as unknown:
            error = unknown
        call.faults += isinstance(error, errors.Corrupt)
        call.in_doubt |= not error.definite
        if call.in_doubt and call.request_id and error.retry is errors.Retry.CALLER:
            # This replica has not proposed it, but an earlier one may have.
            error = errors.LeaderLost(f"sent before, then refused: {type(error).__name__} {error.detail}")
            del self._calls[number]
            self._fail(call, error)
            return
        # Once per replica: where all are in doubt nobody else will know better.
        hopeless = call.faults >= len(call.shard.channels)
        if error.retry not in _ELSEWHERE or call.target == channel.node or hopeless:
            del self._calls[number]
            self._fail(call, error)
            return
        # First out of the way of the news: this replica has just refused, so it is no candidate before the next
        # sweep, even if it is still the best one known.
        self._resend(number, call, avoid=channel.node)
        if reply.term:
            self._handle_belief(channel, reply.term, reply.leader)

    def _handle_belief(self, channel: Channel, term: int, leader: int) -> None:
        shard = self._shards[channel.shard]
        if shard.routes.handle_belief(channel.node, term=term, leader=leader):
            self._leader_maybe_changed(shard)

    def _leader_maybe_changed(self, shard: _Shard) -> None:
        """Send to the leader what waits for it or is in flight at another replica, perhaps a paused old leader."""
        leader = shard.routes.leader
        for number, call in list(self._calls.items()):
            if call.shard is not shard:
                continue
            if (call.node == _PARKED and call.target != LEADER) or (
                call.target == LEADER and leader is not None and call.node != leader
            ):
                self._resend(number, call)

    # ---- endings ----------------------------------------------------------------------------------------------------

    def _fail(self, call: Call, error: errors.BoathouseError) -> None:
        self._bytes -= len(call.body)
        if not call.future.done():
            call.future.set_exception(error)

    def _sweep(self) -> None:
        now = self._loop.time()
        for number, call in list(self._calls.items()):
            if call.future.done():
                del self._calls[number]
                self._bytes -= len(call.body)
            elif now >= call.deadline:
                del self._calls[number]
                self._fail(call, _timeout(call))
            elif call.node == _PARKED:
                self._resend(number, call)
        self._timer = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep) if self._calls else None

    def close(self) -> None:
        """Fail what is still in flight and refuse what comes after."""
        self._closed = True
        calls, self._calls = self._calls, {}
        for call in calls.values():
            self._fail(call, errors.TimedOut() if call.request_id else errors.ShuttingDown())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _timeout(call: Call) -> errors.BoathouseError:
    if call.request_id:
        return errors.TimedOut()
    return errors.ReadTimedOut()


def _out_of_reach(call: Call) -> errors.BoathouseError:
    if call.cursor:
        return errors.CursorNotFound("the connection to the replica that held it was lost")
    return errors.NoLeader("the replica is out of reach")
