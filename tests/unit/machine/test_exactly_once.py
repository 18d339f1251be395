"""A request that comes again: its first answer, for as long as its id is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import WindowLimits, stored_results
from tests.unit.machine.shard import TABLE, Shard, delete, get, put, request_id

if TYPE_CHECKING:
    from pathlib import Path


def test_a_repeated_request_changes_nothing_and_gets_its_first_answer() -> None:
    shard = Shard()
    first = shard.write(put(b"a", b"1", prev_kv=True), request_id=request_id(1))
    other = shard.write(put(b"a", b"2", prev_kv=True), request_id=request_id(2))
    again = shard.write(put(b"a", b"1", prev_kv=True), request_id=request_id(1))
    assert (again.revision, again.body) == (first.revision, first.body) == (2, b"")
    assert shard.write(put(b"a", b"2", prev_kv=True), request_id=request_id(2)).body == other.body != b""
    assert shard.range(b"a")[1].kvs[0].value == b"2"
    refused = shard.write(put(b"miss", ignore_value=True), request_id=request_id(3))
    shard.put(b"miss")
    repeated = shard.write(put(b"miss", ignore_value=True), request_id=request_id(3))
    assert type(refused.error) is type(repeated.error) is errors.KeyNotFound
    assert repeated.revision == refused.revision


def test_a_repeat_within_one_entry() -> None:
    shard = Shard()
    command = shard.command(put(b"a", b"1"), request_id=request_id(1))
    results = shard.apply(command, command, shard.command(put(b"a", b"2")))
    assert [result.revision for result in results] == [2, 2, 3]
    assert shard.range(b"a")[1].kvs[0].version == 2


@pytest.mark.parametrize("restarts", [False, True])
def test_the_window_forgets_by_count_and_by_replicated_time(tmp_path: Path, restarts: bool) -> None:
    limits = WindowLimits(commands_max=3, age_ms_max=1000)
    path = str(tmp_path / "w.db")
    shard = Shard(path, limits=limits)

    def write(number: int) -> bool:
        """Whether the write with this id was taken as new."""
        nonlocal shard
        if restarts:
            index, time_ms = shard.index, shard.time_ms
            shard.connection.close()
            shard = Shard(path, limits=limits, create=False)
            shard.index, shard.time_ms = index, time_ms
        before = shard.machine.table_status()[0].revision
        return shard.write(put(b"k"), request_id=request_id(number)).revision > before

    assert [write(1), write(2), write(3)] == [True] * 3
    assert [write(1), write(2), write(3)] == [False] * 3
    assert write(4)
    assert [write(2), write(3), write(4)] == [False] * 3
    assert write(1), "the fourth pushed the first out"
    shard.time_ms = 5000
    assert not write(4), "time passes only with what is remembered"
    assert write(5)
    assert [write(1), write(3), write(4)] == [True] * 3
    shard.time_ms = 10
    assert shard.machine.time_ms == 5000
    assert write(6)
    assert shard.machine.time_ms == 5000, "time does not go back"
    rows = shard.connection.execute("SELECT count(*), sum(commands) FROM results").fetchone()
    assert rows == (3, 3)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("restarts", [False, True])
def test_young_ids_stay_though_they_are_many(tmp_path: Path, level: int, restarts: bool) -> None:
    """Since a coordinator may still repeat them, under the shard's level that knows of it."""
    limits = WindowLimits(commands_max=3, young_ms=1_000, young_commands_max=6)
    path = str(tmp_path / "w.db")
    shard = Shard(path, limits=limits)
    shard.write(frames.MachineLevel(level=level))

    def held(number: int) -> bool:
        return shard.machine._remembered(request_id(number)) is not None

    for number in range(5):
        shard.time_ms += 100
        shard.write(put(b"k"), request_id=request_id(number))
    if restarts:
        index, time_ms = shard.index, shard.time_ms
        shard.connection.close()
        shard = Shard(path, limits=limits, create=False)
        shard.index, shard.time_ms = index, time_ms
    assert [held(number) for number in range(5)] == [level == 2] * 2 + [True] * 3
    for number in range(5, 8):
        shard.write(put(b"k"), request_id=request_id(number))
    assert [held(number) for number in range(8)] == [False] * 2 + [level == 2] * 3 + [True] * 3, (
        "up to a bound"
    )
    shard.time_ms += 950
    shard.write(put(b"k"), request_id=request_id(8))
    young = [False] * 4 + [level == 2] * 2 + [True] * 3
    assert [held(number) for number in range(9)] == young, "and only as long as they are young"


