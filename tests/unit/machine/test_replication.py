"""A copy of another cluster's table: the same at the same revision, or refused and left as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import pytest

from proto import errors
from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2
from shardworker.machine import Listen
from shardworker.machine.columns import LIVE_ROWS
from shardworker.machine.pairs import parse
from shardworker.machine.replication import snapshot
from shardworker.machine.tables import SUB_BITS
from tests.unit.machine.copying import (
    COPY,
    contents,
    follower,
    leader,
    past,
    position,
    replicate,
    snapshot_of,
    take_part,
    told,
)
from tests.unit.machine.shard import TABLE, Shard, delete, put, txn

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.machine import Change


def program(shard: Shard) -> list[Change]:
    """Writes of all kinds, revisions 2 to 7."""
    shard.put(b"a", b"1")
    shard.put(b"a", b"2")
    shard.put(b"b", b"3")
    shard.write(txn(put(b"c", b"4"), put(b"d", b"5"), delete(b"a")))
    shard.delete(b"b", b"d")
    shard.put(b"b", b"6")
    return shard.machine.take_changes()


def test_a_copy_has_the_same_revisions_pairs_and_checksum() -> None:
    one, other = leader(), follower()
    changes = program(one)
    result = replicate(other, told(changes, 2))
    assert result.error is None
    assert result.revision == 7
    assert position(other, COPY) == position(one, TABLE)
    assert contents(other, COPY) == contents(one, TABLE)
    assert past(other, COPY, 1) == past(one, TABLE, 1)


def test_who_follows_the_copy_hears_of_the_leaders_revisions() -> None:
    one, other = leader(), follower()
    other.machine.listen({COPY: Listen.CHANGES})
    changes = program(one)
    replicate(other, told(changes, 2))
    heard = other.machine.take_changes()
    assert [(each.revision, each.edits, each.checksum) for each in heard] == [
        (each.revision, each.edits, each.checksum) for each in changes
    ]


def test_what_a_copy_has_already_is_no_error_and_changes_nothing() -> None:
    one, other = leader(), follower()
    changes = program(one)
    replicate(other, told(changes[:4], 2))
    before = other.machine.checksum
    assert replicate(other, told(changes[:4], 2)).error is None
    assert replicate(other, told(changes[:2], 2)).error is None
    assert other.machine.checksum == before
    # What overlaps is applied from where the copy stands.
    assert replicate(other, told(changes, 2)).error is None
    assert position(other, COPY) == position(one, TABLE)


def refused(
    shard: Shard, changes: frames.TableChanges, *, origin: int = TABLE
) -> type[errors.BoathouseError]:
    before = (position(shard, COPY), contents(shard, COPY), shard.machine.checksum)
    result = replicate(shard, changes, origin=origin)
    assert result.error is not None
    assert (position(shard, COPY), contents(shard, COPY), shard.machine.checksum) == before
    return type(result.error)


def test_a_gap_is_refused() -> None:
    one, other = leader(), follower()
    changes = program(one)
    assert refused(other, told(changes[1:], 3)) is errors.ReplicationGap
    assert refused(other, told(changes[:1] + changes[2:], 2)) is errors.ReplicationGap
    promised = told(changes[:3], 2)
    promised.through = 6
    assert refused(other, promised) is errors.ReplicationGap


def test_a_checksum_that_differs_is_refused_whole() -> None:
    one, other = leader(), follower()
    changes = told(program(one), 2)
    changes.checksum ^= 1
    assert refused(other, changes) is errors.Diverged


def test_a_checksum_is_compared_though_there_is_nothing_new() -> None:
    one, other = leader(), follower()
    replicate(other, told(program(one), 2))
    revision, checksum, _ = position(one, TABLE)
    quiet = frames.TableChanges(first=revision + 1, through=revision, checksum=checksum)
    assert replicate(other, quiet).error is None
    quiet.checksum ^= 1
    assert refused(other, quiet) is errors.Diverged


@pytest.mark.parametrize(("place", "with_checksum"), [(2, False), (3, True), (4, False), (5, False)])
def test_what_does_not_follow_from_the_copy_is_refused(place: int, with_checksum: bool) -> None:
    """The copy has other contents at the same revision. Without a checksum it is noticed by what a change is of."""
    one, other, stray = leader(), follower(), leader()
    changes = program(one)
    for key in (b"a", b"b", b"b", b"e", b"f"):
        stray.put(key, b"1")
    replicate(other, told(stray.machine.take_changes()[:place], 2))
    rest = told(changes[place:], place + 2, with_checksum=with_checksum)
    assert refused(other, rest) is errors.Diverged


def test_a_put_that_is_not_the_next_version_is_refused() -> None:
    one, other = leader(), follower()
    one.put(b"a")
    one.put(b"a")
    _, second = one.machine.take_changes()
    forged = told([second], 2, with_checksum=False)
    forged.through = forged.revisions[0].revision = 3
    assert refused(other, forged) is errors.ReplicationGap
    changes = program(leader())
    replicate(other, told(changes[:1], 2))
    skipped = told(changes[1:2], 3, with_checksum=False)
    pair = frames.TableChanges.FromString(skipped.SerializeToString()).revisions[0].keys[0]
    kv = bytearray(pair.kv)
    at = kv.index(b"\x20\x02")  # version 2
    kv[at + 1] = 3
    skipped.revisions[0].keys[0].kv = bytes(kv)
    assert refused(other, skipped) is errors.Diverged


def test_changes_of_another_table_are_refused() -> None:
    changes = told(program(leader()), 2)
    assert refused(follower(), changes, origin=TABLE + 1) is errors.OtherOrigin
    own = Shard()
    own.write(frames.TableSpec(id=COPY, name="own", history=-1))
    assert refused(own, changes) is errors.OtherOrigin


@pytest.mark.parametrize(
    "request_",
    [
        put(b"a"),
        delete(b"a"),
        txn(put(b"a")),
        etcd.CompactionRequest(revision=1),
        regatta_pb2.PutRequest(table=b"t", key=b"a"),
    ],
)
def test_a_copy_takes_no_other_writes(request_: put) -> None:  # type: ignore[valid-type]
    shard = follower()
    result = shard.write(request_, table=COPY)
    assert type(result.error) is errors.TableReplicated


@pytest.mark.parametrize("damage", ["key", "revision", "cut", "two", "empty"])
def test_a_malformed_batch_is_refused(damage: str) -> None:
    changes = told(program(leader())[:1], 2)
    edit = changes.revisions[0].keys[0]
    if damage == "key":
        edit.key = b"z"
    elif damage == "revision":
        changes.revisions[0].revision = changes.through = 3
    elif damage == "cut":
        edit.kv = edit.kv[:-1]
    elif damage == "two":
        edit.kv += edit.kv
    else:
        changes.revisions[0].ClearField("keys")
    assert refused(follower(), changes) is errors.MalformedRequest


def test_compaction_travels_with_the_changes() -> None:
    one, other = leader(), follower()
    changes = program(one)
    batch = told(changes[:3], 2)
    batch.compacted = 6
    replicate(other, batch)
    (status,) = other.machine.table_status()
    assert status.compacted_revision == 4  # no further than the copy goes
    rest = told(changes[3:], 5)
    rest.compacted = 6
    replicate(other, rest)
    (status,) = other.machine.table_status()
    assert status.compacted_revision == 6


def test_a_table_without_history_is_copied_without() -> None:
    one, other = leader(history=0), follower(history=0)
    for change in program(one):
        replicate(other, told([change], change.revision))
    assert position(other, COPY) == position(one, TABLE)
    assert contents(other, COPY) == contents(one, TABLE)
    other.sweep()
    one.sweep()
    assert other.rows(COPY) == one.rows(TABLE)


def test_what_is_rolled_back_was_never_applied() -> None:
    one, other = leader(), follower()
    changes = program(one)
    before = other.machine.checksum
    command = other.command(frames.ReplicatedChanges(origin=TABLE, changes=told(changes, 2)), COPY)
    new = other.command(frames.TableSpec(id=COPY + 1, name="u", history=-1, origin=9), COPY)
    other.connection.execute("BEGIN IMMEDIATE")
    other.apply_uncommitted(command, new)
    other.connection.execute("ROLLBACK")
    other.machine.rollback()
    assert other.machine.checksum == before
    assert other.machine.origin_of(COPY + 1) == 0
    assert replicate(other, told(changes, 2)).error is None
    assert position(other, COPY) == position(one, TABLE)


def test_an_origin_outlives_a_restart(tmp_path: Path) -> None:
    shard = follower(str(tmp_path / "s.db"))
    shard.machine.reload()
    assert shard.machine.origin_of(COPY) == TABLE
    status = frames.TableStatus.FromString(shard.read_as(frames.TABLE_STATUS, b"", COPY).body)
    assert status.origin == TABLE
    again = shard.write(frames.TableSpec(id=COPY, name="t", history=-1, origin=TABLE + 1))
    assert type(again.error) is errors.TableContradicted


# ---- snapshots ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PART_PAIRS_MAX", 2)


def filled() -> Shard:
    shard = leader()
    program(shard)
    for number in range(5):
        shard.put(b"k%d" % number, b"v%d" % number)
    return shard


@pytest.mark.usefixtures("small_parts")
def test_a_snapshot_takes_the_place_of_everything() -> None:
    one, other = filled(), follower()
    stray = leader()
    for number in range(20):
        stray.put(b"stray%d" % number)
    replicate(other, told(stray.machine.take_changes(), 2))
    parts = snapshot_of(one)
    assert [len(part.ids) for part in parts] == [2, 2, 2, 1]
    for part in parts[:-1]:
        before = contents(other, COPY)
        assert take_part(other, part).error is None
        assert contents(other, COPY) == before  # until the last part nobody sees any
    result = take_part(other, parts[-1])
    assert result.error is None
    assert result.revision == 12
    assert position(other, COPY) == position(one, TABLE)
    assert contents(other, COPY) == contents(one, TABLE)
    # And it goes on from there, deletions included.
    one.machine.take_changes()
    one.put(b"a", b"7")
    one.delete(b"k", b"l")
    assert replicate(other, told(one.machine.take_changes(), 13)).error is None
    assert position(other, COPY) == position(one, TABLE)
    assert contents(other, COPY) == contents(one, TABLE)


def test_a_snapshot_of_nothing_is_one_too() -> None:
    one, other = leader(), follower()
    one.put(b"a")
    one.delete(b"a")
    (part,) = snapshot_of(one)
    assert take_part(other, part).error is None
    assert position(other, COPY) == position(one, TABLE)


def test_the_past_of_a_snapshot_is_compacted() -> None:
    one, other = filled(), follower()
    other.machine.listen({COPY: Listen.CHANGES})
    for part in snapshot_of(one):
        take_part(other, part)
    (heard,) = other.machine.take_changes()
    assert (heard.revision, heard.missing) == (12, True)
    (status,) = other.machine.table_status()
    assert status.compacted_revision == 12
    before = contents(other, COPY)
    other.sweep()
    assert not other.machine.is_compacting, "nothing but what the snapshot replaced"
    assert contents(other, COPY) == before


def test_a_part_of_many_pairs_is_taken_whole() -> None:
    one, other = leader(), follower()
    many = 2 * LIVE_ROWS + 5
    for number in range(many):
        one.put(b"k%d" % number, b"v%d" % number)
    (part,) = snapshot_of(one)
    assert take_part(other, part).error is None
    assert contents(other, COPY) == contents(one, TABLE)
    assert position(other, COPY) == position(one, TABLE)
    live: Any = other.connection.execute(f"SELECT count(*) FROM t{COPY}_live").get  # noqa: S608
    assert live == many


def interrupted(shard: Shard, part: frames.TablePairs) -> None:
    before = shard.machine.checksum
    assert type(take_part(shard, part).error) is errors.SnapshotInterrupted
    assert shard.machine.checksum == before


@pytest.mark.usefixtures("small_parts")
def test_parts_are_taken_in_order_and_of_one_snapshot() -> None:
    one, other = filled(), follower()
    parts = snapshot_of(one)
    interrupted(other, parts[1])
    take_part(other, parts[0])
    interrupted(other, parts[2])
    one.put(b"x")
    interrupted(other, snapshot_of(one)[1])
    take_part(other, parts[1])
    interrupted(other, parts[1])
    # The first part begins anew whatever was there.
    for part in parts:
        assert take_part(other, part).error is None
    assert contents(other, COPY) != b""
    (status,) = other.machine.table_status()
    assert status.size_bytes == other.rows_bytes(COPY)


@pytest.mark.usefixtures("small_parts")
def test_a_snapshot_that_was_overtaken_is_not_taken_over() -> None:
    one, other = filled(), follower()
    parts = snapshot_of(one)
    for part in parts[:-1]:
        take_part(other, part)
    replicate(other, told(program(leader())[:1], 2))
    interrupted(other, parts[-1])


def test_what_the_entry_had_replaced_is_not_removed_from_the_snapshot() -> None:
    one, stray, other = leader(history=0), leader(history=0), follower(history=0)
    stray.put(b"a", b"1")
    stray.put(b"a", b"2")
    first, second = stray.machine.take_changes()
    one.put(b"b", b"3")
    (part,) = snapshot_of(one)
    replicate(other, told([first], 2))
    results = other.apply(
        other.command(frames.ReplicatedChanges(origin=TABLE, changes=told([second], 3)), COPY),
        other.command(frames.ReplicatedPairs(origin=TABLE, part=part), COPY),
    )
    assert [result.error for result in results] == [None, None]
    assert other.rows(COPY) == one.rows(TABLE) == [(2, b"b", True)]


@pytest.mark.usefixtures("small_parts")
def test_a_snapshot_goes_on_after_a_restart(tmp_path: Path) -> None:
    one, other = filled(), follower(str(tmp_path / "s.db"))
    parts = snapshot_of(one)
    take_part(other, parts[0])
    other.machine.reload()
    for part in parts[1:]:
        assert take_part(other, part).error is None
    assert position(other, COPY) == position(one, TABLE)


@pytest.mark.parametrize("damage", ["pairs", "ids", "order", "future"])
def test_a_damaged_part_is_refused(damage: str) -> None:
    (part,) = snapshot_of(filled())
    if damage == "pairs":
        part.pairs = part.pairs[:-1] + b"!"
    elif damage == "ids":
        del part.ids[-1]
    elif damage == "order":
        part.ids[0], part.ids[1] = part.ids[1], part.ids[0]
    else:
        part.revision = 3
    assert type(take_part(follower(), part).error) is errors.MalformedRequest


def part_of(pairs: bytes, ids: list[int], *, revision: int = 7) -> frames.TablePairs:
    """A snapshot whose checksum is right, whatever is in it."""
    return frames.TablePairs(
        revision=revision, pairs=pairs, ids=ids, crc=crc32(pairs), last=True, keys=len(ids)
    )


def pair(key: bytes, revision: int = 7) -> bytes:
    kv = kv_pb2.KeyValue(key=key, create_revision=revision, mod_revision=revision, version=1)
    return etcd.RangeResponse(kvs=[kv]).SerializeToString()


ID = 7 << SUB_BITS
NO_SNAPSHOT: Final = {
    "a tag alone": part_of(b"\x1a", [ID]),
    "half a length": part_of(b"\x12\x80", [ID]),
    "half a pair": part_of(pair(b"a")[:-1], [ID]),
    "other fields": part_of(b"\x18\x01\x18\x01", []),
    "a field that takes a pair's place": part_of(b"\x18\x01" + pair(b"a"), [ID]),
    "a number behind a pair": part_of(pair(b"a") + b"\x20\x05", [ID]),
    "two keys of one id": part_of(pair(b"a") + pair(b"b"), [ID, ID]),
    "a revision that no table has": part_of(b"", [], revision=2**39),
    "a revision before the first": part_of(b"", [], revision=0),
    "an id that no change has": part_of(pair(b"a", 2**39), [2**63], revision=2**39),
}


@pytest.mark.parametrize("kind", NO_SNAPSHOT)
def test_what_no_snapshot_holds_is_refused_in_words(kind: str) -> None:
    other = follower()
    assert type(take_part(other, NO_SNAPSHOT[kind]).error) is errors.MalformedRequest
    (whole,) = snapshot_of(filled())
    assert take_part(other, whole).error is None


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_repeats_an_id_of_an_earlier_one_interrupts_the_snapshot() -> None:
    one, other = filled(), follower()
    parts = snapshot_of(one)
    take_part(other, parts[0])
    wrong = frames.TablePairs.FromString(parts[1].SerializeToString())
    pairs = [kv_pb2.KeyValue.FromString(kv.SerializeToString()) for kv in parse(wrong.pairs)]
    pairs[1].create_revision = pairs[1].mod_revision = parts[0].ids[0] >> SUB_BITS
    wrong.ids[1] = parts[0].ids[0]
    wrong.pairs = etcd.RangeResponse(kvs=pairs).SerializeToString()
    wrong.crc = crc32(wrong.pairs)
    interrupted(other, wrong)
    for part in parts[1:]:
        assert take_part(other, part).error is None, "nothing of the other part is left"
    assert position(other, COPY) == position(one, TABLE)


def test_a_change_holds_its_pair_and_nothing_beside() -> None:
    one, other = leader(), follower()
    one.put(b"a")
    changes = told(one.machine.take_changes(), 2, with_checksum=False)
    kv = changes.revisions[0].keys[0].kv
    for wrong in (kv + b"\x18\x01", b"\x18\x01" + kv):
        changes.revisions[0].keys[0].kv = wrong
        assert type(replicate(other, changes).error) is errors.MalformedRequest
    changes.revisions[0].keys[0].kv = kv
    assert replicate(other, changes).error is None


def test_a_snapshot_of_another_table_is_refused() -> None:
    (part,) = snapshot_of(filled())
    assert type(take_part(follower(), part, origin=5).error) is errors.OtherOrigin


@pytest.mark.usefixtures("small_parts")
def test_a_deleted_copy_leaves_nothing_behind() -> None:
    one, other = filled(), follower()
    take_part(other, snapshot_of(one)[0])
    deleted = frames.TableSpec(id=COPY, name="t").SerializeToString()
    command = frames.Command(
        method=frames.TABLE_DELETE, table_id=COPY, body=deleted, request_id=other.new_id()
    )
    (result,) = other.apply(command)
    assert result.error is None
    other.sweep()
    assert other.machine.origin_of(COPY) == 0
    names = "SELECT name FROM sqlite_schema WHERE name LIKE '%20001%'"
    assert list(other.connection.execute(names)) == []
    assert list(other.connection.execute("SELECT * FROM snapshots_under_way")) == []
