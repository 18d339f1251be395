"""Watchers of the simulated cluster: production's hub and inquiry, over production's router in virtual time.

What is asked, of whom, and what becomes of an answer is production's; here are only the three loops that wait. Each
coordinator has a hub and five watchers: one of everything, one of some keys' puts, one of what is deleted, one
that reads slowly, so that it falls behind and is told from the history, and one that leaves now and then and resumes
later where it was. Between the news they ask how far they have heard. What each was told is judged by etcd's guarantees
(tests/history/watches.py) against what the replicas applied (witness.py), whenever it ends and at the end of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.api.credentials import SYSTEM
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from coordinator.watch.audience import Interest, State, Watcher
from coordinator.watch.changes import Part, TakenBack
from coordinator.watch.feed import request_of, told_by
from coordinator.watch.inquiry import Inquiry
from coordinator.watch.outbox import Budget, Outbox
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access
from proto.spans import OPEN_END
from tests.history.watches import Broken, Watched, check, check_resumed
from tests.simulation.clients import TABLE_ID
from tests.simulation.violation import Violation
from tests.simulation.witness import Witness
from tests.simulation.world import MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.shards.shard_call import Target
    from coordinator.watch.hub import Hub
    from coordinator.watch.inquiry import Question
    from tests.simulation.cluster import Cluster
    from tests.simulation.coordinator import Coordinator

WAIT_S: Final = 0.5
LOOK_US: Final = 300 * MS
TIMEOUT_S: Final = 2.0
RETRY_US: Final = 20 * MS
SLOW_BYTES_MAX: Final = 300
"""Of a slow watcher's outbox: a few events."""
SLOWNESS: Final = 0.7
"""So often a slow watcher reads one message at most."""

EVERYTHING: Final = Interest(b"\0", OPEN_END, prev_kv=True)


class Listener:
    """One watcher on a stream of its own, and what it was told since it began."""

    def __init__(self, name: str, interest: Interest, *, bytes_max: int = 1 << 20) -> None:
        self.name = name
        self._interest = interest
        self._outbox = Outbox(
            Budget(1 << 20), bytes_max=bytes_max, on_message=lambda: None, on_room=lambda: None
        )
        self.watcher: Watcher | None = None
        self._watched = Watched(b"")
        self._resumed = False

    def begin(self, hub: Hub, first: int, *, resumed: bool = False) -> None:
        wish = self._interest
        self._resumed = resumed
        self._watched = Watched(
            wish.key, wish.end, first, puts=wish.puts, deletes=wish.deletes, prev_kv=wish.prev_kv
        )
        self.watcher = Watcher(watch_id=0, interest=wish, outbox=self._outbox, start=first, next=first)
        hub.add(self.watcher)

    def hear(self, witness: Witness, messages_max: int | None = None) -> int:
        """Read what waits. Gives the floor below which it has missed something, if that ended it, else 0."""
        while messages_max is None or messages_max > 0:
            batch = self._outbox.pop_batch(1)
            if not batch:
                break
            response = etcd.WatchResponse.FromString(batch[0])
            if response.canceled:
                return response.compact_revision
            self._watched.compacted = witness.compacted
            self._watched.responses.append(response)
            messages_max = None if messages_max is None else messages_max - 1
        return 0

    def ask_progress(self, hub: Hub) -> None:
        assert self.watcher is not None
        hub.tell_progress([self.watcher], self._outbox)

    def leave(self, hub: Hub, witness: Witness) -> int:
        """End it; from which revision on it would go on."""
        assert self.watcher is not None
        watcher = self.watcher
        through = hub.revision if watcher.state is State.SYNCED else watcher.next - 1
        hub.cancel(watcher)
        self.watcher = None
        self.hear(witness)
        self.judge(witness, through)
        return max(through + 1, self._watched.first)

    def judge(self, witness: Witness, through: int | None = None) -> None:
        """Whether everything was kept that a watcher is promised. through: it has to have heard of all up to this;
        None: of all up to what it heard last, since what came next was compacted."""
        heard = self._watched
        if through is None:
            through = max((event.kv.mod_revision for event in heard.events), default=0)
        try:
            if self._resumed:
                check_resumed(_never_left(heard, witness, through), heard)
            check(heard, witness.truth, through)
        except Broken as broken:
            guarantee, _, what = str(broken).partition(": ")
            raise Violation(f"watch-{guarantee}", f"{self.name}, from {heard.first}: {what}") from None


def _never_left(heard: Watched, witness: Witness, through: int) -> Watched:
    """What one with the same wishes would have heard that had been there from the beginning, without pairs before."""
    assert not heard.prev_kv
    whole = Watched(heard.key, heard.end, puts=heard.puts, deletes=heard.deletes)
    told = etcd.WatchResponse()
    for revision in sorted(witness.truth):
        for event in witness.truth[revision]:
            if revision <= through and whole.wants(event):
                told.events.add().CopyFrom(event)
                told.events[-1].ClearField("prev_kv")
    whole.responses.append(told)
    return whole


