"""Calls in flight, in a time that the test makes: replicas that only note what they were sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.shards.bounds import AnswerBudget, Bounds
from coordinator.shards.router import ACKNOWLEDGE_BYTES_MIN, REPEAT_S_MAX, SWEEP_INTERVAL_S, Router
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto import errors
from proto.ids import NodeId, ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.shards.router import CommitPoint, Replica
    from coordinator.shards.shard_call import Target

SHARD = ShardId(1)
N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
REQUEST_ID = b"i" * 16


class Bench:
    """A router with one shard on nodes 1 (local), 2 and 3, all connected, led by node 1 in term 1."""

    def __init__(self, *, leader: int = 1, calls_max: int = 100, bytes_max: int = 1_000) -> None:
        self.now = 100.0
        self.bounds = Bounds(calls_max=calls_max, bytes_max=bytes_max)
        self.held_bytes = 0
        budget = AnswerBudget(lambda: self.held_bytes, bytes_max=ACKNOWLEDGE_BYTES_MIN)
        self.router = Router([SHARD], local=N1, bounds=self.bounds, budget=budget)
        self.replicas: dict[int, Replica] = {}
        self._sent: dict[int, list[ShardCall]] = {}
        self._numbers: dict[int, list[int]] = {}
        self.greeted: list[int] = []
        self.asked: list[int] = []
        self.acknowledged: list[tuple[int, int]] = []
        self.cursors_closed: list[int] = []
        self.told: list[tuple[int, CommitPoint]] = []
        """Whom what was told to be committed."""
        self.ended: list[ShardCall] = []
        for node in (N1, N2, N3):
            self.add(node)
        self.poll()
        if leader:
            self.say(1, term=1, leader=leader)

    def add(self, node: NodeId) -> None:
        self.replicas[node] = self.router.add_replica(SHARD, node)
        self._sent[node], self._numbers[node] = [], []
        self.router.handle_connected(self.replicas[node])

    def poll(self) -> None:
        """Note what the router wants done."""
        outgoing, ended = self.router.poll(self.now)
        for replica, greets, asks, taken_bytes, calls, committed in outgoing:
            self.told += [] if committed is None else [(replica.node, committed)]
            if taken_bytes:
                self.acknowledged.append((replica.node, taken_bytes))
            if greets:
                self.greeted.append(replica.node)
            if asks:
                self.asked.append(replica.node)
            for call in calls:
                if call.method == frames.CURSOR_CLOSE:
                    self.cursors_closed.append(call.cursor)
                else:
                    self._sent[replica.node].append(call)
                    self._numbers[replica.node].append(call.number)
        for call in ended:
            assert call not in self.ended, "ended twice"
            self.ended.append(call)

    def pass_time(self, seconds: float) -> None:
        """As a driver would let it pass."""
        end = self.now + seconds
        while (deadline := self.router.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.poll()
        self.now = end

    def sent(self, node: int) -> list[ShardCall]:
        """What node was sent so far; the numbers are those of then."""
        self.poll()
        return self._sent[node]

    def numbers(self, node: int) -> list[int]:
        self.poll()
        return self._numbers[node]

    def say(self, node: int, *, term: int, leader: int) -> None:
        state = frames.ReplicaState(shard=SHARD, node=node, term=term, leader=leader)
        self.hear(node, frames.Envelope(state=state))

    def hear(self, node: int, envelope: frames.Envelope) -> None:
        self.router.handle_envelope(self.replicas[node], envelope)
        self.poll()

    def reply(self, node: int, number: int, body: bytes = b"", *, cursor: int = 0) -> None:
        self.hear(node, frames.Envelope(replies=[frames.Reply(call=number, body=body, cursor=cursor)]))

    def refuse(
        self,
        node: int,
        number: int,
        error: errors.BoathouseError,
        *,
        term: int,
        leader: int = 0,
        applied: bool = False,
    ) -> None:
        reply = frames.Reply(
            call=number,
            error=error.frame_code,
            detail=error.detail,
            term=term,
            leader=leader,
            applied=applied,
        )
        self.hear(node, frames.Envelope(replies=[reply]))

    def disconnect(self, node: int) -> None:
        self.router.handle_disconnected(self.replicas[node])
        self.poll()

    def write(self, *, timeout_s: float = 5.0, body: bytes = b"w") -> ShardCall:
        return self._submit(
            ShardCall(
                SHARD, LEADER, Access.WRITE, frames.ETCD_PUT, 1, body,
                deadline=self.now + timeout_s, request_id=REQUEST_ID,
            )
        )  # fmt: skip

    def read(
        self, target: Target = NEAREST, *, timeout_s: float = 5.0, cursor: int = 0, body: bytes = b"r"
    ) -> ShardCall:
        return self._submit(
            ShardCall(
                SHARD, target, Access.READ, frames.ETCD_RANGE, 1, body,
                deadline=self.now + timeout_s, linearizable=target is LEADER, cursor=cursor,
            )
        )  # fmt: skip

    def _submit(self, call: ShardCall) -> ShardCall:
        self.router.submit(call, self.now)
        return call


def body_of(call: ShardCall) -> bytes:
    assert call.error is None
    assert call.reply is not None
    return call.reply.body


def is_open(call: ShardCall) -> bool:
    return call.reply is None and call.error is None


def test_a_write_goes_to_the_leader_and_ends_once() -> None:
    bench = Bench()
    call = bench.write()
    [number] = bench.numbers(1)
    bench.reply(1, number, b"done")
    bench.reply(1, number, b"again")
    assert body_of(call) == b"done"
    assert bench.ended == [call]
    assert bench.bounds.calls == 0


def test_what_is_submitted_between_two_polls_leaves_together() -> None:
    bench = Bench()
    calls = [bench.write(), bench.read(LEADER), bench.read(NEAREST)]
    [outgoing] = bench.router.poll(bench.now).outgoing
    assert outgoing.calls == calls


def test_only_the_replica_that_was_asked_can_answer() -> None:
    bench = Bench()
    call = bench.write()
    [number] = bench.numbers(1)
    bench.reply(2, number, b"not asked")
    assert is_open(call)


def test_not_leader_with_a_hint_is_followed_with_the_same_request_id() -> None:
    bench = Bench()
    call = bench.write()
    bench.refuse(1, bench.numbers(1)[0], errors.NotLeader(), term=2, leader=3)
    assert bench.sent(3) == [call]
    assert (call.body, call.request_id) == (b"w", REQUEST_ID)
    bench.reply(3, bench.numbers(3)[0], b"done")
    assert body_of(call) == b"done"


def test_one_refusal_moves_all_calls_and_the_refusals_behind_it_are_ignored() -> None:
    bench = Bench()
    calls = [bench.write() for _ in range(3)]
    refusal = errors.NotLeader().frame_code
    bench.hear(
        1,
        frames.Envelope(
            replies=[
                frames.Reply(call=number, error=refusal, term=2, leader=2) for number in bench.numbers(1)
            ]
        ),
    )
    assert len(bench.sent(2)) == 3
    for number in list(bench.numbers(2)):
        bench.reply(2, number)
    assert set(bench.ended) == set(calls)


def test_a_call_waits_while_nobody_leads_and_leaves_with_the_news() -> None:
    bench = Bench(leader=0)
    bench.write()
    assert not any(bench.sent(node) for node in (1, 2, 3))
    bench.say(2, term=4, leader=2)
    assert len(bench.sent(2)) == 1


def test_who_leads_is_asked_while_calls_wait_for_it_in_case_the_news_was_lost() -> None:
    bench = Bench(leader=0)
    bench.pass_time(5.0)
    assert bench.asked == [], "nothing waits for it"
    bench.router.handle_disconnected(bench.replicas[3])
    bench.write(timeout_s=20.0)
    bench.pass_time(2.5)
    assert bench.asked in ([1, 2] * 2, [1, 2] * 3), "once a second, of who can be reached"
    bench.asked.clear()
    bench.say(1, term=1, leader=1)
    bench.pass_time(5.0)
    assert bench.asked == []
    assert len(bench.sent(1)) == 1


def test_a_refusing_leader_is_not_asked_again_before_the_sweep() -> None:
    bench = Bench()
    bench.write()
    bench.refuse(1, bench.numbers(1)[0], errors.ShuttingDown(), term=1, leader=1)
    assert len(bench.sent(1)) == 1
    bench.pass_time(SWEEP_INTERVAL_S)
    assert len(bench.sent(1)) == 2


def test_a_paused_leader_is_left_when_others_follow_a_new_one() -> None:
    bench = Bench()
    write, linearizable, stale = bench.write(), bench.read(LEADER), bench.read(NEAREST)
    old_numbers = list(bench.numbers(1))
    bench.say(2, term=2, leader=2)
    assert bench.sent(2) == [write, linearizable]
    bench.reply(1, old_numbers[0], b"late")
    assert is_open(write)
    for number in list(bench.numbers(2)):
        bench.reply(2, number, b"new")
    assert body_of(write) == body_of(linearizable) == b"new"
    assert is_open(stale)
    bench.reply(1, old_numbers[2])
    assert bench.ended[-1] is stale


def test_a_broken_link_moves_its_calls_at_once() -> None:
    bench = Bench()
    bench.say(2, term=1, leader=1)
    write, stale, cursor = bench.write(), bench.read(NEAREST), bench.read(N1, cursor=9)
    bench.poll()
    bench.disconnect(1)
    assert isinstance(cursor.error, errors.CursorNotFound)
    assert bench.sent(2) == [stale]
    assert is_open(write)
    bench.say(3, term=2, leader=3)
    assert bench.sent(3) == [write]
    bench.reply(2, bench.numbers(2)[0])
    assert bench.ended == [cursor, stale]


def test_a_replica_is_greeted_whenever_its_link_comes_up() -> None:
    bench = Bench()
    assert bench.greeted == [1, 2, 3]
    bench.disconnect(2)
    bench.router.handle_connected(bench.replicas[2])
    bench.poll()
    assert bench.greeted == [1, 2, 3, 2]


def test_a_call_to_one_replica_that_is_away_fails_at_once() -> None:
    bench = Bench()
    bench.disconnect(3)
    assert isinstance(bench.read(N3).error, errors.NoLeader)
    assert isinstance(bench.read(N3, cursor=1).error, errors.CursorNotFound)
    assert bench.bounds.calls == 0


def test_an_unsent_envelope_is_tried_again_later_and_leaves_no_doubt() -> None:
    bench = Bench()
    call = bench.write()
    [outgoing] = bench.router.poll(bench.now).outgoing
    bench.router.handle_unsent(outgoing)
    assert not bench.sent(1)
    bench.pass_time(SWEEP_INTERVAL_S)
    assert bench.sent(1) == [call]
    bench.refuse(1, bench.numbers(1)[0], errors.NoSpace(), term=1, leader=1)
    assert isinstance(call.error, errors.NoSpace)


def test_what_moves_before_it_was_sent_is_sent_once_and_is_not_in_doubt() -> None:
    bench = Bench()
    call = bench.write()
    bench.say(2, term=2, leader=2)
    assert bench.sent(2) == [call]
    assert not bench.sent(1)
    bench.refuse(2, bench.numbers(2)[0], errors.QueueFull(), term=2, leader=2)
    assert isinstance(call.error, errors.QueueFull)


def test_a_cursor_that_nobody_waits_for_any_more_is_closed() -> None:
    bench = Bench()
    abandoned, late, crossing = bench.read(), bench.read(timeout_s=0.01), bench.read()
    first, second, third = bench.numbers(1)
    bench.router.cancel(abandoned)
    bench.reply(1, first, cursor=7)
    bench.pass_time(SWEEP_INTERVAL_S)
    assert isinstance(late.error, errors.ReadTimedOut)
    bench.reply(1, second, cursor=8)
    bench.reply(1, third, cursor=9)
    bench.router.cancel(crossing)
    bench.poll()
    assert bench.cursors_closed == [7, 8, 9]


def disconnected(bench: Bench) -> None:
    bench.disconnect(1)
    bench.say(2, term=2, leader=2)


def another_leader(bench: Bench) -> None:
    bench.say(2, term=2, leader=2)


def leadership_lost(bench: Bench) -> None:
    bench.refuse(1, bench.numbers(1)[0], errors.LeaderLost(), term=2, leader=2)


@pytest.mark.parametrize("doubt", [disconnected, another_leader, leadership_lost])
@pytest.mark.parametrize("refusal", [errors.NoSpace, errors.QueueFull])
def test_a_refusal_does_not_deny_what_an_earlier_leader_may_have_proposed(
    doubt: Callable[[Bench], None], refusal: type[errors.BoathouseError]
) -> None:
    bench = Bench()
    write = bench.write()
    bench.poll()
    doubt(bench)
    bench.refuse(2, bench.numbers(2)[0], refusal("node 2"), term=2, leader=2)
    # The same id may find room, or its answer, in what time is left.
    assert is_open(write)
    bench.pass_time(SWEEP_INTERVAL_S)
    bench.reply(2, bench.numbers(2)[1], b"done")
    assert body_of(write) == b"done"


@pytest.mark.parametrize("refusal", [errors.NoSpace, errors.QueueFull])
def test_a_write_in_doubt_that_finds_no_room_in_time_is_of_unknown_fate(
    refusal: type[errors.BoathouseError],
) -> None:
    bench = Bench()
    write = bench.write(timeout_s=1.0)
    bench.poll()
    another_leader(bench)
    while is_open(write):
        bench.refuse(2, bench.numbers(2)[-1], refusal(), term=2, leader=2)
        bench.pass_time(SWEEP_INTERVAL_S)
    assert isinstance(write.error, errors.TimedOut)
    assert 9 <= len(bench.sent(2)) <= 11


_AT_THE_DOOR = [errors.InvalidAuthToken, errors.UserEmpty, errors.CorruptAlarm, errors.MethodNotServed]


@pytest.mark.parametrize("refusal", _AT_THE_DOOR)
def test_a_write_in_doubt_that_is_refused_for_good_is_of_unknown_fate(
    refusal: type[errors.BoathouseError],
) -> None:
    """The user's token was dropped since, for example: who logs in again and repeats the write under another id would
    have it twice."""
    bench = Bench()
    write = bench.write()
    bench.poll()
    disconnected(bench)
    bench.refuse(2, bench.numbers(2)[0], refusal(), term=2, leader=2)
    assert isinstance(write.error, errors.LeaderLost)


@pytest.mark.parametrize("refusal", [*_AT_THE_DOOR, errors.QuotaExceeded, errors.EmptyKey])
def test_what_the_log_says_of_a_write_in_doubt_is_certain(refusal: type[errors.BoathouseError]) -> None:
    bench = Bench()
    write = bench.write()
    bench.poll()
    disconnected(bench)
    bench.refuse(2, bench.numbers(2)[0], refusal(), term=2, leader=2, applied=True)
    assert type(write.error) is refusal


def test_a_write_in_doubt_that_meets_itself_as_another_users_is_of_unknown_fate() -> None:
    """Authentication was turned off since: the log knows the id with a user, and the replica nobody."""
    bench = Bench()
    write = bench.write()
    bench.poll()
    disconnected(bench)
    bench.refuse(2, bench.numbers(2)[0], errors.RequestIdReused(), term=2, leader=2, applied=True)
    assert isinstance(write.error, errors.LeaderLost)


def test_a_refusal_after_a_refusal_is_certain() -> None:
    bench = Bench()
    write = bench.write()
    bench.refuse(1, bench.numbers(1)[0], errors.NotLeader(), term=2, leader=2)
    bench.refuse(2, bench.numbers(2)[0], errors.NoSpace("node 2"), term=2, leader=2)
    assert isinstance(write.error, errors.NoSpace)


def test_a_write_is_not_repeated_once_its_id_may_be_forgotten() -> None:
    bench = Bench()
    doubtful = bench.write(timeout_s=3 * REPEAT_S_MAX)
    bench.poll()
    bench.disconnect(1)
    waiting = bench.write(timeout_s=3 * REPEAT_S_MAX)
    bench.pass_time(REPEAT_S_MAX - 1)
    assert is_open(doubtful)
    bench.pass_time(1 + 2 * SWEEP_INTERVAL_S)
    assert isinstance(doubtful.error, errors.TimedOut)
    bench.say(2, term=2, leader=2)
    assert bench.sent(2) == [waiting], "this one was never sent, and is certain"


def test_a_write_that_is_on_its_way_for_long_is_not_sent_again_when_its_link_breaks() -> None:
    bench = Bench()
    write = bench.write(timeout_s=3 * REPEAT_S_MAX)
    bench.poll()
    bench.pass_time(2 * REPEAT_S_MAX)
    assert is_open(write)
    bench.disconnect(1)
    assert isinstance(write.error, errors.TimedOut)


def test_a_process_that_was_stopped_sends_no_write_again_by_the_time_before() -> None:
    """What it hears first when it goes on is who leads by now."""
    bench = Bench()
    write, read = bench.write(timeout_s=3 * REPEAT_S_MAX), bench.read(LEADER, timeout_s=3 * REPEAT_S_MAX)
    bench.poll()
    bench.now += 2 * REPEAT_S_MAX
    bench.say(2, term=2, leader=2)
    assert bench.sent(2) == [read]
    assert isinstance(write.error, errors.TimedOut)


def test_at_the_deadline_a_write_is_of_unknown_fate_and_a_read_is_not() -> None:
    bench = Bench(leader=0)
    write, read = bench.write(timeout_s=1.0), bench.read(LEADER, timeout_s=1.0)
    bench.pass_time(0.99)
    assert not bench.ended
    bench.pass_time(SWEEP_INTERVAL_S + 0.01)
    assert isinstance(write.error, errors.TimedOut)
    assert isinstance(read.error, errors.ReadTimedOut)
    assert bench.bounds.calls == bench.bounds.size_bytes == 0


def test_time_does_not_matter_without_calls() -> None:
    bench = Bench()
    assert bench.router.next_deadline() is None
    bench.write()
    assert bench.router.next_deadline() is not None
    bench.reply(1, bench.numbers(1)[0])
    bench.pass_time(2 * SWEEP_INTERVAL_S)
    assert bench.router.next_deadline() is None


def test_lost_leadership_is_retried_and_other_errors_are_not() -> None:
    bench = Bench()
    lost, refused = bench.write(), bench.write()
    first, second = bench.numbers(1)
    bench.refuse(1, second, errors.NoSpace("node 1"), term=1, leader=1)
    assert isinstance(refused.error, errors.NoSpace)
    assert refused.error.detail == "node 1"
    bench.refuse(1, first, errors.LeaderLost(), term=2, leader=2)
    assert bench.sent(2) == [lost]
    assert is_open(lost)


def test_an_error_of_another_version_fails_its_call() -> None:
    bench = Bench()
    call = bench.write()
    reply = frames.Reply(call=bench.numbers(1)[0], error=60_000, detail="from the future")
    bench.hear(1, frames.Envelope(replies=[reply]))
    assert isinstance(call.error, errors.InvariantBroken)
    assert "60000" in call.error.detail


def test_what_is_in_flight_is_bounded_in_number_and_bytes() -> None:
    bench = Bench(calls_max=2, bytes_max=10)
    bench.write(body=b"12345678")
    with pytest.raises(errors.QueueFull):
        bench.write(body=b"123")
    bench.write(body=b"1")
    with pytest.raises(errors.QueueFull):
        bench.write(body=b"")
    for number in list(bench.numbers(1)):
        bench.reply(1, number)
    bench.write(body=b"1234567890")


def test_a_call_whose_client_left_is_neither_resent_nor_kept() -> None:
    bench = Bench(bytes_max=1)
    call = bench.write()
    bench.poll()
    bench.router.cancel(call)
    assert bench.bounds.calls == bench.bounds.size_bytes == 0
    bench.say(2, term=2, leader=2)
    assert not bench.sent(2)
    never_sent = bench.write()
    bench.router.cancel(never_sent)
    assert not bench.sent(2)
    assert not bench.ended


def test_closing_fails_what_is_left_and_refuses_the_rest() -> None:
    bench = Bench()
    write, read = bench.write(), bench.read()
    bench.router.close()
    bench.poll()
    assert isinstance(write.error, errors.TimedOut)
    assert isinstance(read.error, errors.ShuttingDown)
    assert bench.ended == [write, read]
    with pytest.raises(errors.ShuttingDown):
        bench.write()


def test_a_read_that_a_damaged_replica_refuses_goes_to_another() -> None:
    bench = Bench(leader=2)
    call = bench.read()
    bench.refuse(1, bench.numbers(1)[0], errors.Corrupt("differs"), term=1, leader=2)
    assert bench.sent(2) == [call]
    bench.reply(2, bench.numbers(2)[0], b"sound")
    assert body_of(call) == b"sound"


def test_a_read_that_every_replica_refuses_as_damaged_fails() -> None:
    bench = Bench(leader=2)
    call = bench.read()
    bench.refuse(1, bench.numbers(1)[-1], errors.Corrupt("in doubt"), term=1, leader=2)
    bench.refuse(2, bench.numbers(2)[-1], errors.Corrupt("in doubt"), term=1, leader=2)
    bench.refuse(1, bench.numbers(1)[-1], errors.Corrupt("in doubt"), term=1, leader=2)
    assert isinstance(call.error, errors.Corrupt)
    assert sum(len(bench.sent(node)) for node in (1, 2, 3)) == 3


def test_replicas_come_and_go() -> None:
    bench = Bench()
    write, pinned = bench.write(), bench.read(N1)
    bench.poll()
    bench.router.remove_replica(bench.replicas.pop(1))
    bench.poll()
    assert isinstance(pinned.error, errors.NoLeader)
    n4 = NodeId(4)
    bench.add(n4)
    bench.say(4, term=2, leader=4)
    assert bench.sent(4) == [write]
    assert bench.router.routes(SHARD).nodes == (2, 3, 4)
    assert not is_open(bench.read(N1))


LARGE = b"x" * ACKNOWLEDGE_BYTES_MIN


def test_a_replica_is_told_what_was_taken_of_its_answers() -> None:
    bench = Bench()
    for _ in range(3):
        bench.read()
    first, second, third = bench.numbers(1)
    bench.reply(1, first, b"x" * 1000)
    assert not bench.acknowledged
    bench.reply(1, second, LARGE)
    assert bench.acknowledged == [(1, 1000 + len(LARGE))]
    # Few bytes travel with the next request, also those of an answer that nobody waits for any more.
    bench.reply(1, third, b"x" * 7)
    bench.reply(1, third, b"x" * 3)
    bench.read()
    bench.poll()
    assert bench.acknowledged[1:] == [(1, 10)]


def test_bodies_beside_the_envelope_count_once() -> None:
    bench = Bench()
    bench.read()
    reply = frames.Reply(call=bench.numbers(1)[0], body=LARGE, attachment=1)
    bench.router.handle_envelope(bench.replicas[1], frames.Envelope(replies=[reply]), len(LARGE))
    bench.poll()
    assert bench.acknowledged == [(1, len(LARGE))]


def test_nothing_is_acknowledged_while_clients_have_too_much_to_take() -> None:
    bench = Bench()
    bench.read()
    bench.held_bytes = ACKNOWLEDGE_BYTES_MIN
    bench.reply(1, bench.numbers(1)[0], LARGE)
    late = bench.read(timeout_s=60)
    assert bench.sent(1)[-1] is late, "requests go on: the replica keeps them"
    bench.pass_time(10 * SWEEP_INTERVAL_S)
    assert not bench.acknowledged
    bench.held_bytes -= 1
    bench.pass_time(SWEEP_INTERVAL_S)
    assert bench.acknowledged == [(1, len(LARGE))]


def test_a_replica_counts_anew_for_each_connection() -> None:
    bench = Bench()
    bench.read()
    bench.reply(1, bench.numbers(1)[0], b"x" * 10)
    bench.disconnect(1)
    bench.router.handle_connected(bench.replicas[1])
    bench.poll()
    assert not bench.acknowledged


# ---- tables that move ---------------------------------------------------------------------------------------------


class TwoShards:
    """A router with two shards, each a leader on node 1."""

    def __init__(self) -> None:
        self.now = 100.0
        bounds = Bounds(calls_max=100, bytes_max=1_000)
        self.router = Router(
            [SHARD, OTHER], local=N1, bounds=bounds, budget=AnswerBudget(lambda: 0, bytes_max=1)
        )
        self.replicas = {shard: self.router.add_replica(shard, N1) for shard in (SHARD, OTHER)}
        for shard, replica in self.replicas.items():
            self.router.handle_connected(replica)
            state = frames.ReplicaState(shard=shard, node=1, term=1, leader=1)
            self.router.handle_envelope(replica, frames.Envelope(state=state))
        self.poll()

    def poll(self) -> tuple[list[tuple[ShardId, ShardCall]], list[ShardCall]]:
        outgoing, ended = self.router.poll(self.now)
        return [(each.replica.shard, call) for each in outgoing for call in each.calls], ended

    def submit(self, call: ShardCall) -> ShardId:
        """Where it goes."""
        self.router.submit(call, self.now)
        ((shard, _),), _ = self.poll()
        return shard

    def refuse(
        self, call: ShardCall, error: errors.BoathouseError, *, term: int = 1
    ) -> tuple[list[ShardId], list[ShardCall]]:
        """Where it goes then, and what has ended."""
        reply = frames.Reply(
            call=call.number, error=error.frame_code, detail=error.detail, term=term, leader=1
        )
        self.router.handle_envelope(self.replicas[call.shard], frames.Envelope(replies=[reply]))
        sent, ended = self.poll()
        return [shard for shard, _ in sent], ended


OTHER = ShardId(2)
TABLE_ID = 10_001


def a_write(now: float, *, in_shard: bool = False) -> ShardCall:
    return ShardCall(
        SHARD,
        LEADER,
        Access.WRITE,
        frames.ETCD_PUT,
        TABLE_ID,
        b"",
        deadline=now + 5,
        request_id=REQUEST_ID,
        in_shard=in_shard,
    )


def test_a_call_follows_its_table_and_the_next_ones_go_there_at_once() -> None:
    two = TwoShards()
    call = a_write(two.now)
    assert two.submit(call) == SHARD
    assert two.refuse(call, errors.TableElsewhere("2")) == ([OTHER], [])
    assert call.shard == two.router.shard_of(TABLE_ID, SHARD) == OTHER
    assert call.request_id == REQUEST_ID
    assert two.submit(a_write(two.now)) == OTHER
    assert two.submit(a_write(two.now, in_shard=True)) == SHARD


def test_a_term_is_no_lower_than_in_the_shards_that_the_table_has_left() -> None:
    """However little of them was shown here: clients come from other coordinators."""
    two = TwoShards()
    assert two.router.term_shown(TABLE_ID, SHARD, 4) == 4
    call = a_write(two.now)
    two.submit(call)
    two.refuse(call, errors.TableElsewhere("2"), term=6)
    assert two.router.term_shown(TABLE_ID, OTHER, 1) == 6
    assert two.router.term_shown(TABLE_ID, SHARD, 0) == 6, "who has not heard of the move"
    assert two.router.term_shown(TABLE_ID, OTHER, 7) == 7
    assert two.router.term_shown(TABLE_ID, SHARD, 0) == 7
    assert two.router.term_shown(TABLE_ID + 1, OTHER, 0) == 7
    assert two.router.term_shown(TABLE_ID + 1, SHARD, 0) == 6


def test_a_call_waits_for_a_table_that_is_arriving() -> None:
    two = TwoShards()
    call = a_write(two.now)
    two.submit(call)
    assert not two.router.take_waited()
    assert two.refuse(call, errors.TableArriving()) == ([], [])
    assert two.router.take_waited()
    assert not two.router.take_waited()
    two.now += SWEEP_INTERVAL_S
    assert [shard for shard, _ in two.poll()[0]] == [SHARD]
    two.now += 5.0
    assert [type(ended.error) for ended in two.poll()[1]] == [errors.TimedOut]


def test_a_call_that_is_sent_round_in_circles_rests_between() -> None:
    two = TwoShards()
    call = a_write(two.now)
    two.submit(call)
    went = [two.refuse(call, errors.TableElsewhere(str(3 - call.shard)))[0] for _ in range(4)]
    assert went == [[OTHER], [SHARD], [OTHER], []]
    two.now += SWEEP_INTERVAL_S
    assert len(two.poll()[0]) == 1


def test_a_call_for_one_shard_is_told_where_its_table_is() -> None:
    two = TwoShards()
    call = a_write(two.now, in_shard=True)
    two.submit(call)
    assert two.refuse(call, errors.TableElsewhere("2")) == ([], [call])
    assert isinstance(call.error, errors.TableElsewhere)
    assert two.router.shard_of(TABLE_ID, SHARD) == SHARD


def test_a_shard_that_the_cluster_file_does_not_have_is_named() -> None:
    two = TwoShards()
    call = a_write(two.now)
    two.submit(call)
    assert two.refuse(call, errors.TableElsewhere("9")) == ([], [call])
    assert isinstance(call.error, errors.NoLeader)
    assert "shard 9" in call.error.detail


def test_who_follows_a_table_asks_where_he_followed_it() -> None:
    two = TwoShards()
    write = a_write(two.now)
    two.submit(write)
    two.refuse(write, errors.TableElsewhere("2"))
    news = ShardCall(
        SHARD, NEAREST, Access.REPLICA, frames.TABLE_CHANGES, TABLE_ID, b"", deadline=two.now + 5
    )
    assert two.submit(news) == SHARD
    assert two.refuse(news, errors.TableElsewhere("2")) == ([OTHER], [])
