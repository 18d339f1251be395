"""What stands beside the order of a replica's turn: one concern each, all with the same few methods.

`Replica` knows when something happens, its parts know what. A part takes what concerns it from each envelope, is told
of every tick, does what is left to do at the end of a turn, and says when the next tick matters to it. It answers
clients and speaks to peers through `ReplicaContext.outgoing`, and nothing of that leaves before the turn has ended. A
new concern is a new part in `Replica`'s list; everything below has a default, so it says only what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proto.internal import frames_pb2 as frames
from shardworker.raft import NEVER_TICKS

if TYPE_CHECKING:
    from config import ClusterConfig
    from proto import errors
    from shardworker.background import Background
    from shardworker.machine import StateMachine
    from shardworker.raft import NodeId, Raft
    from shardworker.replica.giving_way import Demand
    from shardworker.replica.outgoing import Outgoing
    from shardworker.store import ReplicaStore

Handler = Callable[[bytes, frames.Request], None]
"""Takes a request from the coordinator behind this link. It answers through `outgoing`, now or later, or raises a
BoathouseError, which is the answer then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaContext:
    """What the parts of one replica work with. All of it belongs to the loop's thread."""

    shard: int
    node: NodeId
    core: Raft
    store: ReplicaStore
    machine: StateMachine
    background: Background
    cluster: ClusterConfig
    outgoing: Outgoing
    demand: Demand


class Part:
    """One concern of a replica. Every method is called from the loop's thread."""

    def methods(self) -> Mapping[int, Handler]:
        """Who serves what is neither a write nor a read of a table, by frames.Method (Access.LEADER and REPLICA)."""
        return {}

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        """Take what the envelope brings for this part, from a coordinator or a peer. Requests go to `methods`."""

    def tick(self) -> None:
        """One tick of the Raft clock has passed."""

    def miss(self, ticks: int) -> None:
        """So many have passed at once without a call of tick(): the process came late, or was stopped."""

    def ticks_until_action(self) -> int:
        """Ticks that may pass before tick() does something; lets an idle loop sleep."""
        return NEVER_TICKS

    def has_work(self) -> bool:
        """Whether a turn now would get this part on, though nothing has arrived and no tick has passed."""
        return False

    def end_turn(self) -> None:
        """The turn's transaction is committed, and what leaves from here on leaves with it. May raise what ends the
        process (RebuildBegun)."""

    def abandon(self, why: str) -> None:
        """This replica leads no longer, or must not serve: whoever waits for an answer from here is told to ask
        elsewhere."""

    def installed(self) -> None:
        """Tables and log were replaced by a snapshot."""

    def drained(self) -> bool:
        """Whether the process may end without leaving anybody waiting for what this part owes."""
        return True

    @property
    def votes(self) -> bool:
        """False while this replica must take no part in elections."""
        return True

    @property
    def fault(self) -> errors.BoathouseError | None:
        """What everybody is told while nothing may be answered from this replica; its detail is for people."""
        return None

    def statistics(self) -> Mapping[str, int]:
        """Figures for metrics, by name; a name belongs to one part."""
        return {}


class Parts:
    """All parts of a replica, told and asked together. Whoever has nothing to do at an occasion is not called: a turn
    is short, and there are many of them."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """In the order in which a turn ends for them."""

        def caring(name: str) -> tuple[Part, ...]:
            return tuple(part for part in parts if getattr(type(part), name) is not getattr(Part, name))

        self._all = tuple(parts)
        self._hearing = caring("handle")
        self._ticking = caring("tick")
        self._missing = caring("miss")
        self._awaiting_ticks = caring("ticks_until_action")
        self._working = caring("has_work")
        self._ending = caring("end_turn")
        self._voting = caring("votes")
        self._faulty = caring("fault")

    def __iter__(self) -> Iterator[Part]:
        return iter(self._all)

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        """Let each take what concerns it."""
        for part in self._hearing:
            part.handle(identity, envelope)

    def tick(self) -> None:
        """One tick of the Raft clock has passed."""
        for part in self._ticking:
            part.tick()

    def miss(self, ticks: int) -> None:
        """So many have passed without a call of tick()."""
        for part in self._missing:
            part.miss(ticks)

    def ticks_until_action(self) -> int:
        """Ticks that may pass before one matters to any."""
        return min([part.ticks_until_action() for part in self._awaiting_ticks])

    def has_work(self) -> bool:
        """Whether a turn would get any of them on."""
        for part in self._working:
            if part.has_work():
                return True
        return False

    def end_turn(self) -> None:
        """The turn's transaction is committed."""
        for part in self._ending:
            part.end_turn()

    def vote(self) -> bool:
        """Whether this replica takes part in elections: if all agree."""
        return all(part.votes for part in self._voting)

    def fault(self) -> errors.BoathouseError | None:
        """Why nothing may be answered from this replica; None if it serves."""
        for part in self._faulty:
            fault = part.fault
            if fault is not None:
                return fault
        return None
