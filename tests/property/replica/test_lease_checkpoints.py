"""Whatever comes of what a leader proposes to write down of its leases, no later leader ends one too early."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast
from unittest.mock import patch

import pytest

from shardworker.machine.leases import Lease
from shardworker.raft import LogIndex
from shardworker.replica import lease_checkpoints
from shardworker.replica.deadlines import Deadlines
from shardworker.replica.lease_checkpoints import LeaseCheckpoints, ticks_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proto.internal import frames_pb2 as frames
    from shardworker.machine import StateMachine
    from shardworker.replica.deadlines import Key

TICK_MS: Final = 1_000
ROUND_TICKS: Final = 2
TTL_S: Final = 12
TABLE: Final = 1
IDS: Final = range(1, 4)
WRITTEN_MAX: Final = 2


@dataclass
class Machine:
    """What is applied of leases."""

    found: dict[int, Lease]

    @property
    def leases(self) -> Machine:
        return self

    def get(self, table_id: int, lease_id: int) -> Lease | None:
        return self.found.get(lease_id)


@dataclass
class Leader:
    """A log, and who leases from its leader."""

    refuses: bool = False
    queue: list[frames.LeaseCheckpoints] = field(default_factory=list)
    log: list[frames.LeaseCheckpoints] = field(default_factory=list)
    applied: int = 0
    renewed: dict[int, int] = field(default_factory=dict)
    """When its holder sent what he was answered last."""
    waiting: dict[int, int] = field(default_factory=dict)
    """Since when he waits for another answer."""

    def __post_init__(self) -> None:
        self.machine = Machine({id_: Lease(id_, TTL_S, 1, 1000 * TTL_S) for id_ in IDS})
        self.deadlines = Deadlines(ROUND_TICKS, step_ticks_min=2, step_ticks_max=4)
        self.checkpoints = LeaseCheckpoints(
            cast("StateMachine", self.machine), self.deadlines, tick_ms=TICK_MS, round_ticks=ROUND_TICKS
        )
        for id_ in IDS:
            self.deadlines.add(self.key(id_), ticks_of(1000 * TTL_S, TICK_MS))
            self.renewed[id_] = 0

    def key(self, id_: int) -> Key:
        return (TABLE, id_)

    def add(self, tables: dict[int, frames.LeaseCheckpoints]) -> None:
        self.queue += tables.values()

    def tick(self) -> None:
        self.deadlines.tick()
        for _, id_ in self.deadlines.take_due(10):
            self.deadlines.renew(self.key(id_))  # its end comes to nothing
            self.renewed[id_] = self.deadlines.now - TTL_S
        self.add(self.checkpoints.take())

    def keep_alive(self, id_: int) -> None:
        lease = self.machine.found[id_]
        self.deadlines.renew(self.key(id_))
        if self.checkpoints.is_whole(self.key(id_), lease):
            self.renewed[id_] = self.deadlines.now
        else:
            self.waiting[id_] = self.deadlines.now
            self.checkpoints.renew(self.key(id_))

    def hand_over(self) -> None:
        """To somebody who does not take it."""
        self.add(self.checkpoints.take_before_hand_over())

    def turn(self, count: int) -> None:
        """So many entries are committed."""
        if not self.refuses:
            self.log += self.queue
        self.queue = []
        counted = set()
        for entry in self.log[self.applied : self.applied + count]:
            for told in entry.leases:
                self.machine.found[told.id] = self.machine.found[told.id]._replace(left_ms=told.left_ms)
                counted.add(told.id)
            self.applied += 1
        for id_ in counted:
            if self.checkpoints.applied(self.key(id_), self.machine.found[id_]):
                self.renewed[id_] = self.waiting.pop(id_)
        self.checkpoints.settle(last_index=LogIndex(len(self.log)), applied_index=LogIndex(self.applied))
        self.add(self.checkpoints.take())
        self.check()

    def later_leaders(self, id_: int) -> Iterator[int]:
        """What is left of a lease for each that may follow."""
        left_ms = self.machine.found[id_].left_ms
        yield left_ms
        for entry in self.log[self.applied :]:
            for told in entry.leases:
                if told.id == id_:
                    left_ms = told.left_ms
            yield left_ms

    def check(self) -> None:
        for id_ in IDS:
            promised_ms = 1000 * (self.renewed[id_] + TTL_S - self.deadlines.now)
            assert all(left_ms >= promised_ms for left_ms in self.later_leaders(id_)), f"lease {id_}"
        unsettled = sum(len(entry.leases) for entry in [*self.log[self.applied :], *self.queue])
        assert unsettled <= WRITTEN_MAX + len(IDS), "so many renewals, and a loss of each"


def walk(rng: random.Random, steps: int) -> Iterator[tuple[str, int]]:
    for _ in range(steps):
        match rng.randrange(12):
            case 0 | 1 | 2 | 3:
                yield "tick", rng.randint(1, 3)
            case 4 | 5 | 6 | 7 | 8:
                yield "turn", rng.randint(0, 2)
            case 9 | 10:
                yield "keep alive", rng.choice(IDS)
            case 11:
                yield rng.choice((("hand over", 0), ("refuse", 1), ("refuse", 0), ("refuse", 0)))


@pytest.mark.parametrize("seed", range(20))
def test_no_later_leader_ends_a_lease_early(seed: int) -> None:
    with patch.object(lease_checkpoints, "WRITTEN_MAX", WRITTEN_MAX):
        for number in range(20):
            run(walk(random.Random(100 * seed + number), 120))


def run(program: Iterable[tuple[str, int]]) -> None:
    leader = Leader()
    for step, number in program:
        if step == "tick":
            for _ in range(number):
                leader.tick()
        elif step == "keep alive":
            leader.keep_alive(number)
        elif step == "turn":
            leader.turn(number)
        elif step == "hand over":
            leader.hand_over()
        else:
            leader.refuses = bool(number)
        leader.check()
    # Once all goes well again, everybody is answered, and nothing is held to be under way.
    leader.refuses = False
    for _ in range(4 * ROUND_TICKS):
        leader.turn(len(leader.log) + len(leader.queue))
        leader.tick()
    assert not leader.waiting
    while leader.queue:
        leader.turn(len(leader.log) + len(leader.queue))
    assert leader.checkpoints.drained()
