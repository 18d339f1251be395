"""What a promotion would lose of each table."""

from __future__ import annotations

from proto.catalog import ELSEWHERE, TableEntry
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta.replication_pb2 import Position, Table
from tools.admin.standings import UNKNOWN, Standing, behind, compare, unknown

COPY = TableEntry("t", 20_001, ShardId(1), origin=10_001)


def stands(revision: int, checksum: int = 7, auth_version: int = 2) -> frames.TableStatus:
    return frames.TableStatus(revision=revision, checksum=checksum, auth_version=auth_version)


def table(revision: int, checksum: int = 7, auth_version: int = 0) -> Table:
    position = Position(revision=revision, checksum=checksum, auth_version=auth_version)
    return Table(name="t", id=10_001, position=position)


def compared(there: Table, here: frames.TableStatus, *, went_on: bool = False) -> Standing:
    (standing,) = compare([there], {COPY: here}, went_on=went_on)
    return standing


def test_only_the_same_position_is_level() -> None:
    assert compared(table(9), stands(9)) == Standing("t", 9, 0, "")
    assert compared(table(9), stands(6)) == Standing("t", 6, 3, "3 revisions")
    for parted in (stands(9, checksum=8), stands(10)):
        assert "parted, up to revision 9" in compared(table(9), parted).why
    assert "users" in compared(table(9, auth_version=4), stands(9)).why
    assert compared(table(9, auth_version=2), stands(9)).is_level


def test_a_copy_may_have_gone_on_since_it_was_asked() -> None:
    assert compared(table(9), stands(10), went_on=True).is_level
    assert not compared(table(9), stands(9, checksum=8), went_on=True).is_level
    assert not compared(table(9), stands(8), went_on=True).is_level


def test_what_is_not_told_is_not_level() -> None:
    silent = Table(name="t", id=10_001)
    assert compared(silent, stands(9)) == Standing("t", 9, None, UNKNOWN)
    assert unknown({COPY: stands(9)}) == [Standing("t", 9, None, UNKNOWN)]


def test_tables_count_by_id_and_not_by_name() -> None:
    again = table(9)
    again.id = 10_004
    standings = compare([again], {COPY: stands(9)})
    assert [(one.revision, one.lacks, one.why) for one in standings] == [
        (None, 9, "all of it: it is not copied"),
        (9, None, "its deletion"),
    ]
    assert behind(standings) == standings


def test_local_tables_and_what_led_before_are_no_matter() -> None:
    before = TableEntry("before", 20_002, ShardId(1), origin=ELSEWHERE)
    local = Table(name="l", id=10_002, type=Table.LOCAL)
    assert compare([local], {before: stands(5)}) == []
    assert unknown({before: stands(5)}) == []
