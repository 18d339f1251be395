"""Tables that move from or to a shard of which the majority is lost just then, so that it goes on with what one replica
had: log indexes, revisions and steps of the move that others have heard of are given a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.moves.mover import Ask, Outcome, carry_out
from proto import errors
from proto.catalog import TableEntry, TableMove
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access
from shardworker.machine.recoveries import entry_number, parts_of
from tests.unit.machine.moving import ARRIVE, DEPART, FENCE, LEAVE, Moving
from tests.unit.machine.shard import TABLE, put

if TYPE_CHECKING:
    from proto.internal.frames_pb2 import Reply

OTHER = TABLE + 1
State = frames.MoveState


def test_an_entry_is_told_apart_from_one_that_had_its_index_before() -> None:
    assert entry_number(0, 7) == 7
    assert entry_number(1, 7) != entry_number(2, 7)
    assert parts_of(entry_number(3, 7)) == (3, 7)


def test_a_write_is_applied_once_though_its_index_was_told_to_the_target_before() -> None:
    """Two tables go the same way, one before the recovery and one after it."""
    moving = Moving()
    source, target = moving.source, moving.target
    source.write(frames.TableSpec(id=OTHER, name="other", history=-1), OTHER)
    moving.begin()
    kept = source.kept()
    source.write(put(b"lost"), request_id=b"lost".ljust(16))
    moving.finish()
    source.recover(kept)
    answer = source.write(put(b"k", b"v"), OTHER, request_id=b"id".ljust(16))
    assert answer.error is None
    moving.table = OTHER
    moving.begin()
    moving.finish()
    assert target.write(put(b"k", b"v"), OTHER, request_id=b"id".ljust(16)) == answer
    assert target.machine.tables.get(OTHER).revision == answer.revision  # type: ignore[union-attr]


def test_a_copy_of_what_is_no_more_is_given_up() -> None:
    """It would have what was lost, and lack as much of what came in its place."""
    moving = Moving()
    moving.source.put(b"k", b"0")
    moving.begin()
    kept = moving.source.kept()
    moving.source.put(b"k", b"lost")
    moving.copy_part()
    moving.source.recover(kept)
    moving.source.put(b"k", b"new")
    assert carried_out(moving) is Outcome.STAYED
    assert moving.source.put(b"k", b"and on")[0] == 4
    moving.number = 2
    assert carried_out(moving) is Outcome.MOVED
    assert [kv.value for kv in moving.target.range(b"k", revision=3)[1].kvs] == [b"new"]


@pytest.mark.parametrize("copied", [False, True])
def test_a_copy_goes_on_that_began_after_the_recovery(copied: bool) -> None:
    moving = Moving()
    moving.source.put(b"k", b"0")
    moving.source.recover(moving.source.kept())
    moving.begin()
    if copied:
        moving.copy_part()
    moving.source.put(b"k", b"1")
    assert carried_out(moving) is Outcome.MOVED
    assert moving.target.put(b"k", b"2")[0] == 4


@pytest.mark.parametrize("steps", [(), (DEPART,), (DEPART, FENCE)])
def test_a_source_that_has_forgotten_the_end_of_a_move_serves_no_longer(steps: tuple[Any, ...]) -> None:
    """The target serves already: what the source takes beside it is to be nobody's."""
    moving = Moving()
    moving.source.put(b"k", b"1")
    for step in steps:
        moving.take(moving.source, step)
    kept = moving.source.kept()
    for step in (DEPART, FENCE):
        moving.take(moving.source, step)
    moving.take(moving.target, ARRIVE)
    moving.finish()
    moving.take(moving.source, LEAVE)
    moving.source.recover(kept)
    assert carried_out(moving) is Outcome.MOVED
    assert isinstance(moving.source.write(put(b"k")).error, errors.TableElsewhere)
    assert moving.target.put(b"k")[0] == 3


@pytest.mark.parametrize("steps", [(), (DEPART,), (DEPART, FENCE)])
def test_one_that_has_forgotten_it_serves_no_longer_though_it_was_cancelled_too_late(
    steps: tuple[Any, ...],
) -> None:
    moving = Moving()
    for step in steps:
        moving.take(moving.source, step)
    kept = moving.source.kept()
    moving.begin()
    moving.finish()
    moving.source.recover(kept)
    assert carried_out(moving, cancelled=True) is Outcome.MOVED
    assert isinstance(moving.source.write(put(b"k")).error, errors.TableElsewhere)


@pytest.mark.parametrize("steps", [(), (DEPART,), (DEPART, FENCE)])
def test_a_move_to_a_shard_that_has_the_table_of_an_earlier_time_comes_to_an_end(
    steps: tuple[Any, ...],
) -> None:
    """It stays where it is served, and what is compacted there is swept again."""
    moving = Moving()
    moving.source.put(b"k", b"1")
    for step in steps:
        moving.take(moving.source, step)
    kept = moving.source.kept()
    assert carried_out(moving) is Outcome.MOVED
    moving.source.recover(kept)
    moving.turn_round()
    assert carried_out(moving) is Outcome.STAYED
    assert moving.source.put(b"k")[0] == 3
    assert not moving.source.machine.moves.is_departing(TABLE)


def test_a_target_that_has_lost_parts_gets_them_again() -> None:
    moving = Moving()
    moving.source.put(b"k", b"1")
    moving.begin()
    kept = moving.target.kept()
    moving.copy_part()
    moving.source.put(b"k", b"2")
    moving.finish()
    moving.target.put(b"k", b"lost")
    moving.target.recover(kept)
    assert carried_out(moving) is Outcome.MOVED
    assert [(kv.value, kv.version) for kv in moving.target.range(b"k")[1].kvs] == [(b"2", 2)]


def carried_out(moving: Moving, *, cancelled: bool = False) -> Outcome:
    """How the move ends that another mover takes over."""
    entry = TableEntry("t", moving.table, ShardId(moving.source_number), moving.history)
    steps = carry_out(TableMove(entry, ShardId(moving.target_number), moving.number, cancelled=cancelled))
    try:
        ask = next(steps)
        while True:
            answer = _asked(moving, ask)
            ask = steps.throw(answer) if isinstance(answer, errors.BoathouseError) else steps.send(answer)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def _asked(moving: Moving, ask: Ask) -> Reply | errors.BoathouseError:
    shard = moving.shards[ask.shard]
    if COMMANDS[ask.method].access is Access.WRITE:
        method = frames.Method.ValueType(ask.method)
        command = frames.Command(
            method=method, table_id=moving.table, body=ask.body, request_id=shard.new_id()
        )
        (result,) = shard.apply(command)
    else:
        result = shard.read_as(ask.method, ask.body, moving.table)
    return result.error or frames.Reply(revision=result.revision, body=result.body)
