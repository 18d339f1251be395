"""Calls in flight: each is sent, re-sent where that is safe, and ended exactly once.

A call goes to the leader (writes, linearizable reads), to the nearest replica (reads that may be stale) or to one
named replica (its own status, an open cursor). It is sent again, with the same request id, when the replica says it
does not lead or lost its leadership, when the link breaks, and when another replica turns out to lead; while nobody
is known to lead it is parked. Sending a write twice is safe because the state machine applies each request id once.

A table may move to another shard. A call that comes to the wrong one, or comes while nobody serves the table, is sent
on, or waits, under the same request id; its client notices nothing but the time. Where tables were found is remembered
here, so that this costs one call, however long the catalog takes to say so.

Every call has a deadline. What has not been answered by then fails as TimedOut (a write: nobody knows) or
ReadTimedOut. A write that may have been proposed somewhere is never told that it certainly was not, except by the log:
a later replica that has no room for it is asked again, under the same id, until the deadline, and where one refuses it
for good nobody knows. It is not repeated for longer than its id is remembered for certain.

Nothing here does I/O, reads a clock or knows an event loop: what links hear and the time come in, poll() says what
is to be sent and which calls have ended. The driver runs it in a coordinator, the simulator in virtual time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from coordinator.shards.routing import ShardRoutes
from coordinator.shards.shard_call import LEADER, NEAREST, Role, ShardCall
from proto import errors
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.shards.bounds import AnswerBudget, Bounds
    from proto.ids import NodeId

SWEEP_INTERVAL_S: Final = 0.1
"""How late a deadline may be noticed, and how often a parked call is tried without news about the leader."""

ASK_INTERVAL_S: Final = 1.0
"""How often replicas are asked who leads, while calls wait for that to be known. Normally they tell it by themselves;
what they told may have been lost, by a queue that was full."""

ACKNOWLEDGE_BYTES_MIN: Final = 1 << 20
"""Bytes of answers taken before their replica is told; those that fit beside a request travel with it."""

REPEAT_S_MAX: Final = 10.0
"""A write that is in doubt is not sent again once it is so old: its id may have left the shard's window of results,
which keeps it for twice as long (shardworker/machine/window.py), and it would be applied a second time."""

HOPS_MAX: Final = 3
"""A call is sent on to so many shards at once. What still goes round then waits: replicas that lag send back what
others have sent there."""

_ELSEWHERE: Final = frozenset({errors.Retry.OTHER_REPLICA, errors.Retry.SAME_REQUEST_ID})


CommitPoint = tuple[int, int, int]
"""See frames.CommitPoint: generation, index, term. What is committed later is greater."""

_NOTHING: Final[CommitPoint] = (0, 0, 0)


class Replica:
    """One replica as the router sees it. Made by add_replica(); a driver has a link for each."""

    __slots__ = ("asks", "calls", "greets", "knows", "node", "outgoing", "shard", "speaks", "taken_bytes")

    def __init__(self, shard: ShardId, node: NodeId) -> None:
        self.shard = shard
        self.node = node
        self.calls: dict[int, ShardCall] = {}
        """In flight, or about to be, by number."""
        self.outgoing: dict[int, ShardCall] = {}
        """Those that the next poll() sends."""
        self.greets = False
        """Whether it is to be told who talks to it."""
        self.asks = False
        """Whether it is to be asked who leads, on a connection that stands."""
        self.speaks = False
        """Whether the next poll() has something for it."""
        self.taken_bytes = 0
        """Of its answers, since it was last told."""
        self.knows = _NOTHING
        """What it has said or was told on its connection."""


class Outgoing(NamedTuple):
    """What one replica is to be sent now, in one envelope."""

    replica: Replica
    greets: bool
    """Whether it begins with a Hello."""
    asks: bool
    """Whether it asks who leads."""
    taken_bytes: int
    """Of its answers: it may send so many more."""
    calls: list[ShardCall]
    committed: CommitPoint | None
    """What the calls may have to see and the replica may not know of."""


class Effects(NamedTuple):
    """What a driver has to do now."""

    outgoing: list[Outgoing]
    ended: list[ShardCall]
    """Each call is in here once in its life."""


class _Shard:
    __slots__ = ("ask_at", "committed", "parked", "replicas", "routes")

    def __init__(self, routes: ShardRoutes) -> None:
        self.routes = routes
        self.replicas: dict[NodeId, Replica] = {}
        self.parked: dict[int, ShardCall] = {}
        self.ask_at = 0.0
        """Not before this time who leads is asked again."""
        self.committed = _NOTHING
        """The furthest that any of its replicas had applied when it answered."""


class Router:
    """All calls of one coordinator."""

    def __init__(
        self, shards: Iterable[ShardId], *, local: NodeId, bounds: Bounds, budget: AnswerBudget
    ) -> None:
        """local is this coordinator's node; bounds hold for what is in flight, parked calls included."""
        self._shards = {shard: _Shard(ShardRoutes(local=local)) for shard in shards}
        self._bounds = bounds
        self._budget = budget
        self._number = 0
        self._speaking: list[Replica] = []
        self._ended: list[ShardCall] = []
        self._moved: dict[int, ShardId] = {}
        """Where a table was found that was looked for elsewhere, by its id."""
        self._terms_before: dict[int, int] = {}
        """The highest term of a shard that a table was found to have left, by the table's id."""
        self._waited = False
        self._sweep_at: float | None = None
        self._now = 0.0
        """As of the last call that was told the time."""
        self._closed = False

    def add_replica(self, shard: ShardId, node: NodeId) -> Replica:
        """A replica that can be asked once its link is up."""
        replica = Replica(shard, node)
        self._shards[shard].replicas[node] = replica
        self._shards[shard].routes.add_node(node)
        return replica

    def remove_replica(self, replica: Replica) -> None:
        """It is a replica of its shard no longer."""
        self.handle_disconnected(replica)
        shard = self._shards[replica.shard]
        del shard.replicas[replica.node]
        shard.routes.remove_node(replica.node)

    def routes(self, shard: ShardId) -> ShardRoutes:
        """What is known about the shard's replicas."""
        return self._shards[shard].routes

    def submit(self, call: ShardCall, now: float) -> None:
        """Take a call; the next poll() sends it. Raises QueueFull, ShuttingDown."""
        if self._closed:
            raise errors.ShuttingDown
        self._bounds.enter(len(call.body))
        self._now = now
        call.repeat_until = min(call.deadline, now + REPEAT_S_MAX)
        if self._sweep_at is None:
            self._sweep_at = now + SWEEP_INTERVAL_S
        # What has changed in a table is asked where it was followed so far, which may have last words on it.
        is_followed = call.access is Access.REPLICA
        if self._moved and not (call.in_shard or is_followed) and isinstance(call.target, Role):
            call.shard = self._moved.get(call.table_id, call.shard)
        self._place(call)

    def cancel(self, call: ShardCall) -> None:
        """Nobody waits for it any more. What has left may still take effect."""
        if call.reply is not None:
            if call.reply.cursor and call.node is not None:
                self.close_cursor(call.shard, call.node, call.reply.cursor)
        elif call.error is None:
            self._take_back(call)
            self._bounds.leave(len(call.body))

    def close_cursor(self, shard: ShardId, node: NodeId, cursor: int) -> None:
        """Nobody will read on: the few cursors of a replica are for others. Without effect if it is out of reach, where
        idle cursors end by themselves."""
        replica = self._shards[shard].replicas.get(node)
        if replica is None or not self._shards[shard].routes.is_connected(node):
            return
        call = ShardCall(
            shard, node, Access.REPLICA, frames.CURSOR_CLOSE, 0, b"", deadline=0.0, cursor=cursor
        )
        self._number = call.number = self._number + 1
        self._send(replica, call)

    def poll(self, now: float) -> Effects:
        """What follows from everything that was said since the last poll, and from the time."""
        self._now = now
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep(now)
        outgoing = []
        acknowledges = not self._budget.is_used_up
        for replica in self._speaking:
            replica.speaks = False
            taken_bytes = replica.taken_bytes if acknowledges else 0
            if replica.outgoing or replica.greets or replica.asks or taken_bytes:
                calls = list(replica.outgoing.values())
                committed = self._news(replica) if calls else None
                outgoing.append(
                    Outgoing(replica, replica.greets, replica.asks, taken_bytes, calls, committed)
                )
                replica.outgoing = {}
                replica.greets = replica.asks = False
                replica.taken_bytes -= taken_bytes
        self._speaking.clear()
        ended, self._ended = self._ended, []
        return Effects(outgoing, ended)

    def _news(self, replica: Replica) -> CommitPoint | None:
        """What is committed and the replica may not know of, to be told once."""
        committed = self._shards[replica.shard].committed
        if committed <= replica.knows:
            return None
        replica.knows = committed
        return committed

    def next_deadline(self) -> float | None:
        """When poll() has to be called at the latest; None: not before something is said."""
        return self._sweep_at

    # ---- where a call is --------------------------------------------------------------------------------------------

    def _place(self, call: ShardCall, avoid: NodeId | None = None) -> None:
        """Give the call to the best replica that is not avoid, or park it, or fail it if its only replica is away, or
        if it has been in doubt for too long.

        Its number is a new one: a late answer to an earlier one is not for us any more."""
        if call.in_doubt and call.access is Access.WRITE and self._now >= call.repeat_until:
            self._fail(call, errors.TimedOut())
            return
        shard = self._shards[call.shard]
        target = call.target
        node: NodeId | None
        if target is LEADER:
            node = shard.routes.leader
        elif target is NEAREST:
            node = shard.routes.nearest(avoid=avoid)
        elif shard.routes.is_connected(target):
            node = target
        else:
            self._fail(call, _out_of_reach(call))
            return
        self._number = call.number = self._number + 1
        if node is None or node == avoid:
            call.node = None
            shard.parked[call.number] = call
            return
        call.node = node
        replica = shard.replicas[node]
        replica.calls[call.number] = call
        self._send(replica, call)

    def _send(self, replica: Replica, call: ShardCall) -> None:
        replica.outgoing[call.number] = call
        if not replica.speaks:
            self._speak(replica)

    def _speak(self, replica: Replica) -> None:
        if not replica.speaks:
            replica.speaks = True
            self._speaking.append(replica)

    def _take_back(self, call: ShardCall) -> bool:
        """Take the call from where it is. Returns whether it had left: it may then be on its way still."""
        shard = self._shards[call.shard]
        if call.node is None:
            del shard.parked[call.number]
            return False
        replica = shard.replicas[call.node]
        del replica.calls[call.number]
        return replica.outgoing.pop(call.number, None) is None

    def _move(self, call: ShardCall) -> None:
        """Send what was not answered to where it belongs now."""
        call.in_doubt |= self._take_back(call)
        self._place(call)

    def _park(self, call: ShardCall) -> None:
        """Let a call that is nowhere wait for the next sweep, or for news about the leader."""
        self._number = call.number = self._number + 1
        call.node = None
        self._shards[call.shard].parked[call.number] = call

    # ---- what links say ---------------------------------------------------------------------------------------------

    def handle_connected(self, replica: Replica) -> None:
        """A replica can be reached."""
        replica.taken_bytes = 0  # it counts anew for each connection
        replica.knows = _NOTHING  # perhaps another process, and what it was told may be lost
        self._greet(replica)
        shard = self._shards[replica.shard]
        shard.routes.handle_connected(replica.node)
        self._leader_maybe_changed(shard)

    def _greet(self, replica: Replica) -> None:
        replica.greets = True
        self._speak(replica)

    def handle_disconnected(self, replica: Replica) -> None:
        """A replica is gone: what was in flight there goes elsewhere, except what only it could answer."""
        replica.greets = replica.asks = False
        shard = self._shards[replica.shard]
        shard.routes.handle_disconnected(replica.node)
        for call in list(replica.calls.values()):
            self._move(call)
        replica.outgoing.clear()
        self._leader_maybe_changed(shard)

    def handle_unsent(self, outgoing: Outgoing) -> None:
        """An envelope could not leave: the link is about to report a disconnect, or the replica has stopped reading.
        Its calls wait a while."""
        replica = outgoing.replica
        replica.taken_bytes += outgoing.taken_bytes
        replica.knows = _NOTHING
        if outgoing.greets and self._shards[replica.shard].routes.is_connected(replica.node):
            self._greet(replica)
        for call in outgoing.calls:
            if replica.calls.pop(call.number, None) is not None:
                self._park(call)

    def handle_envelope(self, replica: Replica, envelope: frames.Envelope, attached_bytes: int = 0) -> None:
        """Answers and news from a replica. attached_bytes: of the bodies that came beside the envelope."""
        if envelope.HasField("state"):
            self._handle_belief(replica, envelope.state.term, envelope.state.leader)
        if envelope.HasField("committed"):
            self._handle_commit(replica, envelope.committed)
        calls, ended, leave = replica.calls, self._ended, self._bounds.leave
        taken_bytes = attached_bytes
        for reply in envelope.replies:
            if not reply.attachment:
                taken_bytes += len(reply.body)
            number = reply.call
            call = calls.get(number)
            if call is None:  # ended or sent elsewhere since
                if reply.cursor:
                    self.close_cursor(replica.shard, replica.node, reply.cursor)
            elif reply.error:
                self._handle_refusal(replica, call, reply)
            else:
                del calls[number]
                call.reply = reply
                ended.append(call)
                leave(len(call.body))
        replica.taken_bytes += taken_bytes
        if replica.taken_bytes >= ACKNOWLEDGE_BYTES_MIN:
            self._speak(replica)

    def _handle_commit(self, replica: Replica, told: frames.CommitPoint) -> None:
        committed = (told.generation, told.index, told.term)
        if committed > replica.knows:
            replica.knows = committed
            shard = self._shards[replica.shard]
            shard.committed = max(shard.committed, committed)

    def _handle_refusal(self, replica: Replica, call: ShardCall, reply: frames.Reply) -> None:
        self._take_back(call)
        try:
            error = errors.from_frame(reply.error, reply.detail)
        except errors.InvariantBroken as unknown:
            error = unknown
        if isinstance(error, errors.TableAway) and not call.in_shard:
            self._follow(call, error, reply.term)
            return
        call.faults += isinstance(error, errors.Corrupt)
        call.in_doubt |= not error.definite
        if call.in_doubt and call.access is Access.WRITE and not _says_the_log(reply, error):
            # This replica has not proposed it, but an earlier one may have: only the same id can tell.
            if error.retry is errors.Retry.CALLER:
                self._park(call)
                return
            if error.retry is errors.Retry.NOBODY and error.definite:
                self._fail(call, errors.LeaderLost(f"then refused, and not for what it does: {error}"))
                return
        # Once per replica: where all are in doubt nobody else will know better.
        hopeless = call.faults >= len(self._shards[call.shard].replicas)
        if error.retry not in _ELSEWHERE or call.target == replica.node or hopeless:
            self._fail(call, error)
            return
        # First out of the way of the news: this replica has just refused, so it is no candidate before the next
        # sweep, even if it is still the best one known.
        self._place(call, avoid=replica.node)
        if reply.term:
            self._handle_belief(replica, reply.term, reply.leader)

    def _handle_belief(self, replica: Replica, term: int, leader: int) -> None:
        shard = self._shards[replica.shard]
        if shard.routes.handle_belief(replica.node, term=term, leader=leader):
            self._leader_maybe_changed(shard)

    def _leader_maybe_changed(self, shard: _Shard) -> None:
        """Send to the leader what waits for it or is in flight at another replica, perhaps a paused old leader."""
        leader = shard.routes.leader
        moved = [call for call in shard.parked.values() if call.target is not LEADER or leader is not None]
        if leader is not None:
            for replica in shard.replicas.values():
                if replica.node != leader:
                    moved += [call for call in replica.calls.values() if call.target is LEADER]
        for call in sorted(moved, key=_by_number):
            self._move(call)

    # ---- tables that move -------------------------------------------------------------------------------------------

    def shard_of(self, table_id: int, shard: ShardId) -> ShardId:
        """Where a table is, of which the catalog says that it is in this shard."""
        return self._moved.get(table_id, shard)

    def term_shown(self, table_id: int, shard: ShardId, term: int) -> int:
        """The term for the header of an answer about a table that this shard, in this term, has given: no lower than in
        the shards that the table has left. 0 = nobody was asked, and the shard may be one of those."""
        shown = self._shards[shard].routes.term_shown(term)
        found = self._moved.get(table_id, shard)
        if found != shard:
            shown = self._shards[found].routes.term_shown(0)
        return max(shown, self._terms_before.get(table_id, 0))

    def take_waited(self) -> bool:
        """Whether a call had to wait for a table that nobody serves just now, since this was last asked."""
        waited, self._waited = self._waited, False
        return waited

    def _follow(self, call: ShardCall, away: errors.TableAway, term: int) -> None:
        """A call, which is nowhere now, came to a shard that does not serve its table, and is in this term."""
        if away.retry is errors.Retry.SOON:
            self._waited = True
            self._park(call)
            return
        shard = ShardId(int(away.detail))
        if shard in self._shards:
            assert call.table_id, "a call that names no table is for this very shard"
            before = self._terms_before.get(call.table_id, 0)
            self._terms_before[call.table_id] = max(before, self.routes(call.shard).term_shown(term))
            self._moved[call.table_id] = call.shard = shard
            call.hops += 1
            if call.hops % (HOPS_MAX + 1):
                self._place(call)
            else:
                self._park(call)
        elif call.in_doubt:
            self._park(call)
        else:
            self._fail(
                call, errors.NoLeader(f"shard {shard} is not in this process's cluster file: restart it")
            )

    # ---- endings ----------------------------------------------------------------------------------------------------

    def _fail(self, call: ShardCall, error: errors.BoathouseError) -> None:
        """End a call that is nowhere any more."""
        call.error = error
        self._ended.append(call)
        self._bounds.leave(len(call.body))

    def _sweep(self, now: float) -> None:
        """Fail what is past its deadline, and try again what is parked."""
        remaining = False
        for shard in self._shards.values():
            waiting = list(shard.parked.values())
            for replica in shard.replicas.values():
                waiting += [call for call in replica.calls.values() if now >= call.deadline]
                # Placed by an earlier time than this one: a process that was stopped hears who leads before it looks
                # at the clock.
                waiting += [
                    call for call in replica.outgoing.values() if call.repeat_until <= now < call.deadline
                ]
                remaining |= bool(replica.calls)
                if replica.taken_bytes >= ACKNOWLEDGE_BYTES_MIN:
                    remaining = True  # the budget was used up, and is looked at again
                    self._speak(replica)
            for call in waiting:
                if now >= call.deadline:
                    self._take_back(call)
                    self._fail(call, _timeout(call))
                else:
                    self._move(call)
            remaining |= bool(waiting)
            if shard.parked and shard.routes.leader is None and now >= shard.ask_at:
                shard.ask_at = now + ASK_INTERVAL_S
                self._ask_who_leads(shard)
        self._sweep_at = now + SWEEP_INTERVAL_S if remaining else None

    def _ask_who_leads(self, shard: _Shard) -> None:
        for replica in shard.replicas.values():
            if shard.routes.is_connected(replica.node):
                replica.asks = True
                self._speak(replica)

    def close(self) -> None:
        """Fail what is still in flight and refuse what comes after."""
        self._closed = True
        for shard in self._shards.values():
            in_flight = [call for replica in shard.replicas.values() for call in replica.calls.values()]
            for call in [*shard.parked.values(), *in_flight]:
                self._take_back(call)
                self._fail(call, errors.TimedOut() if call.access is Access.WRITE else errors.ShuttingDown())
        self._sweep_at = None


def _by_number(call: ShardCall) -> int:
    return call.number


def _says_the_log(reply: frames.Reply, error: errors.BoathouseError) -> bool:
    """Whether this is what came of the write, whoever proposed it. Of another request's id it is not: who calls may not
    be the user any more, for the replica, that he was when it was proposed."""
    return reply.applied and not isinstance(error, errors.RequestIdReused)


def _timeout(call: ShardCall) -> errors.BoathouseError:
    return errors.TimedOut() if call.access is Access.WRITE else errors.ReadTimedOut()


def _out_of_reach(call: ShardCall) -> errors.BoathouseError:
    if call.cursor:
        return errors.CursorNotFound("the connection to the replica that held it was lost")
    return errors.NoLeader("the replica is out of reach")
