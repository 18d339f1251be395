"""Watchers of the simulated cluster: production's hub, fed over production's router in virtual time.

Each watches everything from the present on, with the pairs before, and judges what it hears at once: the next event is
of the next revision, no revision comes twice or in pieces, and all watchers hear the same of a revision. In the end
each has heard of everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.shards.router import NEAREST, Call
from coordinator.watch.feed import HistoryGone, part_of
from coordinator.watch.hub import OPEN_END, Hub, Interest, Watcher
from coordinator.watch.outbox import Budget, Outbox
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access
from tests.simulation.clients import TABLE_ID
from tests.simulation.violation import Violation
from tests.simulation.world import MS

if TYPE_CHECKING:
    from coordinator.watch.changes import Part
    from proto.etcd import kv_pb2
    from tests.simulation.cluster import Cluster
    from tests.simulation.coordinator import Coordinator

WAIT_MS: Final = 500
TIMEOUT_S: Final = 2.0
RETRY_US: Final = 20 * MS


class SimulatedWatcher:
    """One client of one coordinator."""

    def __init__(self, cluster: Cluster, coordinator: Coordinator) -> None:
        self._cluster = cluster
        self._coordinator = coordinator
        self._hub: Hub | None = None
        self._outbox = Outbox(
            Budget(1 << 20), bytes_max=1 << 20, on_message=lambda: None, on_room=lambda: None
        )
        self._heard_through = 0
        self._stopped = False
        self.idle = True

    def start(self) -> None:
        self._ask()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True

    def has_heard(self, revision: int) -> bool:
        """Whether it was told of everything up to this revision."""
        return self._hub is not None and self._hub.revision >= revision

    def _ask(self) -> None:
        if self._stopped:
            return
        first = 0 if self._hub is None else self._hub.revision + 1
        request = frames.ChangesRequest(from_revision=first, wait_ms=WAIT_MS if first else 0, prev=True)
        call = Call(
            ShardId(self._cluster.shard),
            NEAREST,
            Access.REPLICA,
            frames.TABLE_CHANGES,
            TABLE_ID,
            request.SerializeToString(),
            deadline=self._coordinator.now_s() + WAIT_MS / 1000 + TIMEOUT_S,
        )
        self.idle = False
        self._coordinator.ask(call, sent=lambda _node: None, ended=self._ended)

    def _ended(self, call: Call) -> None:
        self.idle = True
        if call.reply is None:
            self._cluster.world.after(RETRY_US, self._ask)
            return
        try:
            part = part_of(frames.TableChanges.FromString(call.reply.body))
        except HistoryGone as gone:
            self._handle_gap(gone.floor)
        else:
            self._handle_part(part)
        self._judge()
        self._cluster.world.after(MS, self._ask)

    def _handle_part(self, part: Part) -> None:
        if self._hub is None:
            self._hub = Hub(part.through, lambda _revision: b"", self._cluster.world.stream("hub"))
            self._watch(part.through + 1)
        elif part.through > self._hub.revision:
            self._hub.publish(part)

    def _watch(self, first: int) -> None:
        assert self._hub is not None
        self._heard_through = first - 1
        everything = Interest(b"\0", OPEN_END, prev_kv=True)
        self._hub.add(Watcher(watch_id=0, interest=everything, outbox=self._outbox, start=first, next=first))

    def _handle_gap(self, floor: int) -> None:
        """What came next is compacted: the watcher is told, and begins anew."""
        assert self._hub is not None
        self._hub.handle_gap(floor)
        end = self._outbox.pop()
        if end is None or etcd.WatchResponse.FromString(end).compact_revision != floor:
            raise Violation("watch-compacted", f"a gap before {floor} was not told")
        self._cluster.count("watch begun anew")
        self._watch(floor)

    def _judge(self) -> None:
        while (message := self._outbox.pop()) is not None:
            by_revision: dict[int, list[bytes]] = {}
            for event in etcd.WatchResponse.FromString(message).events:
                self._judge_prev(event)
                event.ClearField("prev_kv")
                by_revision.setdefault(event.kv.mod_revision, []).append(event.SerializeToString())
            for revision, events in by_revision.items():
                if revision != self._heard_through + 1:
                    raise Violation(
                        "watch-reliable", f"{revision} came to a watcher that had heard {self._heard_through}"
                    )
                self._heard_through = revision
                known = self._cluster.watched.setdefault(revision, events)
                if known != events:
                    raise Violation("watch-agreement", f"watchers heard different things of {revision}")
        if self._hub is not None and self._heard_through != self._hub.revision:
            raise Violation(
                "watch-reliable",
                f"nothing came of {self._heard_through + 1}, {self._hub.revision} was published",
            )

    def _judge_prev(self, event: kv_pb2.Event) -> None:
        """Whoever hears late may miss the pair before, if that was compacted; nobody may hear of another."""
        if event.HasField("prev_kv"):
            name = (event.kv.mod_revision, event.kv.key)
            if self._cluster.pairs_before.setdefault(name, event.prev_kv) != event.prev_kv:
                raise Violation("watch-agreement", f"watchers heard of different pairs before {name}")


def watch(cluster: Cluster) -> None:
    """A scenario: each coordinator has a watcher."""
    for coordinator in cluster.coordinators:
        watcher = SimulatedWatcher(cluster, coordinator)
        cluster.watchers.append(watcher)
        watcher.start()
