"""A copy that becomes a table of its own, and a table that becomes a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors
from proto.catalog import CATALOG_ID
from proto.etcd.rpc_pb2 import LeaseGrantRequest, PutRequest
from proto.internal import frames_pb2 as frames
from proto.methods import LEVEL
from shardworker.machine.level import FIRST, MachineLevel
from shardworker.machine.replication.copied_leases import (
    FORGET_FROM,
    LOOKS_AGAIN_SINCE,
    CopiedLeases,
    read_copied_leases,
)
from shardworker.machine.whole_shard import GIVES_UP_SINCE, UNKNOWN_TTL_S
from tests.unit.machine.copying import COPY, contents, follower, leader, position, replicate, take_part, told
from tests.unit.machine.saving import backup_of, begin
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from collections.abc import Iterable

LEASE = 77


def change(shard: Shard, table: int, was: int, origin: int) -> errors.BoathouseError | None:
    return shard.write(frames.TableOrigin(table_id=table, was=was, origin=origin)).error


def pair() -> tuple[Shard, Shard]:
    """A table with a key of a lease, and its copy, which is level."""
    one, other = leader(), follower()
    one.write(LeaseGrantRequest(ID=LEASE, TTL=600))
    one.put(b"lock", b"mine", lease=LEASE)
    one.put(b"a", b"1")
    assert replicate(other, told_with_leases(one, 2, {LEASE: 600})).error is None
    return one, other


def rise(shard: Shard, level: int) -> None:
    assert shard.write(frames.MachineLevel(level=level)).error is None


def told_with_leases(shard: Shard, first: int, leases: dict[int, int]) -> frames.TableChanges:
    changes = told(shard.machine.take_changes(), first)
    for lease_id, ttl_s in leases.items():
        changes.leases.add(id=lease_id, ttl_s=ttl_s)
    return changes


def test_a_promoted_copy_takes_writes_from_where_it_is() -> None:
    one, other = pair()
    before = position(other, COPY), contents(other, COPY)
    assert isinstance(other.write(PutRequest(key=b"b"), table=COPY).error, errors.TableReplicated)
    assert change(other, COPY, TABLE, 0) is None
    assert (position(other, COPY), contents(other, COPY)) == before
    assert other.write(PutRequest(key=b"b"), table=COPY).revision == before[0][0] + 1
    one.put(b"a", b"2")
    late = told(one.machine.take_changes(), 4)
    assert isinstance(replicate(other, late).error, errors.OtherOrigin)


def test_the_leases_of_its_keys_live_from_then_on() -> None:
    _, other = pair()
    assert not other.machine.leases.of_table(COPY)
    change(other, COPY, TABLE, 0)
    assert {id_: lease.ttl_s for id_, lease in other.machine.leases.of_table(COPY).items()} == {LEASE: 600}
    assert other.machine.leases.take_changed() == {(COPY, LEASE)}
    # Done twice it is done: a lease that ended meanwhile does not come back.
    lease = other.machine.leases.get(COPY, LEASE)
    assert lease is not None
    expired = frames.ExpiredLeases()
    expired.leases.add(id=LEASE, granted_at=lease.granted_at)
    assert other.write(expired, table=COPY).error is None
    assert change(other, COPY, TABLE, 0) is None
    assert not other.machine.leases.of_table(COPY)


def test_a_lease_of_which_nothing_is_known_lives_for_a_while() -> None:
    one, other = leader(), follower()
    one.write(LeaseGrantRequest(ID=LEASE, TTL=600))
    one.put(b"lock", b"mine", lease=LEASE)
    replicate(other, told_with_leases(one, 2, {}))
    change(other, COPY, TABLE, 0)
    assert other.machine.leases.granted_for(COPY, LEASE) == UNKNOWN_TTL_S


def test_leases_come_with_a_snapshot_also_from_a_copy() -> None:
    one, other = pair()
    for giver, table in ((one, TABLE), (other, COPY)):
        request = giver.machine.parse(frames.TABLE_PAIRS, table, b"")
        (body,) = [result.body for result in giver.machine.iterate(giver.connection, request)]
        part = frames.TablePairs.FromString(body)
        assert [(lease.id, lease.ttl_s) for lease in part.leases] == [(LEASE, 600)]
        third = follower()
        assert take_part(third, part).error is None
        change(third, COPY, TABLE, 0)
        assert third.machine.leases.granted_for(COPY, LEASE) == 600


def test_a_backup_of_a_copy_has_the_leases_that_its_keys_name() -> None:
    """In a file of its past, too: what is set aside is such a copy, and keys without their lease would never end."""
    _, other = pair()
    asked = other.machine.parse(frames.ETCD_SNAPSHOT, COPY, b"")
    header, *_ = [result.body for result in other.machine.iterate(other.connection, asked)]
    for extras in (backup_of(other, COPY).facts.extras, frames.TablePiece.FromString(header).header.extras):
        assert list(extras.leases) == [frames.KeptLease(id=LEASE, ttl_s=600, left_s=600)]


def note(shard: Shard, leases: range) -> None:
    """In a change that names none of them any more."""
    changes = frames.TableChanges(first=4, through=3)
    for lease_id in leases:
        changes.leases.add(id=lease_id, ttl_s=10)
    assert replicate(shard, changes).error is None


def test_leases_that_no_key_names_any_more_are_forgotten_when_they_are_many() -> None:
    _, other = pair()
    rise(other, LOOKS_AGAIN_SINCE)
    note(other, range(1_000, 1_000 + FORGET_FROM - 2))
    assert len(other.machine.leases.copied.of(COPY)) == FORGET_FROM - 1
    note(other, range(10_000, 10_003))  # however many come at once
    assert dict(other.machine.leases.copied.of(COPY)) == {LEASE: 600}


def test_before_that_level_they_are_forgotten_as_earlier_builds_do() -> None:
    _, other = pair()
    copied = other.machine.leases.copied
    note(other, range(1_000, 1_000 + FORGET_FROM))
    assert len(copied.of(COPY)) == FORGET_FROM + 1, "it was no power of two"
    note(other, range(10_000, 10_000 + FORGET_FROM - 1))
    assert dict(copied.of(COPY)) == {LEASE: 600}
    found = other.connection.execute("SELECT id FROM copied_leases").fetchall()
    assert found == [(LEASE,)], "earlier builds know no other rows"
    note(other, range(1_000, 1_000 + FORGET_FROM))
    rise(other, LOOKS_AGAIN_SINCE)
    note(other, range(1_000, 1_001))
    assert dict(copied.of(COPY)) == {LEASE: 600}


def test_it_is_looked_for_them_seldom_and_alike_after_a_restart() -> None:
    connection = follower().connection
    level = MachineLevel(connection, LEVEL)
    level.rise(LOOKS_AGAIN_SINCE)
    copied, looks = CopiedLeases(connection, level), []
    many = dict.fromkeys(range(1, FORGET_FROM + 1), 10)

    def named() -> Iterable[int]:
        looks.append(len(copied.of(COPY)))
        return many

    copied.note(COPY, many, named)
    for lease_id in range(10_000, 10_000 + FORGET_FROM - 1):
        copied.note(COPY, {lease_id: 10}, named)
    assert looks == [FORGET_FROM], "nothing was forgotten, so it is some time to the next look"
    copied = CopiedLeases(connection, level)
    assert len(list(read_copied_leases(connection, COPY))) == 2 * FORGET_FROM - 1
    connection.execute("BEGIN")
    copied.note(COPY, {20_000: 10}, named)
    assert (looks[1:], copied.of(COPY).keys()) == ([2 * FORGET_FROM], many.keys())
    connection.execute("ROLLBACK")
    copied.rollback()
    assert len(copied.of(COPY)) == 2 * FORGET_FROM - 1
    copied.note(COPY, {20_000: 10}, named)
    assert looks[2:] == [2 * FORGET_FROM]
    copied.drop_table(COPY)
    assert not connection.execute("SELECT * FROM copied_leases").fetchall()


def test_a_cluster_that_gives_way_remembers_what_its_leases_were_granted_for() -> None:
    one, _ = pair()
    change(one, TABLE, 0, COPY)
    assert one.machine.leases.granted_for(TABLE, LEASE) == 600
    change(one, TABLE, COPY, 0)
    assert {lease.ttl_s for lease in one.machine.leases.of_table(TABLE).values()} == {600}


def test_what_was_begun_beside_a_table_ends_with_its_origin() -> None:
    """A snapshot that is half there, or a restore: nobody goes on with it, and its rows would stay."""
    _, other = pair()
    rise(other, GIVES_UP_SINCE)
    part = frames.TablePairs(revision=9, checksum=9)
    assert take_part(other, part).error is None
    assert change(other, COPY, TABLE, 0) is None
    assert other.write(begin(), table=COPY).error is None
    assert change(other, COPY, 0, TABLE) is None
    for rows in (f"s{COPY}_live", f"r{COPY}_live"):
        found = "SELECT count(*) FROM sqlite_schema WHERE name = ?"
        assert other.connection.execute(found, (rows,)).get == 0, rows
    part.number, part.last = 1, True
    assert isinstance(take_part(other, part).error, errors.SnapshotInterrupted)


def test_before_that_level_it_stays_as_in_earlier_builds() -> None:
    _, other = pair()
    assert other.machine.level == FIRST
    assert take_part(other, frames.TablePairs(revision=9, checksum=9)).error is None
    assert change(other, COPY, TABLE, 0) is None
    found = "SELECT count(*) FROM sqlite_schema WHERE name = ?"
    assert other.connection.execute(found, (f"s{COPY}_live",)).get == 1


def test_a_table_that_gives_way_takes_no_writes_and_has_no_leases() -> None:
    one, _ = pair()
    before = position(one, TABLE), contents(one, TABLE)
    assert change(one, TABLE, 0, COPY) is None
    assert isinstance(one.write(PutRequest(key=b"b")).error, errors.TableReplicated)
    assert not one.machine.leases.of_table(TABLE)
    assert (position(one, TABLE), contents(one, TABLE)) == before
    assert one.machine.table_status()[0].origin == COPY


def test_it_copies_from_there_if_it_is_not_ahead() -> None:
    one, other = pair()
    other.machine.listen({COPY: one.machine._recorder.listening(TABLE)})  # type: ignore[dict-item]
    change(one, TABLE, 0, COPY)
    change(other, COPY, TABLE, 0)
    other.write(PutRequest(key=b"new"), table=COPY)
    back = frames.ReplicatedChanges(origin=COPY, changes=told(other.machine.take_changes(), 4))
    assert one.write(back).error is None
    assert position(one, TABLE) == position(other, COPY)


def test_what_is_otherwise_than_told_stays() -> None:
    one, other = pair()
    assert isinstance(change(other, COPY, TABLE + 1, 0), errors.OtherOrigin)
    assert isinstance(change(one, TABLE, COPY, COPY + 1), errors.OtherOrigin)
    assert isinstance(change(one, 555, 0, COPY), errors.TableNotFound)
    assert other.machine.origin_of(COPY) == TABLE
    assert one.machine.origin_of(TABLE) == 0


def test_boathouses_own_tables_are_nobodys_copies() -> None:
    catalog = Shard(shard=1)
    assert isinstance(change(catalog, CATALOG_ID, 0, COPY), errors.InvalidRequest)
    assert catalog.machine.origin_of(CATALOG_ID) == 0


def test_all_of_it_survives_a_restart(tmp_path: object) -> None:
    path = f"{tmp_path}/db"
    shard = follower(path)
    change(shard, COPY, TABLE, 0)
    again = Shard(path, create=False)
    assert again.machine.origin_of(COPY) == 0
    assert again.machine.checksum == shard.machine.checksum
