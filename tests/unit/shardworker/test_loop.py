"""The worker's loop with a clock and a socket of the test's, and the pace at which it takes requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.loop import ANNOUNCE_S, BEAT_S, DRAIN_S_MAX, WAIT_S_MAX, Loop
from shardworker.pace import FIXED_SHARE, FIXED_SHARE_ALONE, PACE_S_MAX, WINDOW_S, Pace
from shardworker.raft import MessageKind, NodeId
from tests.unit.raft.lab import message
from tests.unit.shardworker.bench import CLIENT, TABLE, Bench

if TYPE_CHECKING:
    from shardworker.replica.replica import Replica

TICK_S: Final = 0.1


class Around:
    """Clock and socket of one loop. Time passes only where the loop waits."""

    def __init__(self, replica: Replica, *, alone: bool) -> None:
        self.time = 100.0
        self.cpu_s = 0.0
        self.inbox: list[tuple[bytes, frames.Envelope]] = []
        self.broken: list[NodeId] = []
        self.beats: list[float] = []
        self.waits: list[float] = []
        self.loop = Loop(
            replica,
            self,
            self,
            tick_s=TICK_S,
            alone=lambda: alone,
            beat=lambda: self.beats.append(self.time),
        )

    def now(self) -> float:
        return self.time

    def cpu(self) -> float:
        """Each turn costs 0.5 ms, whatever it serves."""
        self.cpu_s += 0.0005
        return self.cpu_s

    def receive(self, timeout_s: float, *, pace_until: float = 0.0) -> list[tuple[bytes, frames.Envelope]]:
        self.waits.append(timeout_s)
        if not self.inbox:
            self.time += timeout_s + 1e-6  # a wait is never too short
        self.time = max(self.time, pace_until)
        inbox, self.inbox = self.inbox, []
        return inbox

    def disconnected(self) -> list[NodeId]:
        broken, self.broken = self.broken, []
        return broken


def gets(count: int, first: int) -> frames.Envelope:
    envelope = frames.Envelope()
    for call in range(first, first + count):
        envelope.requests.add(
            call=call,
            method=frames.ETCD_RANGE,
            table_id=TABLE,
            body=etcd.RangeRequest(key=b"none").SerializeToString(),
        )
    return envelope


def test_a_loop_beats_about_every_second_and_sleeps_between(alone: Bench) -> None:
    around = Around(alone.replica, alone=True)
    around.loop.step()
    alone.work()
    until = around.time + 10 * BEAT_S
    steps = 0
    while around.time < until:
        around.loop.step()
        steps += 1
    apart = [later - earlier for earlier, later in zip(around.beats, around.beats[1:], strict=False)]
    assert min(apart) >= BEAT_S
    assert max(apart) < WAIT_S_MAX + TICK_S
    assert steps <= 4 * 10, "an idle loop wakes for its beats and little else"


def test_a_loop_that_hears_heartbeats_wakes_up_for_nothing_else(led: Bench) -> None:
    around = Around(led.replica, alone=False)
    around.loop.step()
    led.work()
    heartbeat = frames.Envelope()
    heartbeat.raft.append(raft_frames.encode_message(message(MessageKind.HEARTBEAT, 2, led.core.term)))
    apart_s = 4 * TICK_S
    began = around.time
    for _ in range(50):
        around.time += apart_s
        around.inbox = [(b"peer", heartbeat)]
        around.loop.step()
        assert around.loop.wait_s() > apart_s
    assert len(around.beats) >= (around.time - began) / WAIT_S_MAX


def test_one_request_is_taken_at_once_and_many_in_batches(alone: Bench) -> None:
    around = Around(alone.replica, alone=False)
    around.inbox = [(CLIENT, gets(1, 100))]
    around.loop.step()
    assert 100 in alone.replies
    around.inbox = [(CLIENT, gets(1000, 1000))]  # from here on it is load
    around.loop.step()
    assert 1000 in alone.replies
    around.inbox = [(CLIENT, gets(1, 101))]
    around.loop.step()
    assert 101 not in alone.replies
    taken = around.time
    while 101 not in alone.replies:
        around.loop.step()
    assert around.time - taken == pytest.approx(0.0005 / FIXED_SHARE, rel=0.05)


def test_a_replica_without_peers_waits_less_for_its_next_batch(alone: Bench) -> None:
    around = Around(alone.replica, alone=True)
    around.inbox = [(CLIENT, gets(1000, 1000))]
    around.loop.step()
    taken = around.time
    around.inbox = [(CLIENT, gets(1, 100))]
    around.loop.step()
    assert 100 in alone.replies
    assert around.time - taken == pytest.approx(0.0005 / FIXED_SHARE_ALONE, rel=0.05)


def test_what_peers_say_is_not_held_back(led: Bench) -> None:
    around = Around(led.replica, alone=False)
    around.inbox = [(CLIENT, gets(1000, 1000))]
    around.loop.step()
    led.sent.clear()
    heartbeat = frames.Envelope()
    heartbeat.raft.append(
        raft_frames.encode_message(message(MessageKind.HEARTBEAT, 2, led.core.term, context=7))
    )
    around.inbox = [(CLIENT, gets(1, 101)), (b"peer", heartbeat)]
    around.loop.step()
    assert 101 not in led.replies
    assert [one.kind for _, one in led.sent] == [MessageKind.HEARTBEAT_REPLY]


def test_a_leader_that_owes_its_followers_a_commit_waits_only_shortly(led: Bench) -> None:
    led.lead()
    around = Around(led.replica, alone=False)
    put = etcd.PutRequest(key=b"k", value=b"v").SerializeToString()
    led.ask(frames.ETCD_PUT, put, request_id=bytes(16))
    led.acknowledge(2)
    assert led.replica.owes_commit()
    led.sent.clear()
    around.loop.step()
    assert around.waits[-1] <= ANNOUNCE_S
    assert any(one.commit == led.core.log.commit for _, one in led.sent)


def test_an_end_answers_what_is_owed_and_waits_for_no_more_than_a_while(alone: Bench) -> None:
    alone.jobs.may_end = False
    everything = etcd.RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()
    alone.ask(frames.ETCD_RANGE, everything)
    around = Around(alone.replica, alone=True)
    around.loop.stop()
    began = around.time
    around.loop.run()
    assert DRAIN_S_MAX <= around.time - began < DRAIN_S_MAX + BEAT_S


def test_a_broken_connection_is_told_to_the_core(led: Bench) -> None:
    """A follower then calls an election within few ticks instead of a whole timeout."""
    around = Around(led.replica, alone=False)
    around.broken = [NodeId(2)]
    around.inbox = [(b"peer", frames.Envelope())]
    around.loop.step()
    assert led.core.leader == 0


# ---- pace


def paced(pace: Pace, *sizes: int, fixed_s: float, each_s: float, apart_s: float = 0.005) -> float:
    """How long it waits after batches of these sizes, again and again."""
    now = 0.0
    for number in range(200):
        now += apart_s
        size = sizes[number % len(sizes)]
        pace.turned(size, fixed_s + each_s * size, now)
    return pace.next_batch - now


def test_who_is_alone_never_waits() -> None:
    assert paced(Pace(0.0), 1, fixed_s=0.01, each_s=0.0) == pytest.approx(0.0, abs=1e-9)


def test_fixed_costs_are_held_to_their_share_whatever_a_request_costs() -> None:
    for each_s in (0.0, 0.000_01, 0.000_1):
        pace = Pace(0.0)
        wait_s = paced(pace, 30, 40, 50, fixed_s=0.000_5, each_s=each_s)
        assert pace.fixed_cost_s() == pytest.approx(0.000_5, rel=0.05)
        assert wait_s == pytest.approx(0.000_5 / FIXED_SHARE, rel=0.1)


def test_without_peers_a_batch_comes_sooner() -> None:
    among_peers, alone = Pace(0.0), Pace(0.0)
    for number in range(200):
        size = 30 + number % 3 * 10
        among_peers.turned(size, 0.000_5, number * 0.005)
        alone.turned(size, 0.000_5, number * 0.005, alone=True)
    last = 199 * 0.005
    assert (among_peers.next_batch - last) * FIXED_SHARE == pytest.approx(
        (alone.next_batch - last) * FIXED_SHARE_ALONE
    )


def test_batches_of_one_size_count_as_fixed_and_no_wait_is_longer_than_the_bound() -> None:
    pace = Pace(0.0)
    assert paced(pace, 64, fixed_s=0.001, each_s=0.000_05) == pytest.approx(PACE_S_MAX * 63 / 64)
    assert pace.fixed_cost_s() == pytest.approx(0.004_2)


def test_two_at_a_time_wait_half_as_long_as_many() -> None:
    two = paced(Pace(0.0), 2, fixed_s=0.000_4, each_s=0.0)
    many = paced(Pace(0.0), 1000, fixed_s=0.000_4, each_s=0.0)
    assert two == pytest.approx(many / 2, rel=0.01)


def test_costs_that_fall_with_the_size_are_no_reason_to_wait_longer() -> None:
    """Noise on a busy machine can tilt the line the wrong way."""
    pace = Pace(0.0)
    for number in range(100):
        pace.turned(10, 0.002, number * 0.005)
        pace.turned(20, 0.001, number * 0.005 + 0.002)
    assert pace.fixed_cost_s() <= 0.0016


def test_load_is_forgotten_within_moments() -> None:
    pace = Pace(0.0)
    paced(pace, 100, fixed_s=0.001, each_s=0.0)
    later = 1.0 + 20 * WINDOW_S
    pace.turned(1, 0.001, later)
    assert pace.next_batch == pytest.approx(later, abs=1e-5)
