"""A backup in the place of what a table holds: all of it at once, or nothing; revisions that never go back."""

from __future__ import annotations

import random

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import Listen
from tests.unit.machine.copying import COPY, contents, follower, position
from tests.unit.machine.saving import (
    ATTEMPT,
    backup_of,
    begin,
    end,
    give_users,
    pairs_part,
    parts_of,
    restore,
)
from tests.unit.machine.shard import TABLE, Shard, delete, put, txn

EVERYTHING = etcd.RangeRequest(key=b"\0", range_end=b"\0")


def filled() -> Shard:
    """At revision 6."""
    shard = Shard()
    shard.put(b"a", b"1")
    shard.put(b"a", b"2")
    shard.write(txn(put(b"b", b"3"), put(b"c", b""), delete(b"none")))
    shard.put(b"d", b"4")
    shard.write(etcd.DeleteRangeRequest(key=b"d"))
    return shard


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_new_table_is_what_was_saved_at_the_same_revision(size: int) -> None:
    shard, new = filled(), Shard()
    backup = backup_of(shard)
    new.write(begin())
    parts = parts_of(backup, size)
    for part in parts:
        new.write(part)
    done = new.write(end(len(parts), keys=3, revision=backup.facts.revision))
    assert done.error is None
    assert frames.RestoredTable.FromString(done.body).keys == 3
    assert done.revision == backup.facts.revision == 6
    assert contents(new, TABLE) == contents(shard, TABLE)
    assert new.put(b"a", b"5") == shard.put(b"a", b"5"), "versions go on"


def test_parts_may_come_in_any_order() -> None:
    shard, one, other = filled(), Shard(), Shard()
    parts = parts_of(backup_of(shard), 1)
    restore(one, parts)
    restore(other, reversed(parts))
    assert contents(one, TABLE) == contents(other, TABLE) == contents(shard, TABLE)


def test_the_revision_goes_on_rising_and_nothing_older_can_be_read() -> None:
    shard = filled()
    backup = backup_of(shard)
    before = contents(shard, TABLE)
    for _ in range(10):
        shard.put(b"a", b"later")
    shard.put(b"new", b"later")
    done = restore(shard, parts_of(backup, 2))
    assert done.revision == 18
    assert contents(shard, TABLE) == before
    for revision in (1, 17):
        past = etcd.RangeRequest(key=b"a", revision=revision)
        assert isinstance(shard.read(past).error, errors.Compacted)
    assert shard.put(b"a", b"5")[0] == 19


def test_what_is_read_and_written_meanwhile_is_the_old_table() -> None:
    shard = filled()
    backup = backup_of(shard)
    shard.put(b"mine", b"1")
    shard.write(begin())
    (part,) = parts_of(backup, 100)
    shard.write(part)
    shard.put(b"mine", b"2")
    assert b"mine" in shard.read(EVERYTHING).body
    assert shard.write(end(1)).error is None
    assert b"mine" not in shard.read(EVERYTHING).body


def test_edits_change_what_came_before() -> None:
    shard = filled()
    base = backup_of(shard)
    shard.put(b"a", b"changed")
    shard.write(etcd.DeleteRangeRequest(key=b"b"))
    shard.put(b"z", b"new")
    later = backup_of(shard)
    by_id = dict(zip(later.ids, later.pairs, strict=True))
    edits = [
        frames.StoredChange(id=7 << 24, key=b"a", kv=by_id[7 << 24]),
        frames.StoredChange(id=8 << 24, key=b"b"),
        frames.StoredChange(id=9 << 24, key=b"z", kv=by_id[9 << 24]),
    ]
    new = Shard()
    done = restore(new, [*parts_of(base, 2), frames.RestoredPart(attempt=ATTEMPT, edits=edits)])
    assert frames.RestoredTable.FromString(done.body).keys == 3
    assert done.revision == 9
    assert contents(new, TABLE) == contents(shard, TABLE)
    table = new.machine.tables.get(TABLE)
    assert table is not None
    assert table.written_bytes == new.rows_bytes(), "what was replaced is not counted"


