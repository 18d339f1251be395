"""Leases in the state machine: what is granted, what is attached, and what goes with a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import apsw
import pytest

from proto import errors
from proto.etcd import rpc_pb2
from proto.etcd.rpc_pb2 import Compare, LeaseGrantRequest, LeaseRevokeRequest, PutRequest
from proto.internal import frames_pb2 as frames
from shardworker.machine import Listen, lease_ends
from tests.unit.machine.shard import TABLE, Shard, delete, get, keys, put, txn

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = (b"\0", b"\0")


def expired(shard: Shard, *lease_ids: int) -> frames.ExpiredLeases:
    """What a leader proposes that knows these leases."""
    found = [shard.machine.leases.find(TABLE, lease_id) for lease_id in lease_ids]
    return frames.ExpiredLeases(
        leases=[
            frames.ExpiredLease(id=lease.id, granted_at=lease.granted_at)
            for lease in found
            if lease is not None
        ]
    )


def test_a_grant_changes_no_revision_and_says_what_it_granted() -> None:
    shard = Shard()
    assert shard.grant(-9, 50) == rpc_pb2.LeaseGrantResponse(ID=-9, TTL=50)
    assert shard.machine.table_status()[0].revision == 1


def test_a_lease_without_an_id_gets_one_that_no_other_has() -> None:
    shard = Shard()
    results = shard.apply(*[shard.command(LeaseGrantRequest(TTL=5)) for _ in range(50)])
    ids = {rpc_pb2.LeaseGrantResponse.FromString(result.body).ID for result in results}
    assert len(ids) == 50
    assert all(0 < lease_id < 1 << 63 for lease_id in ids)
    for lease_id in ids:
        shard.write(LeaseRevokeRequest(ID=lease_id))
    assert shard.grant().ID not in ids


def test_what_cannot_be_granted() -> None:
    shard = Shard()
    shard.grant(7)
    assert shard.error(LeaseGrantRequest(ID=7, TTL=5)) is errors.LeaseExists
    assert shard.error(LeaseGrantRequest(ID=7, TTL=9_000_000_001)) is errors.LeaseTTLTooLarge
    assert shard.error(LeaseGrantRequest(ID=8, TTL=0)) is errors.InvalidRequest
    assert shard.grant(9, 9_000_000_000).TTL == 9_000_000_000


def test_a_put_needs_a_lease_that_exists() -> None:
    shard = Shard()
    assert shard.error(put(b"a", lease=7)) is errors.LeaseNotFound
    assert shard.error(txn(put(b"a", lease=7))) is errors.LeaseNotFound
    assert shard.error(put(b"a", lease=7, ignore_value=True)) is errors.LeaseNotFound
    assert shard.write(txn(get(b"a"), failure=[put(b"a", lease=7)])).error is None, "that branch is not taken"


def test_a_lease_is_known_to_the_rest_of_its_entry() -> None:
    shard = Shard()
    results = shard.apply(
        shard.command(LeaseGrantRequest(ID=7, TTL=5)),
        shard.command(put(b"a", lease=7)),
        shard.command(LeaseRevokeRequest(ID=7)),
        shard.command(put(b"b", lease=7)),
    )
    assert [type(result.error) for result in results] == [type(None)] * 3 + [errors.LeaseNotFound]
    assert shard.range(*EVERYTHING)[1].count == 0


def test_a_lease_of_another_table_is_another_lease() -> None:
    shard = Shard()
    shard.write(frames.TableSpec(id=5, name="other", history=-1))
    shard.grant(7)
    assert isinstance(shard.write(put(b"a", lease=7), table=5).error, errors.LeaseNotFound)
    assert shard.write(LeaseGrantRequest(ID=7, TTL=5), table=5).error is None
    shard.put(b"a", lease=7)
    assert shard.write(LeaseRevokeRequest(ID=7), table=5).error is None
    assert shard.lease_keys(7) == [b"a"]


def test_a_put_attaches_moves_and_detaches() -> None:
    shard = Shard()
    shard.grant(50)
    shard.grant(51)
    for key in (b"b", b"a", b"c"):
        shard.put(key, b"1", lease=50)
    assert shard.range(b"a")[1].kvs[0].lease == 50
    assert shard.lease_keys(50) == [b"a", b"b", b"c"]
    shard.put(b"b", b"2")
    assert shard.lease_keys(50) == [b"a", b"c"]
    shard.put(b"a", b"2", lease=51)
    assert (shard.lease_keys(50), shard.lease_keys(51)) == ([b"c"], [b"a"])
    shard.put(b"a", b"3", ignore_lease=True)
    assert shard.lease_keys(51) == [b"a"]
    assert shard.range(b"a")[1].kvs[0].lease == 51
    shard.put(b"b", ignore_value=True, lease=50)
    assert shard.lease_keys(50) == [b"b", b"c"]


@pytest.mark.parametrize("history", [-1, 0, 2])
@pytest.mark.parametrize("request_", [delete(b"a"), delete(b"a", b"b"), txn(delete(b"a"), get(b"a"))])
def test_a_deleted_key_leaves_its_lease(request_: rpc_pb2.DeleteRangeRequest, history: int) -> None:
    shard = Shard(history=history)
    shard.grant(50)
    shard.put(b"a", lease=50)
    shard.put(b"b", lease=50)
    shard.write(request_)
    assert shard.lease_keys(50) == [b"b"]
    shard.put(b"a")
    assert shard.write(LeaseRevokeRequest(ID=50)).error is None
    assert keys(shard.range(*EVERYTHING)[1]) == [b"a"]


def test_comparisons_see_the_lease() -> None:
    shard = Shard()
    shard.grant(50)
    shard.put(b"a", lease=50)

    def succeeds(key: bytes, lease: int) -> bool:
        compare = Compare(key=key, target=Compare.LEASE, result=Compare.EQUAL, lease=lease)
        result = shard.write(txn(put(b"z"), compare=[compare]))
        return rpc_pb2.TxnResponse.FromString(result.body).succeeded

    assert succeeds(b"a", 50)
    assert not succeeds(b"a", 0)
    assert succeeds(b"missing", 0)


def test_a_put_of_a_refused_transaction_attaches_nothing() -> None:
    shard = Shard()
    shard.grant(50)
    refused = txn(delete(b"b"), put(b"a", lease=50), put(b"b", ignore_value=True))
    shard.put(b"b")
    assert shard.error(refused) is errors.KeyNotFound
    assert shard.lease_keys(50) == []


@pytest.mark.parametrize("few", [0, 3])
@pytest.mark.parametrize("history", [-1, 0, 2])
def test_a_revoked_lease_takes_its_keys_along_at_one_revision(
    history: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_ends, "FEW_KEYS", few)
    shard = Shard(history=history)
    shard.grant(50)
    shard.grant(51)
    for key, lease in ((b"c", 50), (b"a", 50), (b"x", 51), (b"b", 50), (b"free", 0)):
        shard.put(key, b"v", lease=lease)
    shard.machine.listen({TABLE: Listen.WITH_PREVIOUS})
    result = shard.write(LeaseRevokeRequest(ID=50))
    assert (result.revision, result.error) == (7, None)
    (change,) = shard.machine.take_changes()
    assert change.revision == 7
    assert [(edit.key, edit.kv) for edit in change.edits] == [(b"a", None), (b"b", None), (b"c", None)]
    assert all(edit.prev is not None and edit.prev.endswith(b"\x30\x32") for edit in change.edits), "lease 50"
    assert keys(shard.range(*EVERYTHING)[1]) == [b"free", b"x"]
    assert shard.error(LeaseRevokeRequest(ID=50)) is errors.LeaseNotFound
    shard.sweep()
    assert shard.put(b"a", b"again")[0] == 8


def test_a_lease_without_keys_goes_without_a_revision() -> None:
    shard = Shard()
    shard.grant(50)
    assert shard.write(LeaseRevokeRequest(ID=50)).revision == 1
    assert shard.error(LeaseRevokeRequest(ID=50)) is errors.LeaseNotFound


def test_expired_leases_go_one_revision_each() -> None:
    shard = Shard()
    for lease_id in (50, 51, 52):
        shard.grant(lease_id)
        shard.put(b"%d a" % lease_id, lease=lease_id)
        shard.put(b"%d b" % lease_id, lease=lease_id)
    shard.machine.listen({TABLE: Listen.CHANGES})
    assert shard.write(expired(shard, 52, 50)).error is None
    changes = shard.machine.take_changes()
    assert [(change.revision, [edit.key for edit in change.edits]) for change in changes] == [
        (8, [b"52 a", b"52 b"]),
        (9, [b"50 a", b"50 b"]),
    ]
    assert keys(shard.range(*EVERYTHING)[1]) == [b"51 a", b"51 b"]


def test_the_end_of_a_lease_does_not_hit_a_later_one_of_the_same_id() -> None:
    shard = Shard()
    shard.grant(50)
    meant = expired(shard, 50)
    results = shard.apply(
        shard.command(LeaseRevokeRequest(ID=50)),
        shard.command(LeaseGrantRequest(ID=50, TTL=5)),
        shard.command(put(b"a", lease=50)),
        shard.command(meant),
    )
    assert [result.error for result in results] == [None] * 4
    assert shard.lease_keys(50) == [b"a"]


def test_a_lease_with_very_many_keys_ends_at_once_and_loses_them_in_steps() -> None:
    shard = Shard()
    shard.grant(50)
    for number in range(5):
        shard.put(b"%d" % number, lease=50)
    with patch.object(lease_ends, "REVOKED_KEYS_MAX", 2), patch.object(lease_ends, "FEW_KEYS", 1):
        assert shard.write(LeaseRevokeRequest(ID=50)).revision == 7
        assert shard.lease_keys(50) == [b"2", b"3", b"4"]
        assert shard.error(put(b"x", lease=50)) is errors.LeaseNotFound
        assert shard.error(LeaseRevokeRequest(ID=50)) is errors.LeaseNotFound
        assert shard.error(LeaseGrantRequest(ID=50, TTL=5)) is errors.LeaseExists
        shard.write(expired(shard, 50))
        assert shard.lease_keys(50) == [b"4"]
        shard.write(expired(shard, 50))
    assert shard.range(*EVERYTHING)[1].count == 0
    assert shard.grant(50).ID == 50


def test_a_lease_for_which_the_entry_has_no_room_stays_whole() -> None:
    shard = Shard()
    for lease_id in (50, 51, 52):
        shard.grant(lease_id)
        for number in range(6 if lease_id == 51 else 1):
            shard.put(b"%d %d" % (lease_id, number), lease=lease_id)
    commands = [shard.command(expired(shard, 50, 51, 52)), shard.command(LeaseRevokeRequest(ID=51))]
    with (
        patch("shardworker.machine.budget.ROWS_FREE", 2),
        patch("shardworker.machine.budget.ENTRY_ROWS_MAX", 4),
        patch("shardworker.machine.budget.ROWS_MAX", 100),
    ):
        results = shard.apply(*commands)
    assert (results[0].error, type(results[1].error)) == (None, errors.ShardBusy)
    assert len(shard.lease_keys(51)) == 6
    assert shard.range(*EVERYTHING)[1].count == 6


def test_a_repeated_grant_gets_its_first_answer() -> None:
    shard = Shard()
    grant = LeaseGrantRequest(TTL=5)
    first = shard.write(grant, request_id=b"one id, 16 bytes")
    again = shard.write(grant, request_id=b"one id, 16 bytes")
    assert first == again
    assert len(shard.machine.leases.of_table(TABLE)) == 1


def test_leases_survive_a_restart_with_their_keys(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    shard = Shard(path)
    shard.grant(50)
    shard.grant(-51, 7)
    shard.put(b"a", lease=50)
    checksum = shard.machine.checksum
    shard.connection.close()
    shard = Shard(path, create=False)
    assert shard.machine.checksum == checksum
    lease = shard.machine.leases.get(TABLE, -51)
    assert lease is not None
    assert lease.ttl_s == 7
    shard.index = 100
    shard.write(LeaseRevokeRequest(ID=50), request_id=b"one id, 16 bytes")
    assert shard.range(*EVERYTHING)[1].count == 0


def test_a_rolled_back_turn_leaves_no_lease_behind() -> None:
    shard = Shard()
    shard.grant(50)
    shard.grant(52)
    shard.machine.leases.take_changed()
    before = shard.machine.checksum
    commands = [
        shard.command(LeaseGrantRequest(ID=51, TTL=5)),
        shard.command(PutRequest(key=b"a", lease=51)),
        shard.command(LeaseRevokeRequest(ID=50)),
        shard.command(LeaseGrantRequest(ID=50, TTL=9)),
        shard.command(LeaseRevokeRequest(ID=52)),
    ]
    shard.connection.execute("BEGIN IMMEDIATE")
    shard.apply_uncommitted(*commands)
    assert shard.machine.checksum != before
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert shard.machine.checksum == before
    assert shard.machine.leases.take_changed() == set()
    leases = shard.machine.leases.of_table(TABLE)
    assert {lease.id: lease.ttl_s for lease in leases.values()} == {50: 60, 52: 60}
    assert [result.error for result in shard.apply(*commands)] == [None] * 5
    assert shard.machine.leases.take_changed() == {(TABLE, 50), (TABLE, 51), (TABLE, 52)}


def test_replicas_with_different_leases_differ() -> None:
    left, right = Shard(), Shard()
    for shard in (left, right):
        shard.grant(1)
    assert left.machine.checksum == right.machine.checksum
    left.grant(2, 60)
    right.grant(2, 61)
    assert left.machine.checksum != right.machine.checksum


def test_keys_of_a_lease_are_read_on_another_connection(tmp_path: Path) -> None:
    shard = Shard(str(tmp_path / "db"))
    shard.grant(50)
    shard.put(b"b", lease=50)
    shard.put(b"a", lease=50)
    reader = apsw.Connection(str(tmp_path / "db"), apsw.SQLITE_OPEN_READONLY)
    assert shard.machine.lease_keys(reader, TABLE, 50) == [b"a", b"b"]
    reader.close()


def counted(
    shard: Shard, lease_id: int, left_ms: int, granted_at: int | None = None
) -> frames.LeaseCheckpoints:
    """What a leader writes down of this lease."""
    if granted_at is None:
        lease = shard.machine.leases.get(TABLE, lease_id)
        assert lease is not None
        granted_at = lease.granted_at
    one = frames.LeaseCheckpoint(id=lease_id, granted_at=granted_at, left_ms=left_ms)
    return frames.LeaseCheckpoints(leases=[one])


def left_ms(shard: Shard, lease_id: int) -> int:
    lease = shard.machine.leases.get(TABLE, lease_id)
    assert lease is not None
    return lease.left_ms


def test_what_is_left_of_a_lease_is_written_down(tmp_path: Path) -> None:
    shard = Shard()
    shard.grant(5, 60)
    assert left_ms(shard, 5) == 60_000
    before = shard.machine.checksum
    shard.machine.leases.take_changed()
    revision = shard.machine.table_status()[0].revision
    shard.write(counted(shard, 5, 7_500))
    assert left_ms(shard, 5) == 7_500
    assert shard.machine.table_status()[0].revision == revision
    assert shard.machine.leases.take_changed() == set()
    assert shard.machine.leases.take_counted() == {(TABLE, 5)}
    assert shard.machine.checksum != before
    shard.machine.reload()
    assert left_ms(shard, 5) == 7_500
    shard.write(counted(shard, 5, 1 << 63))
    assert left_ms(shard, 5) == 60_000, "never more than it was granted for"
    assert shard.machine.checksum == before


def test_what_is_left_of_another_lease_or_none_changes_nothing() -> None:
    shard = Shard()
    shard.grant(5, 60)
    before = shard.machine.checksum
    shard.write(counted(shard, 5, 7_500, granted_at=1))
    shard.write(counted(shard, 404, 7_500, granted_at=1))
    assert shard.machine.checksum == before
    assert shard.machine.leases.take_counted() == set()


def test_what_was_written_down_in_a_turn_that_is_rolled_back_is_not() -> None:
    shard = Shard()
    shard.grant(5, 60)
    before = shard.machine.checksum
    shard.connection.execute("BEGIN IMMEDIATE")
    shard.apply_uncommitted(shard.command(counted(shard, 5, 7_500)))
    assert left_ms(shard, 5) == 7_500
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert left_ms(shard, 5) == 60_000
    assert shard.machine.checksum == before
    assert shard.machine.leases.take_counted() == set()
