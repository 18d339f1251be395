"""Which node replicates."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from coordinator.replication.lease import EXPIRES_S, HELD_S, RENEW_S, Lease


def test_a_row_that_nobody_holds_is_taken_at_once() -> None:
    for revision, is_free in ((0, True), (0, False), (7, True)):
        lease = Lease()
        lease.see(revision, is_free=is_free, now=0.0)
        assert lease.may_write(0.0)


def test_a_row_that_goes_on_changing_is_left_alone() -> None:
    lease = Lease()
    for second in range(20):
        lease.see(second + 2, is_free=False, now=float(second))
        assert not lease.may_write(float(second))


def test_a_row_that_does_not_change_is_taken_within_five_seconds() -> None:
    lease = Lease()
    lease.see(2, is_free=False, now=10.0)
    lease.see(2, is_free=False, now=10.0 + EXPIRES_S - 0.1)
    assert not lease.may_write(10.0 + EXPIRES_S - 0.1)
    assert lease.may_write(10.0 + EXPIRES_S)


CALL_S_MAX = 0.3
"""What a look, or a try to write, takes at most where nothing hangs."""


@dataclass
class Row:
    revision: int = 1


class Node:
    """As replicator.Replicator goes about its lease."""

    def __init__(self, row: Row, rng: Random) -> None:
        self.lease = Lease()
        self.next_at = rng.random()
        self.wrote_at = 0.0
        self._row = row
        self._rng = rng

    def look(self) -> None:
        """Once, at next_at."""
        now = self.next_at + self._rng.random() * CALL_S_MAX / 2
        self.lease.see(self._row.revision, is_free=self._row.revision == 1, now=now)
        if self.lease.may_write(now):
            self._row.revision += 1
            self.lease.written(self._row.revision, now)
            now += self._rng.random() * CALL_S_MAX / 2
            self.wrote_at = now
        self.next_at = now + self.lease.pause_s(now)


def test_another_node_replicates_within_five_seconds_of_the_death_of_the_one_that_did() -> None:
    slowest_s = 0.0
    for seed in range(300):
        rng = Random(seed)
        row = Row()
        nodes = [Node(row, rng) for _ in range(3)]
        died_at = 10.0 + rng.random() * RENEW_S
        while (node := min(nodes, key=lambda node: node.next_at)).next_at < died_at:
            node.look()
            at = min(node.next_at for node in nodes)
            assert sum(node.lease.is_held(at) for node in nodes) <= 1
        (holder,) = [node for node in nodes if node.lease.is_held(died_at)]
        nodes.remove(holder)
        while not any(node.wrote_at > died_at for node in nodes):
            min(nodes, key=lambda node: node.next_at).look()
        slowest_s = max(slowest_s, max(node.wrote_at for node in nodes) - died_at)
    assert 3.0 < slowest_s < 5.0


def test_the_holder_gives_up_before_anybody_takes_it() -> None:
    holder, other = Lease(), Lease()
    holder.see(0, is_free=True, now=0.0)
    holder.written(2, 0.0)
    other.see(2, is_free=False, now=0.0)
    assert holder.is_held(HELD_S - 0.1)
    assert holder.may_write(HELD_S - 0.1)
    assert not holder.is_held(HELD_S)
    assert not holder.may_write(HELD_S)
    assert not other.may_write(HELD_S)
    assert RENEW_S * 2 < HELD_S < EXPIRES_S


def test_who_has_lost_it_holds_it_no_longer() -> None:
    lease = Lease()
    lease.written(2, 0.0)
    lease.lost()
    assert not lease.is_held(0.1)
