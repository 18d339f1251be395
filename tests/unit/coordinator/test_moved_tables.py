"""Calls about tables that move to another shard."""

from __future__ import annotations

from coordinator.shards.bounds import AnswerBudget, Bounds
from coordinator.shards.router import SWEEP_INTERVAL_S, Router
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto import errors
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access
from tests.unit.coordinator.router_bench import N1, REQUEST_ID, SHARD

OTHER = ShardId(2)
TABLE_ID = 10_001


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