def test_what_is_not_the_rest_of_it_is_refused_and_changes_nothing() -> None:
    shard = filled()
    before = position(shard, TABLE), contents(shard, TABLE)
    parts = parts_of(backup_of(shard), 1)
    interrupted = errors.RestoreInterrupted
    assert isinstance(shard.write(parts[0]).error, interrupted), "it never began"
    shard.write(begin())
    shard.write(parts[0])
    assert isinstance(shard.write(end(2)).error, interrupted), "a part is missing"
    assert isinstance(shard.write(end(1, attempt=1)).error, interrupted), "another attempt"
    assert isinstance(shard.write(end(1, keys=2)).error, errors.RestoreRefused)
    assert isinstance(shard.write(parts[0]).error, errors.RestoreRefused), "a key comes twice"
    shard.write(parts[1])
    shard.write(begin(attempt=5))
    assert isinstance(shard.write(parts[2]).error, interrupted), "a later attempt has begun"
    give_up = frames.RestoredPart(attempt=5, give_up=True)
    assert shard.write(give_up).error is None
    assert isinstance(shard.write(give_up).error, interrupted)
    assert (position(shard, TABLE), contents(shard, TABLE)) == before
    assert not shard.connection.table_exists("main", f"r{TABLE}_rev")


def test_a_part_that_is_refused_leaves_nothing_of_itself() -> None:
    shard = filled()
    backup = backup_of(shard)
    shard.write(begin())
    shard.write(pairs_part(backup.pairs[1:2], backup.ids[1:2]))
    assert isinstance(shard.write(pairs_part(backup.pairs, backup.ids)).error, errors.RestoreRefused)
    rest = [0, 2]
    part = pairs_part([backup.pairs[n] for n in rest], [backup.ids[n] for n in rest])
    assert shard.write(part).error is None
    assert shard.write(end(2, keys=3)).error is None
    assert backup_of(shard)[1:] == backup[1:]


def test_no_new_revision_may_mean_two_things() -> None:
    shard = filled()
    parts = parts_of(backup_of(shard), 10)
    shard.write(begin())
    shard.write(parts[0])
    assert shard.put(b"a", b"6")[0] == 7
    assert isinstance(shard.write(end(1, fresh_revision=7)).error, errors.RestoreInterrupted)
    assert shard.write(end(1, fresh_revision=8)).error is None


@pytest.mark.parametrize(
    "change",
    [
        lambda part: setattr(part, "crc", part.crc ^ 1),
        lambda part: part.ids.append(1),
        lambda part: part.ids.__setitem__(0, part.ids[0] + (1 << 24)),
        lambda part: part.ids.__setitem__(0, 1),
        lambda part: setattr(part, "begin", True),
        lambda part: part.edits.add(id=1 << 24, key=b"k"),
        lambda part: part.end.SetInParent(),
    ],
)
def test_what_no_table_can_hold_is_refused(change: object) -> None:
    shard = filled()
    (part,) = parts_of(backup_of(shard), 10)
    shard.write(begin())
    change(part)  # type: ignore[operator]
    assert isinstance(shard.write(part).error, errors.MalformedRequest | errors.InvalidRequest)
    assert shard.write(end(0)).error is None, "nothing of it came"


def test_a_table_takes_no_more_than_its_quota() -> None:
    shard = filled()
    parts = parts_of(backup_of(shard), 1)
    shard.write(frames.TableQuota(quota_bytes=150))
    shard.write(begin())
    results = [shard.write(part).error for part in parts]
    assert isinstance(results[-1], errors.QuotaExceeded)


def test_leases_come_with_what_is_left_of_them_and_the_old_ones_end() -> None:
    shard, new = filled(), Shard()
    shard.write(etcd.LeaseGrantRequest(ID=5, TTL=60))
    shard.write(etcd.PutRequest(key=b"leased", value=b"v", lease=5))
    backup = backup_of(shard)
    assert [(one.id, one.ttl_s, one.left_s) for one in backup.facts.extras.leases] == [(5, 60, 60)]
    backup.facts.extras.leases[0].left_s = 9
    for lease_id in (5, 6):
        new.write(etcd.LeaseGrantRequest(ID=lease_id, TTL=100))
    new.machine.leases.take_changed()
    new.write(begin())
    parts = parts_of(backup, 10)
    for part in parts:
        new.write(part)
    assert new.write(end(len(parts), extras=backup.facts.extras)).error is None
    assert [one.ttl_s for one in new.machine.leases.of_table(TABLE).values()] == [60]
    assert new.machine.leases.take_changed() == {(TABLE, 5), (TABLE, 6)}
    lease = new.machine.leases.get(TABLE, 5)
    assert lease is not None
    assert lease.left_ms == 9_000
    new.write(etcd.LeaseRevokeRequest(ID=5))
    assert b"leased" not in new.read(EVERYTHING).body


def test_users_come_to_a_table_that_has_none() -> None:
    shard, new, used = filled(), Shard(), Shard()
    give_users(shard)
    backup = backup_of(shard)
    parts = parts_of(backup, 10)
    give_users(used)
    kept = used.machine.auth.of(TABLE)
    for one in (new, used):
        one.write(begin())
        for part in parts:
            one.write(part)
        assert one.write(end(len(parts), extras=backup.facts.extras)).error is None
    assert new.machine.auth.of(TABLE) == shard.machine.auth.of(TABLE)
    assert used.machine.auth.of(TABLE) is kept