def test_a_clock_set_forward_does_not_empty_the_window() -> None:
    shard = Shard()
    shard.time_ms = 1_000_000
    shard.write(put(b"a"), request_id=request_id(1))
    shard.time_ms += 3_600_000
    shard.write(put(b"b"), request_id=request_id(2))
    assert shard.write(put(b"a"), request_id=request_id(1)).revision == 2, (
        "an hour in one step is taken for seconds"
    )
    for number in range(3, 40):
        shard.time_ms += 10_000
        shard.write(put(b"c"), request_id=request_id(number))
    again = shard.write(put(b"a"), request_id=request_id(1))
    assert again.revision > 30, "but many steps make an age"


@pytest.mark.parametrize("restarts", [False, True])
def test_an_id_outlives_its_answer(tmp_path: Path, restarts: bool) -> None:
    limits = WindowLimits(answer_bytes_max=1 << 20)
    path = str(tmp_path / "w.db")
    shard = Shard(path, limits=limits)
    shard.put(b"a", bytes(400 << 10))
    request = put(b"a", bytes(400 << 10), prev_kv=True)
    first = [shard.write(request, request_id=request_id(number)) for number in range(4)]
    shard.write(put(b"b"), request_id=request_id(4))
    if restarts:
        shard.connection.close()
        reopened = Shard(path, limits=limits, create=False)
        reopened.index, shard = shard.index, reopened
    before = shard.machine.checksum
    again = [shard.write(request, request_id=request_id(number)) for number in range(4)]
    assert [result.revision for result in again] == [result.revision for result in first] == [3, 4, 5, 6]
    assert [type(result.error) for result in again] == [errors.AnswerForgotten] * 2 + [type(None)] * 2
    assert again[2:] == first[2:]
    assert shard.write(put(b"b"), request_id=request_id(4)).error is None, "no bytes, so nothing to forget"
    assert shard.machine.checksum == before
    assert shard.connection.execute("SELECT count(*) FROM answers").get == 2


def test_an_answer_of_many_megabytes_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_results, "ANSWER_KEPT_BYTES_MAX", 1000)
    shard = Shard()
    shard.put(b"a", bytes(2000))
    request = put(b"a", prev_kv=True)
    small = shard.command(put(b"b", b"", prev_kv=True), request_id=request_id(2))
    given, _ = shard.apply(shard.command(request, request_id=request_id(1)), small)
    assert given.error is None
    assert len(given.body) > 2000
    again = shard.write(request, request_id=request_id(1))
    assert (again.revision, type(again.error)) == (3, errors.AnswerForgotten)
    assert shard.apply(small)[0].error is None
    assert shard.range(b"a")[1].kvs[0].version == 2


def test_answers_leave_with_their_ids() -> None:
    shard = Shard(limits=WindowLimits(commands_max=2))
    for number in range(5):
        shard.write(put(b"a", b"%d" % number, prev_kv=True), request_id=request_id(number))
    assert shard.connection.execute("SELECT count(*) FROM results").get == 2
    assert shard.connection.execute("SELECT count(*) FROM answers").get == 2


@pytest.mark.parametrize("in_one_entry", [False, True])
def test_an_id_that_belongs_to_another_request_is_refused(in_one_entry: bool) -> None:
    shard = Shard()
    other = TABLE + 1
    shard.write(frames.TableSpec(id=other, name="u", history=-1))
    first = shard.command(put(b"a", b"1"), request_id=request_id(1))
    others = [
        shard.command(put(b"a", b"2"), request_id=request_id(1)),
        shard.command(put(b"a", b"1"), table=other, request_id=request_id(1)),
        shard.command(delete(b"a"), request_id=request_id(1)),
    ]
    if in_one_entry:
        results = shard.apply(first, *others, first)
    else:
        results = [shard.apply(command)[0] for command in (first, *others, first)]
    assert [type(result.error) for result in results[1:4]] == [errors.RequestIdReused] * 3
    assert results[0] == results[4]
    assert shard.range(b"a")[1].kvs[0].value == b"1"
    assert shard.read(get(b"a"), table=other).body == b""
