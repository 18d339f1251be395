"""A follower that is told by a coordinator what is committed; its leader is silent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import FORMAT
from shardworker.raft import Entry, EntryKind, LogIndex, MessageKind
from tests.unit.raft.lab import message
from tests.unit.shardworker.bench import CLIENT, TABLE, Bench

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL = 900


def put(bench: Bench) -> Entry:
    """What the leader has of the table behind this replica's log."""
    body = etcd.PutRequest(key=b"new").SerializeToString()
    command = frames.Command(method=frames.ETCD_PUT, table_id=TABLE, body=body, request_id=b"n" * 16)
    batch = frames.CommandBatch(time_ms=2_000, format=FORMAT, commands=[command])
    log = bench.core.log
    return Entry(bench.core.term, LogIndex(log.last_index + 1), EntryKind.COMMANDS, batch.SerializeToString())


def append(bench: Bench, entry: Entry) -> None:
    """The leader sends it, and not that it is committed."""
    log = bench.core.log
    bench.hear(
        message(
            MessageKind.APPEND, 2, entry.term, index=log.last_index, log_term=log.last_term, entries=(entry,)
        )
    )


def read(bench: Bench, entry: Entry, **told: int) -> None:
    """Somebody reads who was shown the revision that the entry makes, and tells of the entry, or what he is told to."""
    envelope = frames.Envelope(committed=frames.CommitPoint(index=entry.index, term=entry.term))
    envelope.MergeFrom(frames.Envelope(committed=frames.CommitPoint(**told)))
    envelope.requests.add(
        call=CALL,
        method=frames.ETCD_RANGE,
        table_id=TABLE,
        body=etcd.RangeRequest(key=b"new").SerializeToString(),
        shown_revision=revision(bench) + 1,
    )
    bench.replica.handle(CLIENT, envelope)
    bench.replica.turn()


def revision(bench: Bench) -> int:
    (table,) = bench.replica.status().tables
    return table.revision


def test_what_a_reader_was_shown_is_applied_and_shown_without_a_leader(led: Bench) -> None:
    entry = put(led)
    append(led, entry)
    assert led.store.applied_index < entry.index
    read(led, entry)
    assert led.answer(CALL).revision == revision(led)
    assert led.store.applied_index == entry.index
    assert led.committed == frames.CommitPoint(index=entry.index, term=entry.term), "and is told to others"


def test_what_is_told_before_the_log_has_it_counts_once_it_comes(led: Bench) -> None:
    entry = put(led)
    read(led, entry)
    assert CALL not in led.replies
    append(led, entry)
    assert led.answer(CALL).revision == revision(led)


@pytest.mark.parametrize("wrong", [{"term": 9}, {"generation": 1}])
def test_what_is_told_of_another_entry_is_waited_for(led: Bench, wrong: Any) -> None:
    entry = put(led)
    append(led, entry)
    read(led, entry, **wrong)
    assert CALL not in led.replies
    assert led.store.applied_index < entry.index


@pytest.mark.parametrize("indexes", [(0, 5), (5, 0)])
def test_the_furthest_that_was_told_is_remembered(led: Bench, indexes: Sequence[int]) -> None:
    entry = put(led)
    for index in indexes:
        read(led, replace(entry, index=LogIndex(entry.index + index)))
    for _ in range(6):
        append(led, put(led))
    assert led.store.applied_index == entry.index + 5


def test_a_snapshot_takes_what_was_told_away(led: Bench) -> None:
    entry = put(led)
    read(led, entry)
    for part in led.replica._parts:
        part.installed()
    append(led, entry)
    assert led.store.applied_index < entry.index
