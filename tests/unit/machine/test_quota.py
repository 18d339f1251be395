"""What a table is counted to hold, what its quota and its alarms refuse, and when that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd import auth_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta
from shardworker.machine import quota
from shardworker.machine.ops import DeleteRange, Put, Txn
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from shardworker.machine.tables import TableState

QUOTA = 16_000
VALUE = b"v" * 1_000
MEMBER = 9


def limited(history: int = -1, quota_bytes: int = QUOTA) -> Shard:
    shard = Shard(history=history)
    assert shard.write(frames.TableQuota(quota_bytes=quota_bytes)).error is None
    return shard


def table(shard: Shard) -> TableState:
    found = shard.machine.tables.get(TABLE)
    assert found is not None
    return found


def put(shard: Shard, key: bytes = b"k", value: bytes = VALUE) -> type[errors.BoathouseError] | None:
    error = shard.write(etcd.PutRequest(key=key, value=value)).error
    return None if error is None else type(error)


def fill(shard: Shard) -> None:
    """Until a put does not fit."""
    for number in range(100):
        if put(shard, b"%d" % number) is not None:
            return
    raise AssertionError("the quota refuses nothing")


def sweep(shard: Shard) -> None:
    """Remove what is compacted, and let the leader say so."""
    shard.sweep(100)
    shard.write(frames.TableFreed(total_bytes=table(shard).swept_bytes))


def empty(shard: Shard) -> None:
    """Delete everything, and forget that it was there."""
    shard.write(etcd.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
    shard.put(b"one more", b"")
    shard.write(etcd.CompactionRequest(revision=table(shard).revision))


def alarm(shard: Shard, kind: int, *, activate: bool, member: int = MEMBER, holds: bool = False) -> list[int]:
    """The kinds of alarms that the answer names."""
    change = frames.AlarmChange(
        alarm=frames.TableAlarm(member=member, alarm=kind), activate=activate, holds_table=holds
    )
    result = shard.write(change)
    assert result.error is None
    return [one.alarm for one in etcd.AlarmResponse.FromString(result.body).alarms]


def test_costs_are_etcds() -> None:
    one = Put(b"key", b"value", None, prev_kv=False)
    gone = DeleteRange(b"key", b"", prev_kv=False, prev_bytes_max=None)
    assert quota.cost(one) == 256 + 3 + 5
    assert quota.cost(gone) == 0
    assert quota.cost(Txn([], [one, Txn([], [one], [])], [one])) == 2 * quota.cost(one)
    assert quota.cost(Txn([], [gone], [one])) == quota.cost(one)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    shard = limited()
    fill(shard)
    before = table(shard).copy()
    assert QUOTA * 15 // 16 <= before.size_bytes < QUOTA
    assert before.full
    small = etcd.RequestOp(request_put=etcd.PutRequest(key=b"k"))
    for growing in (
        etcd.PutRequest(key=b"k"),
        etcd.TxnRequest(failure=[small]),
        regatta.PutRequest(table=b"t", key=b"k"),
    ):
        assert isinstance(shard.write(growing).error, errors.QuotaExceeded)
    assert table(shard) == before


def test_a_table_never_holds_as_much_as_its_quota() -> None:
    """As in etcd, where a write that would just reach it is refused."""
    shard = limited()
    for _ in range(9):
        assert put(shard) is None
    with_one_more = table(shard).size_bytes + quota.cost(Put(b"k", VALUE, None, prev_kv=False))
    shard.write(frames.TableQuota(quota_bytes=with_one_more))
    assert put(shard) is errors.QuotaExceeded
    shard.write(frames.TableQuota(quota_bytes=with_one_more + 1))
    assert put(shard) is None


def test_a_full_table_is_read_deleted_from_and_compacted() -> None:
    shard = limited()
    fill(shard)
    assert shard.read(etcd.RangeRequest(key=b"1")).error is None
    gone = etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest(key=b"2"))
    for shrinking in (
        etcd.DeleteRangeRequest(key=b"1"),
        etcd.TxnRequest(success=[gone]),
        etcd.CompactionRequest(revision=2),
    ):
        assert shard.write(shrinking).error is None


def test_there_is_space_again_when_it_is_free_on_disk() -> None:
    shard = limited()
    fill(shard)
    shard.write(etcd.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
    assert put(shard) is errors.QuotaExceeded
    shard.write(etcd.CompactionRequest(revision=table(shard).revision))
    assert put(shard) is errors.QuotaExceeded
    sweep(shard)
    assert not table(shard).full
    assert put(shard) is None


def test_without_history_what_is_deleted_is_free_at_once() -> None:
    shard = limited(history=0)
    for _ in range(100):
        assert put(shard) is None
    fill(shard)
    shard.write(etcd.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
    assert put(shard) is None


def test_a_put_that_is_too_large_alone_makes_no_table_full() -> None:
    shard = limited()
    assert put(shard, value=bytes(QUOTA)) is errors.QuotaExceeded
    assert not table(shard).full
    assert put(shard) is None


def test_a_larger_quota_ends_the_alarm_and_a_smaller_one_takes_nothing_away() -> None:
    shard = limited()
    fill(shard)
    shard.write(frames.TableQuota(quota_bytes=2 * QUOTA))
    assert not table(shard).full
    assert put(shard) is None
    shard.write(frames.TableQuota(quota_bytes=1))
    assert put(shard) is errors.QuotaExceeded
    assert shard.read(etcd.RangeRequest(key=b"k")).error is None
    shard.write(frames.TableQuota())
    assert put(shard) is None


def test_what_a_sweep_has_removed_is_a_sum_that_never_falls() -> None:
    shard = limited()
    shard.put(b"k", b"1")
    shard.put(b"k", b"2")
    empty(shard)
    sweep(shard)
    held = table(shard).size_bytes
    shard.write(frames.TableFreed(total_bytes=1))
    assert table(shard).size_bytes == held


def test_alarms_by_hand_stay_until_they_are_cleared() -> None:
    shard = limited()
    assert alarm(shard, etcd.NOSPACE, activate=True) == [etcd.NOSPACE]
    assert alarm(shard, etcd.NOSPACE, activate=True) == [etcd.NOSPACE]
    sweep(shard)
    assert put(shard) is errors.QuotaExceeded
    assert alarm(shard, etcd.NOSPACE, activate=False, member=0) == []
    assert put(shard) is errors.QuotaExceeded
    assert alarm(shard, etcd.NOSPACE, activate=False) == [etcd.NOSPACE]
    assert alarm(shard, etcd.NOSPACE, activate=False) == []
    assert put(shard) is None


def test_the_quotas_alarm_is_cleared_in_the_name_of_any_member_that_holds_the_table() -> None:
    shard = limited()
    fill(shard)
    assert alarm(shard, etcd.NOSPACE, activate=False, holds=False) == []
    assert table(shard).full
    assert alarm(shard, etcd.NOSPACE, activate=False, holds=True) == [etcd.NOSPACE]
    assert put(shard, value=b"") is None  # less is free than makes the alarm end by itself, but it fits
    assert put(shard) is errors.QuotaExceeded
    assert table(shard).full


def test_a_table_marked_corrupt_is_only_read() -> None:
    shard = limited(quota_bytes=0)
    shard.put(b"k", b"v")
    alarm(shard, etcd.CORRUPT, activate=True)
    for write in (
        etcd.PutRequest(key=b"k"),
        etcd.DeleteRangeRequest(key=b"k"),
        etcd.CompactionRequest(revision=2),
    ):
        assert isinstance(shard.write(write).error, errors.CorruptAlarm)
    assert shard.read(etcd.RangeRequest(key=b"k")).error is None
    alarm(shard, etcd.CORRUPT, activate=False)
    assert put(shard) is None


def test_alarms_and_quota_survive_a_restart_and_count_in_the_digest() -> None:
    shard = limited()
    digest = shard.machine.checksum
    alarm(shard, etcd.CORRUPT, activate=True)
    assert shard.machine.checksum != digest
    before = table(shard).copy()
    shard.machine.reload()
    assert table(shard) == before
    assert before.alarms == ((MEMBER, etcd.CORRUPT),)


def test_a_refusal_that_is_known_beforehand_needs_no_log() -> None:
    shard = limited()
    request = frames.Request(
        method=frames.ETCD_PUT,
        table_id=TABLE,
        body=etcd.PutRequest(key=b"k").SerializeToString(),
        request_id=bytes(16),
    )
    shard.machine.check_takes(request)
    shard.write(etcd.PutRequest(key=b"k"), request_id=bytes(16))
    fill(shard)
    shard.machine.check_takes(request)  # it was applied: it gets its answer
    request.request_id = b"another".ljust(16)
    with pytest.raises(errors.QuotaExceeded):
        shard.machine.check_takes(request)


# ---- what a table holds beside its changes --------------------------------------------------------------------------


def size(shard: Shard) -> int:
    """As its memory and its database say."""
    (status,) = shard.machine.table_status()
    parsed = shard.machine.parse(frames.TABLE_STATUS, TABLE, b"")
    read = frames.TableStatus.FromString(shard.machine.read(shard.connection, parsed).body)
    assert read.size_bytes == status.size_bytes
    return status.size_bytes


def administer(
    shard: Shard, method: frames.Method.ValueType, request: Message
) -> type[errors.BoathouseError] | None:
    body, request_id = request.SerializeToString(), shard.new_id()
    (result,) = shard.apply(frames.Command(method=method, table_id=TABLE, body=body, request_id=request_id))
    return None if result.error is None else type(result.error)


def add_user(shard: Shard, name: str) -> type[errors.BoathouseError] | None:
    return administer(shard, frames.AUTH_USER_ADD, etcd.AuthUserAddRequest(name=name))


@pytest.mark.parametrize(
    ("raised", "refusal"), [(etcd.CORRUPT, errors.CorruptAlarm), (etcd.NOSPACE, errors.QuotaExceeded)]
)
def test_no_alarm_keeps_root_from_logging_in(
    raised: etcd.AlarmType.ValueType, refusal: type[errors.BoathouseError]
) -> None:
    """Who else could end it? Neither beforehand nor when it is applied; what adds users is refused both times."""
    shard = limited(quota_bytes=0)
    assert add_user(shard, "u") is None
    assert administer(shard, frames.AUTH_ROLE_ADD, etcd.AuthRoleAddRequest(name="r")) is None
    alarm(shard, raised, activate=True)

    def refused_beforehand(method: frames.Method.ValueType, request: Message) -> bool:
        body, request_id = request.SerializeToString(), shard.new_id()
        asked = frames.Request(method=method, table_id=TABLE, body=body, request_id=request_id)
        try:
            shard.machine.check_takes(asked)
        except refusal:
            return True
        return False

    takes: list[tuple[frames.Method.ValueType, Message]] = [
        (frames.AUTH_LOG_IN, frames.LogIn(user="u", auth_revision=3, digest=bytes(32))),
        (frames.AUTH_USER_CHANGE_PASSWORD, etcd.AuthUserChangePasswordRequest(name="u", hashedPassword="h")),
        (frames.AUTH_ROLE_DELETE, etcd.AuthRoleDeleteRequest(role="r")),
        (frames.AUTH_USER_DELETE, etcd.AuthUserDeleteRequest(name="u")),
        (frames.AUTH_DISABLE, etcd.AuthDisableRequest()),
    ]
    for method, request in takes:
        assert not refused_beforehand(method, request)
        assert administer(shard, method, request) is not refusal
    added = etcd.AuthUserAddRequest(name="v")
    assert refused_beforehand(frames.AUTH_USER_ADD, added)
    assert administer(shard, frames.AUTH_USER_ADD, added) is refusal


def test_leases_count_until_they_are_gone() -> None:
    shard = limited()
    taken = 0
    while (error := shard.write(etcd.LeaseGrantRequest(TTL=60)).error) is None:
        taken += 1
        assert taken < QUOTA
    assert isinstance(error, errors.QuotaExceeded)
    assert taken == size(shard) // quota.LEASE_BYTES == (QUOTA - 1) // quota.LEASE_BYTES
    assert table(shard).full
    assert put(shard) is errors.QuotaExceeded
    for lease_id in list(shard.machine.leases.of_table(TABLE))[: taken // 8]:
        assert shard.write(etcd.LeaseRevokeRequest(ID=lease_id)).error is None
    assert not table(shard).full
    assert put(shard) is None
    shard.machine.reload()
    assert size(shard) == table(shard).size_bytes + quota.LEASE_BYTES * (taken - taken // 8)


def test_users_and_roles_count_until_they_are_gone() -> None:
    shard = limited()
    taken = 0
    while (error := add_user(shard, f"u{taken}")) is None:
        taken += 1
        assert taken < QUOTA
    assert error is errors.QuotaExceeded
    assert taken > 10
    assert table(shard).full
    assert administer(shard, frames.AUTH_ROLE_ADD, etcd.AuthRoleAddRequest(name="r")) is error
    assert put(shard) is errors.QuotaExceeded
    full = size(shard)
    shard.machine.reload()
    assert size(shard) == full
    for number in range(taken // 2):
        gone = etcd.AuthUserDeleteRequest(name=f"u{number}")
        assert administer(shard, frames.AUTH_USER_DELETE, gone) is None
    assert size(shard) < full
    assert not table(shard).full
    assert administer(shard, frames.AUTH_ROLE_ADD, etcd.AuthRoleAddRequest(name="r")) is None
    before = size(shard)
    perm = auth_pb2.Permission(permType=auth_pb2.Permission.READ, key=b"k" * 500, range_end=b"l" * 500)
    grant = etcd.AuthRoleGrantPermissionRequest(name="r", perm=perm)
    assert administer(shard, frames.AUTH_ROLE_GRANT_PERMISSION, grant) is None
    assert size(shard) >= before + 1_000
    assert add_user(shard, "x" * QUOTA) is errors.QuotaExceeded


def test_what_a_turn_adds_beside_counts_no_more_when_it_is_rolled_back() -> None:
    shard = limited()
    add_user(shard, "u")
    before = size(shard)
    shard.connection.execute("BEGIN IMMEDIATE")
    body = etcd.AuthUserAddRequest(name="v").SerializeToString()
    command = frames.Command(
        method=frames.AUTH_USER_ADD, table_id=TABLE, body=body, request_id=shard.new_id()
    )
    shard.apply_uncommitted(command, shard.command(etcd.LeaseGrantRequest(TTL=60)))
    assert size(shard) > before
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert size(shard) == before
