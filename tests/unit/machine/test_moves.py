"""Tables that move: each step, done twice, done late, done where it does not fit; and all that goes along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from proto import errors
from proto.etcd import auth_pb2, rpc_pb2
from proto.internal import frames_pb2 as frames
from shardworker.machine import Listen, StateMachine, WindowLimits
from shardworker.machine.moves import copying
from tests.unit.machine.moving import ARRIVE, CANCEL, DEPART, FENCE, LEAVE, SOURCE, TARGET, Moving
from tests.unit.machine.shard import TABLE, Shard, get, put, txn

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.machine import Result

State = frames.MoveState


def moved(*, history: int = -1) -> Moving:
    """With a table of one key that has gone over."""
    moving = Moving(history=history)
    moving.source.put(b"k", b"v")
    moving.begin()
    moving.finish()
    moving.take(moving.source, LEAVE)
    return moving


def error_of(result: Result) -> type[errors.BoathouseError]:
    assert result.error is not None
    return type(result.error)


def test_each_step_may_be_done_twice() -> None:
    moving = Moving()
    moving.source.put(b"k", b"v")
    for shard, step, state in [
        (moving.source, DEPART, State.COPYING),
        (moving.target, ARRIVE, State.ARRIVING),
        (moving.source, FENCE, State.FENCED),
    ]:
        assert moving.take(shard, step).state == moving.take(shard, step).state == state
    part = moving.copy_part()
    assert part.HasField("rest")
    assert moving.bring(part).error is None
    assert moving.take(moving.target, ARRIVE).state == State.HERE
    assert moving.take(moving.source, LEAVE).state == moving.take(moving.source, LEAVE).state == State.MOVED
    assert moving.take(moving.source, DEPART).state == moving.take(moving.source, FENCE).state == State.MOVED


def test_a_fenced_table_is_written_nowhere_and_the_target_takes_over() -> None:
    moving = Moving()
    moving.begin()
    moving.source.put(b"k", b"1")
    assert error_of(moving.target.write(put(b"k"))) is errors.TableArriving
    moving.take(moving.source, FENCE)
    refused = moving.source.write(put(b"k", b"2"))
    assert isinstance(refused.error, errors.TableElsewhere)
    assert refused.error.detail == str(TARGET)
    assert error_of(moving.source.write(rpc_pb2.LeaseGrantRequest(TTL=5))) is errors.TableElsewhere
    assert moving.source.range(b"k")[1].count == 1, "what may be stale is still told"
    moving.finish()
    assert moving.target.put(b"k", b"2")[0] == 3
    moving.take(moving.source, LEAVE)
    assert error_of(moving.source.read(get(b"k"))) is errors.TableElsewhere
    assert [kv.version for kv in moving.target.range(b"k")[1].kvs] == [2]


def test_only_a_fenced_table_has_a_last_part() -> None:
    moving = Moving()
    moving.begin()
    for _ in range(3):
        assert not moving.copy_part().HasField("rest")
    assert error_of(moving.source.write(moving.step(LEAVE))) is errors.MoveRefused


def test_a_part_that_is_not_the_next_one_changes_nothing() -> None:
    moving = Moving()
    moving.source.put(b"k", b"v")
    moving.begin()
    first = moving.copy_part()
    before = moving.target.machine.checksum
    for _ in range(2):
        state = State.FromString(moving.bring(first).body)
        assert state.position == first.through
    assert moving.target.machine.checksum == before


def test_what_is_damaged_is_not_taken_along() -> None:
    moving = Moving()
    moving.source.put(b"k", b"v")
    moving.begin()
    moving.source.connection.execute(f"UPDATE t{TABLE}_rev SET kv = x'00'")  # noqa: S608
    result = moving.source.read(frames.ExportRequest(number=1))
    assert error_of(result) is errors.Corrupt


def test_a_copy_with_other_keys_is_refused_whole() -> None:
    moving = Moving()
    moving.source.put(b"k", b"v")
    moving.begin()
    moving.take(moving.source, FENCE)
    part = moving.export(frames.MovePosition())
    del part.changes[:]
    before = moving.target.machine.checksum
    assert error_of(moving.bring(part)) is errors.InvariantBroken
    assert moving.target.machine.checksum == before


# ---- late and out of place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [True, False])
def test_what_was_cancelled_does_not_come_back(begun: bool) -> None:
    moving = Moving()
    if begun:
        moving.begin()
        moving.copy_part()
    assert moving.take(moving.target, CANCEL).state == State.MOVED
    assert moving.take(moving.source, CANCEL).state == State.HERE
    for shard, step in [
        (moving.source, DEPART),
        (moving.target, ARRIVE),
        (moving.source, FENCE),
        (moving.source, LEAVE),
    ]:
        assert error_of(shard.write(moving.step(step))) is errors.MoveRefused
    part = frames.MovePart(rest=frames.MoveRest(revision=1))
    assert error_of(moving.bring(part)) is errors.MoveRefused
    assert moving.source.put(b"k")[0] == 2
    refused = moving.target.write(put(b"k"))
    assert isinstance(refused.error, errors.TableElsewhere)
    assert refused.error.detail == str(SOURCE)


def test_it_is_too_late_to_cancel_what_the_target_serves() -> None:
    moving = Moving()
    moving.begin()
    moving.finish()
    assert error_of(moving.target.write(moving.step(CANCEL))) is errors.MoveRefused
    moving.take(moving.source, LEAVE)
    assert error_of(moving.source.write(moving.step(CANCEL))) is errors.TableElsewhere


def test_a_fenced_table_that_stays_is_written_again() -> None:
    moving = Moving()
    moving.begin()
    moving.take(moving.source, FENCE)
    moving.take(moving.target, CANCEL)
    moving.take(moving.source, CANCEL)
    assert moving.source.put(b"k")[0] == 2


def test_steps_of_an_earlier_move_come_too_late() -> None:
    moving = moved()
    moving.turn_round()
    moving.begin()
    old = moving.step(ARRIVE, number=1)
    old.source, old.target = SOURCE, TARGET
    assert error_of(moving.source.write(old)) is errors.MoveRefused
    other = moving.step(DEPART, number=3)
    assert error_of(moving.source.write(other)) is errors.MoveRefused, "one at a time"


def test_a_step_for_another_shard_is_refused() -> None:
    moving = Moving()
    step = moving.step(DEPART)
    step.source = 7
    assert error_of(moving.source.write(step)) is errors.MoveRefused


def test_a_table_that_was_deleted_does_not_arrive() -> None:
    moving = Moving()
    moving.target.write(frames.TableSpec(id=TABLE, name="t"))
    moving.target.apply(
        frames.Command(
            method=frames.TABLE_DELETE,
            body=frames.TableSpec(id=TABLE, name="t").SerializeToString(),
            request_id=moving.target.new_id(),
        )
    )
    assert error_of(moving.target.write(moving.step(ARRIVE))) is errors.TableDeleted


def test_neither_creation_nor_deletion_misses_a_table_that_went() -> None:
    moving = moved()
    spec = frames.TableSpec(id=TABLE, name="t")
    assert error_of(moving.source.write(spec)) is errors.TableElsewhere
    deletion = frames.Command(
        method=frames.TABLE_DELETE, body=spec.SerializeToString(), request_id=moving.source.new_id()
    )
    assert error_of(moving.source.apply(deletion)[0]) is errors.TableElsewhere


# ---- what goes along ----------------------------------------------------------------------------------------------


def test_a_request_is_applied_once_though_the_table_moves_between() -> None:
    moving = Moving()
    first, second = put(b"k", b"1", prev_kv=True), put(b"k", b"2", prev_kv=True)
    moving.source.write(first, request_id=b"first".ljust(16))
    moving.begin()
    moving.copy_part()
    answer = moving.source.write(second, request_id=b"second".ljust(16))
    moving.take(moving.source, FENCE)
    assert moving.source.write(second, request_id=b"second".ljust(16)) == answer, "and the source still knows"
    late = moving.source.write(put(b"k", b"3"), request_id=b"third".ljust(16))
    assert error_of(late) is errors.TableElsewhere
    moving.finish()
    assert moving.target.write(second, request_id=b"second".ljust(16)) == answer
    assert (
        error_of(moving.target.write(put(b"other"), request_id=b"second".ljust(16))) is errors.RequestIdReused
    )
    assert moving.target.write(put(b"k", b"3"), request_id=b"third".ljust(16)).revision == 4
    moving.take(moving.source, LEAVE)
    moving.turn_round()
    moving.begin()
    moving.finish()
    assert moving.target.write(second, request_id=b"second".ljust(16)) == answer, "and so after the way back"


def test_results_that_came_leave_by_age_and_push_out_no_others() -> None:
    limits = WindowLimits(commands_max=3, age_ms_max=60_000)
    moving = Moving()
    moving.shards[TARGET] = Shard(shard=TARGET, create=False, limits=limits)
    moving.source.write(put(b"k"), request_id=b"came".ljust(16))
    moving.begin()
    moving.finish()
    for _ in range(5):
        moving.target.put(b"k")
    assert moving.target.write(put(b"k"), request_id=b"came".ljust(16)).revision == 2
    for _ in range(20):
        moving.target.time_ms += 10_000
        moving.target.put(b"k")
    assert moving.target.write(put(b"k"), request_id=b"came".ljust(16)).revision > 2
    assert moving.target.connection.execute("SELECT count(*) FROM arrived_results").get == 0


def test_users_tokens_alarms_and_quota_go_along() -> None:
    moving = Moving()
    moving.source.write(frames.TableQuota(quota_bytes=1 << 20))
    moving.source.connection.execute("BEGIN")
    auth = moving.source.machine.auth
    auth.add_token(TABLE, b"digest", "root")
    moving.source.connection.execute("COMMIT")
    moving.source.machine.committed()
    for name in ("root", "ann"):
        add_user(moving.source, name)
    moving.source.write(frames.AlarmChange(alarm=frames.TableAlarm(member=7, alarm=1), activate=True))
    moving.begin()
    moving.finish()
    before, after = moving.source.machine, moving.target.machine
    assert after.auth.of(TABLE) == before.auth.of(TABLE)
    assert after.auth.tokens(TABLE) == before.auth.tokens(TABLE) == {b"digest": "root"}
    (one,), (other,) = before.table_status(), after.table_status()
    assert (one.alarms, one.quota_bytes) == (other.alarms, other.quota_bytes)
    assert reopened(moving.target).checksum == after.checksum
    moving.take(moving.source, LEAVE)
    assert before.auth.checksum == 0


def add_user(shard: Shard, name: str) -> None:
    request = rpc_pb2.AuthUserAddRequest(name=name, hashedPassword="h", options=auth_pb2.UserAddOptions())
    body, request_id = request.SerializeToString(), shard.new_id()
    (result,) = shard.apply(
        frames.Command(method=frames.AUTH_USER_ADD, table_id=TABLE, body=body, request_id=request_id)
    )
    assert result.error is None, result.error


def test_a_lease_goes_along_with_its_keys_and_is_granted_anew() -> None:
    moving = Moving()
    moving.source.grant(5, 60)
    granted = moving.source.machine.leases.get(TABLE, 5)
    assert granted is not None
    counted = frames.LeaseCheckpoint(id=5, granted_at=granted.granted_at, left_ms=7_500)
    moving.source.write(frames.LeaseCheckpoints(leases=[counted]))
    moving.source.put(b"leased", lease=5)
    moving.begin()
    moving.finish()
    lease = moving.target.machine.leases.get(TABLE, 5)
    assert lease is not None
    assert (lease.ttl_s, lease.granted_at, lease.left_ms) == (60, moving.target.index, 7_500)
    assert moving.target.lease_keys(5) == [b"leased"]
    moving.take(moving.source, LEAVE)
    assert not moving.source.machine.leases.of_table(TABLE)


def test_a_lease_of_which_it_is_not_told_what_is_left_has_all_of_its_time() -> None:
    moving = Moving()
    moving.source.grant(5, 60)
    moving.begin()
    with mock.patch.object(copying, "_add_rest", _as_before_checkpoints(copying._add_rest)):
        moving.finish()
    lease = moving.target.machine.leases.get(TABLE, 5)
    assert lease is not None
    assert lease.is_whole


def _as_before_checkpoints(add_rest: Callable[..., None]) -> Callable[..., None]:
    def add(view: Any, move: Any, part: frames.MovePart) -> None:
        add_rest(view, move, part)
        for lease in part.rest.leases:
            lease.ClearField("left_ms")

    return add


def test_whoever_follows_the_table_hears_everything_after_the_switch() -> None:
    moving = Moving(history=0)
    moving.source.put(b"k", b"1")
    moving.begin()
    moving.take(moving.source, FENCE)
    part = moving.export(frames.MovePosition())
    bring = moving.target.command(frames.MoveImport(table_id=TABLE, number=1, part=part))
    moving.target.apply(bring, moving.target.command(put(b"k", b"2")))
    opened, change = moving.target.machine.take_changes()
    assert (opened.opens, opened.table_id, opened.revision, opened.edits) == (True, TABLE, 2, ())
    assert (change.revision, [edit.key for edit in change.edits]) == (3, [b"k"])
    assert change.edits[0].prev is not None
    assert Listen.WITH_PREVIOUS is moving.target.machine._recorder.listening(TABLE)


# ---- rows, and the life of the transaction ------------------------------------------------------------------------


def test_what_is_left_of_a_table_is_freed_though_it_has_come_back() -> None:
    moving = Moving()
    for number in range(20):
        moving.source.put(b"%d" % number)
    moving.begin()
    moving.finish()
    moving.take(moving.source, LEAVE)
    moving.turn_round()
    moving.begin()
    moving.finish()
    moving.take(moving.source, LEAVE)
    for shard in moving.shards.values():
        assert shard.machine.has_leftovers
        shard.sweep(rows_max=7)
        assert not shard.machine.has_leftovers
        names = "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'x[0-9]*'"
        assert shard.connection.execute(names).get == 0
    assert moving.target.range(b"\0", b"\0")[1].count == 20


def test_a_step_that_is_rolled_back_was_never_made() -> None:
    moving = Moving()
    moving.source.put(b"k", b"v")
    moving.begin()
    moving.take(moving.source, FENCE)
    part = moving.export(frames.MovePosition())
    steps = [
        (moving.source, moving.source.command(moving.step(LEAVE))),
        (moving.target, moving.target.command(frames.MoveImport(table_id=TABLE, number=1, part=part))),
        (moving.target, moving.target.command(moving.step(CANCEL))),
    ]
    for shard, command in steps:
        before = shard.machine.checksum, shard.machine.has_leftovers
        shard.connection.execute("BEGIN IMMEDIATE")
        assert shard.apply_uncommitted(command)[0].error is None
        shard.connection.execute("ROLLBACK")
        shard.machine.rollback()
        assert (shard.machine.checksum, shard.machine.has_leftovers) == before
        assert reopened(shard).checksum == before[0]
    moving.finish()
    assert moving.target.range(b"k")[1].count == 1


def test_a_restart_forgets_nothing_of_a_move() -> None:
    with mock.patch.object(copying, "PART_ROWS_MAX", 2):
        moving = Moving()
        for number in range(5):
            moving.source.write(txn(put(b"%d" % number), put(b"x%d" % number)))
        moving.begin()
        moving.copy_part()
    for shard in moving.shards.values():
        machine = reopened(shard)
        assert machine.checksum == shard.machine.checksum
        assert machine.move_states() == shard.machine.move_states()
        shard.machine = machine
    moving.finish()
    assert moving.target.range(b"\0", b"\0")[1].count == 10


def test_a_snapshot_of_the_leader_cluster_does_not_replace_what_is_being_copied() -> None:
    moving = Moving()
    moving.begin()
    part = frames.ReplicatedPairs(part=frames.TablePairs(revision=1, last=True))
    assert error_of(moving.source.write(part)) is errors.SnapshotInterrupted


def test_what_is_no_move_is_refused() -> None:
    shard = Shard(shard=SOURCE)
    step = Moving().step(DEPART)
    for change in ({"number": 0}, {"target": SOURCE}, {"step": 5}, {"step": -1}):
        wrong = frames.MoveStep.FromString(step.SerializeToString())
        for name, value in change.items():
            setattr(wrong, name, value)
        assert error_of(shard.write(wrong)) is errors.InvalidRequest
    reserved = frames.MoveStep.FromString(step.SerializeToString())
    reserved.table.id = 1
    assert error_of(shard.write(reserved)) is errors.InvalidRequest


def reopened(shard: Shard) -> StateMachine:
    """What a restart finds."""
    machine = StateMachine(shard.connection, shard.machine.number)
    machine.committed()
    return machine


@pytest.mark.parametrize("history", [-1, 0, 2])
@pytest.mark.parametrize("part_rows", [1, 2, 100])
def test_a_key_that_was_deleted_more_than_once_goes_over(history: int, part_rows: int) -> None:
    """Without history a pair goes when it is replaced, and the tombstones on either side of it may stay a while."""
    moving = Moving(history=history)
    moving.source.put(b"other", b"v")
    moving.begin()
    for _ in range(3):
        moving.source.put(b"k", b"v")
        moving.source.delete(b"k")
    with mock.patch.object(copying, "PART_ROWS_MAX", part_rows):
        for _ in range(3):
            moving.copy_part()
        moving.source.put(b"k", b"v")
        moving.source.delete(b"k")
        moving.finish()
    moving.take(moving.source, LEAVE)
    assert [kv.key for kv in moving.target.range(b"\0", b"\0")[1].kvs] == [b"other"]
    moving.target.put(b"k", b"again")
    assert moving.target.range(b"k")[1].kvs[0].version == 1
