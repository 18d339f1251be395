"""A replica's turn with everything real but sockets, time and peers: what each call is told, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.machine import FORMAT
from shardworker.raft import Entry, EntryKind, LogIndex, MessageKind, Role, Term
from shardworker.replica.disk_space import FULL_ELECTIONS
from shardworker.replica.integrity import SCRUB_INTERVAL_S
from shardworker.replica.outgoing import ENVELOPE_BYTES_MAX
from shardworker.replica.replica import APPLY_ANSWER_BYTES_MAX
from shardworker.store import LogEnd
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import (
    CLIENT,
    KEYS,
    TABLE,
    VALUE,
    Bench,
    everything,
    everything_deleted,
    iteration,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def test_an_iteration_that_its_client_leaves_ends_without_a_complaint(alone: Bench) -> None:
    """Python reports what fails in an abandoned generator on stderr only; pytest makes an error of it."""
    cursor = alone.answer(alone.ask(frames.REGATTA_ITERATE, iteration())).cursor
    assert cursor
    alone.answer(alone.ask(frames.CURSOR_CLOSE, cursor=cursor))
    with pytest.raises(errors.CursorNotFound):
        alone.answer(alone.ask(frames.CURSOR_NEXT, cursor=cursor))


def test_a_read_that_ends_when_the_tables_are_known_to_be_wrong_is_refused(alone: Bench) -> None:
    alone.jobs.may_end = False
    read = alone.ask(frames.ETCD_RANGE, everything())
    assert read not in alone.replies
    alone.store.connection.execute(f"UPDATE t{TABLE}_rev SET crc = crc + 1")  # noqa: S608 - a number
    for _ in range(SCRUB_INTERVAL_S * 1000 // alone.cluster.raft.tick_ms):
        alone.tick()
    alone.jobs.may_end = True  # the read's first, then that of the scrub
    alone.replica.turn()
    with pytest.raises(errors.Corrupt, match="checksum"):
        alone.answer(read)


def test_a_read_that_ends_in_doubt_is_refused(led: Bench) -> None:
    led.jobs.may_end = False
    read = led.ask(frames.ETCD_RANGE, everything())
    assert read not in led.replies
    doubt = frames.DigestVerdict(
        sender=2, term=led.core.term, outcome=frames.DigestVerdict.DOUBT, index=led.store.applied_index
    )
    led.replica.handle(b"peer", frames.Envelope(verdict=doubt))
    led.jobs.may_end = True
    led.replica.turn()
    with pytest.raises(errors.Corrupt, match="no majority agrees"):
        led.answer(read)


def test_a_message_that_breaks_the_rules_is_dropped_and_counted(led: Bench) -> None:
    led.lead()
    term = led.core.term
    for kind in (MessageKind.HEARTBEAT, MessageKind.SNAPSHOT):
        led.hear(message(kind, 2, term))
    assert led.core.role is Role.LEADER
    assert led.replica.status().statistics["raft_messages_refused"] == 2


def test_a_full_replica_that_comes_to_lead_hands_over(led: Bench) -> None:
    led.disk.free = 0
    led.tick()
    assert led.replica.status().no_space
    led.lead()
    for _ in range(FULL_ELECTIONS * led.cluster.raft.election_ticks + 1):  # one more: peers have to answer
        led.tick()
        led.hear(*(message(MessageKind.HEARTBEAT_REPLY, peer, led.core.term) for peer in (2, 3)))
    asked = [node for node, one in led.sent if one.kind is MessageKind.TIMEOUT_NOW]
    assert asked == [2]


def test_a_nearly_full_disk_takes_what_frees_space_and_then_everything(alone: Bench) -> None:
    least = alone.cluster.store.disk_free_bytes_min
    one = etcd.DeleteRangeRequest(key=b"1")
    put = etcd.PutRequest(key=b"new", value=b"v")
    get = etcd.RangeRequest(key=b"1")

    def txn(*ops: etcd.RequestOp) -> bytes:
        return etcd.TxnRequest(success=ops).SerializeToString()

    alone.disk.free = least - 1
    alone.tick()
    refused = [
        (frames.ETCD_PUT, put.SerializeToString()),
        (frames.ETCD_TXN, txn(etcd.RequestOp(request_put=put))),
        (frames.ETCD_TXN, txn(etcd.RequestOp(request_delete_range=one), etcd.RequestOp(request_put=put))),
        (frames.ETCD_TXN, txn(etcd.RequestOp())),
        (frames.ETCD_TXN, b"\xff"),
    ]
    for number, (method, body) in enumerate(refused):
        with pytest.raises(errors.NoSpace):
            alone.answer(alone.ask(method, body, request_id=b"refused-%08d" % number))
    nested = etcd.TxnRequest(failure=[etcd.RequestOp(request_delete_range=one)])
    taken = [
        (frames.ETCD_TXN, txn(etcd.RequestOp(request_range=get), etcd.RequestOp(request_delete_range=one))),
        (frames.ETCD_TXN, txn(etcd.RequestOp(request_txn=nested))),
        (frames.ETCD_DELETE_RANGE, everything_deleted()),
    ]
    for number, (method, body) in enumerate(taken):
        alone.answer(alone.ask(method, body, request_id=b"taken---%08d" % number))
    revision = alone.answer(alone.ask(frames.ETCD_RANGE, everything(), linearizable=True)).revision
    compaction = etcd.CompactionRequest(revision=revision, physical=True).SerializeToString()
    alone.ask(frames.ETCD_COMPACT, compaction, request_id=b"compaction------")
    wait = 0
    while alone.store.reusable_bytes() < KEYS * len(VALUE) // 2 and wait < 100:
        wait += 1
        alone.tick()
    # The file is as long as before, and the disk as full.
    assert alone.store.reusable_bytes() >= KEYS * len(VALUE) // 2
    alone.disk.free = 2 * least - alone.store.reusable_bytes() + 8192
    alone.tick()
    alone.answer(alone.ask(frames.ETCD_PUT, put.SerializeToString(), request_id=b"taken at last---"))


def test_free_pages_count_also_where_only_what_was_given_up_finds_no_place(alone: Bench) -> None:
    """More space on the disk must not be worse than less."""
    least = alone.cluster.store.disk_free_bytes_min
    alone.tick()
    held_bytes = alone.store.spare.held_bytes
    assert held_bytes
    alone.answer(alone.ask(frames.ETCD_DELETE_RANGE, everything_deleted(), request_id=bytes(16)))
    compaction = etcd.CompactionRequest(revision=KEYS + 2, physical=True).SerializeToString()
    alone.answer(alone.ask(frames.ETCD_COMPACT, compaction, request_id=b"compaction------"))
    alone.disk.free = 0
    alone.tick()
    alone.store.spare.give_up()
    free_bytes = 2 * least + held_bytes - 8192
    assert alone.store.reusable_bytes() > 8192
    alone.disk.free = free_bytes
    alone.tick()
    assert not alone.replica.status().no_space


def test_what_is_said_to_another_replica_is_not_heard(tmp_path: Path) -> None:
    """A peer that still has an address of old may reach the wrong one. The entry here is a deposed leader's, and the
    commit index what node 3 is known to have."""
    bench = Bench(tmp_path, members(1, 2, 3))
    bench.lead()
    spec = frames.TableSpec(id=TABLE, name="never", history=-1)
    bench.ask(frames.TABLE_CREATE, spec.SerializeToString(), request_id=bytes(16))
    last = bench.core.log.last_index
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1, to=3, commit=last))
    assert bench.core.log.commit < last
    bench.store.close()


def test_a_turn_does_not_collect_the_answers_of_all_that_waits_to_be_applied(led: Bench) -> None:
    """Each entry here is small, and its answers are all that one transaction may collect."""
    core, previous = led.core, led.core.log.last_index
    body = etcd.TxnRequest(
        success=[etcd.RequestOp(request_range=etcd.RangeRequest(key=b"0", range_end=b"\0"))]
    ).SerializeToString()
    count = APPLY_ANSWER_BYTES_MAX // (KEYS * len(VALUE))

    def batch(entry: int) -> bytes:
        ids = [(entry * count + number).to_bytes(16, "little") for number in range(count)]
        commands = [
            frames.Command(method=frames.ETCD_TXN, table_id=TABLE, body=body, request_id=request_id)
            for request_id in ids
        ]
        return frames.CommandBatch(time_ms=2_000, format=FORMAT, commands=commands).SerializeToString()

    entries = tuple(
        Entry(core.term, LogIndex(previous + 1 + n), EntryKind.COMMANDS, batch(n)) for n in range(3)
    )
    append = message(
        MessageKind.APPEND,
        2,
        core.term,
        index=previous,
        log_term=core.log.last_term,
        entries=entries,
        commit=entries[-1].index,
    )
    led.hear(append)
    for entry in entries:
        assert led.store.applied_index == entry.index
        assert led.replica.has_work() == (entry is not entries[-1])
        led.replica.turn()
    assert led.store.log.last_index() == entries[-1].index


def test_many_answers_of_one_turn_leave_in_more_than_one_envelope(alone: Bench) -> None:
    value = bytes(200 << 10)  # too small to travel beside the envelope
    alone.write(frames.ETCD_PUT, etcd.PutRequest(key=b"k", value=value).SerializeToString())
    envelope = frames.Envelope()
    calls = range(1_000, 1_000 + 2 * ENVELOPE_BYTES_MAX // len(value))
    body = etcd.RangeRequest(key=b"k").SerializeToString()
    for call in calls:
        envelope.requests.add(call=call, method=frames.ETCD_RANGE, table_id=TABLE, body=body)
    alone.replica.handle(CLIENT, envelope)
    alone.replica.turn()
    for call in calls:
        assert len(alone.answer(call).body) > len(value)
    assert ENVELOPE_BYTES_MAX - len(value) < alone.largest_answers_bytes < ENVELOPE_BYTES_MAX + len(value)


def test_a_leader_says_whether_anybody_can_take_over(alone: Bench, led: Bench) -> None:
    with pytest.raises(errors.NoSuccessor):
        alone.answer(alone.ask(frames.TRANSFER_LEADER))
    led.lead()
    led.answer(led.ask(frames.TRANSFER_LEADER))
    assert [node for node, one in led.sent if one.kind is MessageKind.TIMEOUT_NOW] == [2]


def test_a_coordinator_hears_who_leads_whenever_it_said_hello(tmp_path: Path) -> None:
    """Also if it did while this replica, on an empty disk, was waiting for what the others hold."""
    bench = Bench(tmp_path, members(1, 2, 3), has_begun=False)
    bench.replica.handle(CLIENT, frames.Envelope(hello=frames.Hello(node=1)))
    bench.replica.turn()
    with pytest.raises(errors.NotLeader, match="its disk is empty"):
        bench.answer(bench.ask(frames.ETCD_RANGE, everything()))
    for peer in (2, 3):
        empty = frames.CensusAnswer(sender=peer, life=1, waits=True)
        bench.replica.handle(b"peer", frames.Envelope(census_answer=empty))
    bench.replica.turn()
    bench.hear(message(MessageKind.HEARTBEAT, 2, 1))
    assert [(state.term, state.leader) for state in bench.states] == [(0, 0), (1, 2)]
    bench.store.close()


class Announcing(Bench):
    """Notes how much of the log was durable when it said who leads."""

    durable: dict[int, int]
    """Its last index by who leads, 0 for nobody."""

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        super().send_client(identity, envelope, attachments)
        if envelope.HasField("state"):
            self.durable.setdefault(envelope.state.leader, self.store.state.last_index)


def test_coordinators_hear_of_a_new_leader_before_its_first_sync(tmp_path: Path) -> None:
    bench = Announcing(tmp_path, members(1, 2, 3))
    bench.durable = {}
    bench.replica.handle(CLIENT, frames.Envelope(hello=frames.Hello(node=1)))
    bench.lead()
    assert bench.durable == {0: 0, 1: 0}
    assert bench.store.state.last_index == 1
    bench.store.close()


def transfer(target: int) -> bytes:
    return frames.TransferLeader(target=target).SerializeToString()


def test_a_leader_hands_over_to_whom_it_is_told(led: Bench) -> None:
    led.lead()
    led.answer(led.ask(frames.TRANSFER_LEADER, transfer(1)))  # it leads already
    assert [one for _, one in led.sent if one.kind is MessageKind.TIMEOUT_NOW] == []
    led.answer(led.ask(frames.TRANSFER_LEADER, transfer(3)))
    assert [node for node, one in led.sent if one.kind is MessageKind.TIMEOUT_NOW] == [3]


def waiting(target: int) -> bytes:
    return frames.TransferLeader(target=target, wait=True).SerializeToString()


def test_who_waits_for_a_transfer_is_answered_when_the_target_leads(led: Bench) -> None:
    led.lead()
    led.answer(led.ask(frames.TRANSFER_LEADER, waiting(1)))  # it leads already
    call = led.ask(frames.TRANSFER_LEADER, waiting(3))
    term = led.core.term
    led.hear(
        message(MessageKind.VOTE, 3, term + 1, index=led.core.log.last_index, log_term=term, forced=True)
    )
    assert call not in led.replies
    led.hear(message(MessageKind.HEARTBEAT, 3, term + 1))
    led.answer(call)


def test_who_waits_for_a_transfer_hears_that_somebody_else_leads(led: Bench) -> None:
    led.lead()
    call = led.ask(frames.TRANSFER_LEADER, waiting(3))
    led.hear(message(MessageKind.HEARTBEAT, 2, led.core.term + 1))
    with pytest.raises(errors.TransferTooSlow, match="node 2 leads"):
        led.answer(call)


def test_who_waits_for_a_transfer_hears_that_the_target_did_not_take_over(led: Bench) -> None:
    led.lead()
    call = led.ask(frames.TRANSFER_LEADER, waiting(3))
    for _ in range(led.cluster.raft.election_ticks - 1):
        led.tick()
    assert call not in led.replies
    for peer in (2, 3):
        led.hear(message(MessageKind.HEARTBEAT_REPLY, peer, led.core.term))
    led.tick()
    with pytest.raises(errors.TransferTooSlow, match="node 1 leads"):
        led.answer(call)


def test_nobody_leads_who_does_not_vote(tmp_path: Path) -> None:
    bench = Bench(tmp_path, members(1, 2, learners=(3,)))
    bench.lead()
    for target, why in ((3, "node 3 is a learner of shard 2"), (4, "node 4 has no replica of shard 2")):
        with pytest.raises(errors.BadTransferee, match=why):
            bench.answer(bench.ask(frames.TRANSFER_LEADER, transfer(target)))
    with pytest.raises(errors.MalformedRequest):
        bench.answer(bench.ask(frames.TRANSFER_LEADER, b"\xff"))
    assert [one for _, one in bench.sent if one.kind is MessageKind.TIMEOUT_NOW] == []
    bench.store.close()


@pytest.mark.parametrize("unknown", [frames.RaftMessage(kind=99), frames.RaftEntry(kind=99)])
def test_what_a_newer_peer_says_is_lost_and_the_rest_is_heard(
    led: Bench, unknown: frames.RaftMessage | frames.RaftEntry
) -> None:
    """An entry that this version could not apply is neither stored nor acknowledged."""
    last, term = led.core.log.last_index, led.core.term
    append = raft_frames.encode_message(
        message(MessageKind.APPEND, 2, term, index=last, log_term=led.core.log.term(last), commit=last + 1)
    )
    if isinstance(unknown, frames.RaftEntry):
        append.entries.add(index=last + 1, term=term, kind=unknown.kind)
    else:
        append.kind = unknown.kind
    heard = raft_frames.encode_message(message(MessageKind.HEARTBEAT, 2, term, context=77))
    led.sent.clear()
    led.replica.handle(b"peer", frames.Envelope(raft=[append, heard]))
    led.replica.turn()
    assert led.core.log.last_index == last
    assert [(one.kind, one.context) for _, one in led.sent] == [(MessageKind.HEARTBEAT_REPLY, 77)]


def test_what_the_log_refuses_is_told_apart_from_what_the_door_does(alone: Bench) -> None:
    put = etcd.PutRequest(key=b"k").SerializeToString()
    told = alone.ask(
        frames.ETCD_PUT, etcd.PutRequest(key=b"k", lease=7).SerializeToString(), request_id=bytes(16)
    )
    assert alone.replies[told].applied
    door = alone.ask(frames.ETCD_PUT, put, request_id=b"too short")
    assert alone.replies[door].error
    assert not alone.replies[door].applied


def test_a_deposed_leader_is_rebuilt_without_what_it_never_committed(tmp_path: Path) -> None:
    """Its log ended behind all that the shard has, and nobody writes there any more."""
    bench = Bench(tmp_path, members(1, 2, 3))
    bench.lead()
    for number in range(5):
        bench.ask(frames.ETCD_PUT, request_id=bytes(15) + b"%d" % number)
    old_term, last = bench.core.term, bench.core.log.last_index
    bench.store.begin_rebuild("it differs")
    bench.store.close()
    bench = Bench(tmp_path, members(1, 2, 3))
    assert bench.store.rebuild is not None
    assert bench.store.rebuild.until == LogEnd(old_term, last)
    for index, term in enumerate((old_term, old_term + 1), start=1):
        with pytest.raises(errors.Corrupt, match="being rebuilt"):
            bench.answer(bench.ask(frames.ETCD_RANGE, everything()))
        entries = (Entry(Term(term), LogIndex(index), EntryKind.COMMANDS, b""),)
        log_term, prior = bench.core.log.last_term, index - 1
        bench.hear(
            message(
                MessageKind.APPEND,
                2,
                old_term + 1,
                index=prior,
                log_term=log_term,
                entries=entries,
                commit=index,
            )
        )
    assert bench.store.applied_index < last
    assert bench.store.rebuild is None
    with pytest.raises(errors.TableNotFound):
        bench.answer(bench.ask(frames.ETCD_RANGE, everything()))
    bench.store.close()