class SimulatedWatcher:
    """The watchers of one coordinator."""

    def __init__(self, cluster: Cluster, coordinator: Coordinator, witness: Witness) -> None:
        self._cluster = cluster
        self._coordinator = coordinator
        self._witness = witness
        self._rng = cluster.world.stream(f"watcher-{coordinator.address}")
        self._inquiry = Inquiry(_header, cluster.world.stream("hub"), lambda _version: None)
        self._ordinary = Listener("a watcher of everything", EVERYTHING)
        self._slow = Listener("a slow watcher", EVERYTHING, bytes_max=SLOW_BYTES_MAX)
        self._restless = Listener("a watcher that resumes", EVERYTHING._replace(prev_kv=False))
        self._listeners = (
            self._ordinary,
            Listener("a watcher of puts", Interest(b"counter", b"r1", deletes=False)),
            Listener("a watcher of deletions", EVERYTHING._replace(puts=False)),
            self._slow,
            self._restless,
        )
        self._resumes_at = 0
        """Where the restless one will go on, while it is away."""
        self._stopped = False
        self._under_way = 0

    def start(self) -> None:
        self._ask_present()
        self._ask_past()
        self._cluster.world.after(self._rng.randrange(LOOK_US), self._look)

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True
        hub = self._inquiry.hub
        assert hub is not None
        for listener in self._listeners:
            if listener.watcher is not None:
                listener.leave(hub, self._witness)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that was asked before it stopped."""
        return not self._under_way

    def has_heard(self, revision: int) -> bool:
        """Whether everybody was told of everything up to this revision."""
        hub = self._inquiry.hub
        return hub is not None and hub.revision >= revision and not hub.behind_count

    # ---- questions --------------------------------------------------------------------------------------------------

    def _ask_present(self) -> None:
        self._ask(self._inquiry.present(), self._ask_present)

    def _ask_past(self) -> None:
        question = self._inquiry.past()
        if question is not None:
            self._ask(question, self._ask_past)
        elif not self._stopped:
            self._cluster.world.after(RETRY_US, self._ask_past)

    def _ask(self, question: Question, again: Callable[[], None]) -> None:
        def ended(call: ShardCall) -> None:
            moved = call.reply is not None and self._take(question, call.reply)
            if not self._stopped:
                self._cluster.world.after(MS if moved else RETRY_US, again)

        if self._stopped:
            return
        body = request_of(question, WAIT_S).SerializeToString()
        self._send(LEADER if question.of_leader else NEAREST, frames.TABLE_CHANGES, body, ended)

    def _look(self) -> None:
        """Where the leader is."""
        place = self._inquiry.place

        def ended(call: ShardCall) -> None:
            if call.reply is not None and not self._stopped:
                self._handle_standing(place, call.reply.revision)
            if not self._stopped:
                self._cluster.world.after(LOOK_US, self._look)

        if not self._stopped:
            self._send(LEADER, frames.TABLE_STATUS, b"", ended)

    def _send(
        self,
        target: Target,
        method: frames.Method.ValueType,
        body: bytes,
        ended: Callable[[ShardCall], None],
    ) -> None:
        def over(call: ShardCall) -> None:
            self._under_way -= 1
            ended(call)

        access = COMMANDS[method].access
        call = ShardCall(
            ShardId(self._cluster.shard),
            target,
            access,
            method,
            TABLE_ID,
            body,
            deadline=self._coordinator.now_s() + WAIT_S + TIMEOUT_S,
            linearizable=access is Access.READ,
            who=SYSTEM,
        )
        self._under_way += 1
        self._coordinator.ask(call, sent=lambda _node: None, ended=over)

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _take(self, question: Question, reply: frames.Reply) -> bool:
        if self._stopped:
            return True
        begins = self._inquiry.hub is None
        told = told_by(frames.TableChanges.FromString(reply.body))
        if isinstance(told, TakenBack):
            raise Violation("watch-reliable", "a replica takes the table for one that was taken back")
        moved = self._inquiry.take(question, told)
        hub = self._inquiry.hub
        if hub is None:
            return moved
        if begins:
            for listener in self._listeners:
                listener.begin(hub, hub.revision + 1)
        if moved and isinstance(told, Part) and not question.waits:
            self._cluster.count("watched history")
        self._go_about(hub)
        return moved

    def _handle_standing(self, place: tuple[int, int], revision: int) -> None:
        inquiry = self._inquiry
        inquiry.handle_standing(place, revision)
        if inquiry.place[0]:
            raise Violation(
                "watch-reliable", f"the leader stands at {revision}, and {place[1]} was told before"
            )
        lags = inquiry.hub is not None and inquiry.hub.revision < revision
        if lags != inquiry.of_leader:
            self._cluster.count("watch told by the leader" if lags else "watch told by the nearest replica")
            inquiry.of_leader = lags

    # ---- what the watchers do ---------------------------------------------------------------------------------------

    def _go_about(self, hub: Hub) -> None:
        rng = self._rng
        for listener in self._listeners:
            if listener.watcher is None:
                continue
            dawdles = listener is self._slow and rng.random() < SLOWNESS
            floor = listener.hear(self._witness, rng.randrange(2) if dawdles else None)
            if floor:
                self._cluster.count("watch begun anew")
                listener.judge(self._witness)
                listener.begin(hub, floor)
            elif rng.random() < 0.2:
                listener.ask_progress(hub)
        if rng.random() < 0.1:
            self._come_or_go(hub)

    def _come_or_go(self, hub: Hub) -> None:
        if self._restless.watcher is not None:
            self._resumes_at = self._restless.leave(hub, self._witness)
        else:
            self._cluster.count("watch resumed")
            self._restless.begin(hub, self._resumes_at, resumed=True)


def _header(revision: int) -> bytes:
    return etcd.WatchResponse(header=etcd.ResponseHeader(revision=revision)).SerializeToString()


def watch(cluster: Cluster) -> None:
    """A scenario: each coordinator has watchers."""
    cluster.witness = Witness()
    for coordinator in cluster.coordinators:
        watcher = SimulatedWatcher(cluster, coordinator, cluster.witness)
        cluster.watchers.append(watcher)
        watcher.start()