def test_who_listens_is_told_to_look_at_all_of_it() -> None:
    shard = filled()
    shard.machine.listen({TABLE: Listen.CHANGES})
    restore(shard, parts_of(backup_of(shard), 10))
    (change,) = shard.machine.take_changes()
    assert change.missing
    assert change.revision == 7


def test_a_turn_that_is_rolled_back_leaves_the_table_as_it_was() -> None:
    shard = filled()
    before = contents(shard, TABLE), position(shard, TABLE), shard.machine.checksum
    parts = parts_of(backup_of(shard), 10)
    shard.write(etcd.LeaseGrantRequest(ID=5, TTL=60))
    shard.write(begin())
    shard.write(parts[0])
    before = contents(shard, TABLE), position(shard, TABLE), shard.machine.checksum
    shard.connection.execute("BEGIN IMMEDIATE")
    extras = frames.TableExtras(leases=[frames.KeptLease(id=5, ttl_s=9, left_s=3)])
    (result,) = shard.apply_uncommitted(shard.command(end(1, extras=extras)))
    assert result.error is None
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert (contents(shard, TABLE), position(shard, TABLE), shard.machine.checksum) == before
    assert shard.write(end(1)).error is None


def test_replicas_agree_and_go_on_after_a_restart(tmp_path: object) -> None:
    shard = filled()
    backup = backup_of(shard)
    parts = parts_of(backup, 1)
    one, path = Shard(), f"{tmp_path}/db"
    other = Shard(path)
    for replica in (one, other):
        replica.write(begin())
        replica.write(parts[0])
    other.connection.close()
    again = Shard(path, create=False)
    again.index, again._ids = one.index, one._ids
    for replica in (one, again):
        for part in parts[1:]:
            assert replica.write(part).error is None
        assert replica.write(end(3)).error is None
    assert one.machine.checksum == again.machine.checksum


def test_a_copy_takes_no_restore_and_one_that_is_reset_differs_from_its_origin() -> None:
    shard = follower()
    assert isinstance(shard.write(begin(), COPY).error, errors.TableReplicated)
    before = position(shard, COPY)
    other = shard.write(frames.CopyReset(origin=1), COPY)
    assert isinstance(other.error, errors.OtherOrigin)
    assert shard.write(frames.CopyReset(origin=TABLE), COPY).error is None
    revision, checksum, keys = position(shard, COPY)
    assert (revision, keys) == (before[0], before[2])
    assert checksum != before[1]
    own = Shard()
    assert isinstance(own.write(frames.CopyReset(origin=TABLE)).error, errors.OtherOrigin)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_table_holds_comes_back(seed: int) -> None:
    rng = random.Random(seed)
    shard = Shard(history=rng.choice((-1, 0, 3)))
    for _ in range(80):
        key = b"k%d" % rng.randrange(20)
        if rng.random() < 0.3:
            shard.write(etcd.DeleteRangeRequest(key=key, range_end=rng.choice((b"", b"\0"))))
        else:
            shard.put(key, rng.randbytes(rng.randrange(40)))
    backup = backup_of(shard)
    new = Shard(history=shard.machine.table_status()[0].history)
    parts = parts_of(backup, rng.randrange(1, 8))
    rng.shuffle(parts)
    restore(new, parts)
    assert contents(new, TABLE) == contents(shard, TABLE)
    assert backup_of(new)[1:] == backup[1:]
    again = new.write(etcd.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
    assert etcd.DeleteRangeResponse.FromString(again.body).deleted == len(backup.pairs)


def test_what_was_replaced_or_given_up_is_freed_a_few_rows_at_a_time() -> None:
    shard = Shard()
    for number in range(50):
        shard.put(b"k%d" % number, b"v" * 100)
    backup = backup_of(shard)
    restore(shard, parts_of(backup, 20))
    shard.write(begin())
    shard.write(parts_of(backup, 20)[0])
    shard.write(begin(attempt=8))
    shard.write(frames.RestoredPart(attempt=8, give_up=True))
    expected = contents(shard, TABLE)
    steps: list[int] = []
    while shard.machine.is_compacting:
        steps.append(shard.sweep_once(7))
    assert max(steps) == 7
    assert len(steps) > 100 // 7
    names = shard.connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB '[rx][0-9]*'").fetchall()
    assert not names
    assert contents(shard, TABLE) == expected
