"""Damage to any column of any row that has a checksum, in its value or in its type, is found when the row is read."""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import LEVEL
from shardworker.machine.auth_store import AuthStore
from shardworker.machine.dead_tables import DeadTables
from shardworker.machine.level import MachineLevel
from shardworker.machine.moves.results import Arrived, ArrivedResults
from shardworker.machine.moves.states import Move, Moves, State
from shardworker.machine.recoveries import note_recovery, read_recoveries
from shardworker.machine.replication import snapshot
from shardworker.machine.replication.copied_leases import CopiedLeases
from shardworker.machine.replication.followers import Followers
from shardworker.machine.table_cache import TableCache
from tests.unit.machine.copying import COPY, leader, snapshot_of, take_part
from tests.unit.machine.saving import begin, end, give_users
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKSUMS = {
    "answers": 163725231,
    "arrived_results": 1524509228,
    "auth": 1301389836,
    "copied_leases": 593621807,
    "dead_tables": 2894853466,
    "followers": 2870800796,
    "leases": 1635667671,
    "machine": 304476159,
    "moves": 3918953863,
    "origins": 3362780182,
    "recoveries": 2844319735,
    "restores_begun": 674094877,
    "results": 954690317,
    "snapshots_under_way": 557096195,
    "tables": 509608404,
}
"""The least of each table of Filled: what an earlier version has stored must go on being sound."""

UNCHECKED = {
    ("dead_tables", "freed"),
    ("machine", "id"),
    ("recoveries", "id"),
    ("arrived_results", "number"),
    ("restores_begun", "table_id"),
    ("snapshots_under_way", "table_id"),
}
"""What no checksum covers, since it is each replica's own, and by what a row is found."""

DAMAGES = {
    "another value": "CASE typeof({0}) WHEN 'integer' THEN {0} + 1 WHEN 'text' THEN {0} || 'x'"
    " ELSE CAST({0} || 'x' AS BLOB) END",
    "nothing": "NULL",
    "a fraction": "CASE typeof({0}) WHEN 'integer' THEN {0} + 0.5 ELSE 0.5 END",
    "text or a number": "CASE typeof({0}) WHEN 'text' THEN 7 WHEN 'blob' THEN CAST({0} AS TEXT) ELSE {0} || 'x' END",
    "what is not UTF-8": "CAST(x'ff' AS TEXT)",
    "bytes or a number": "CASE typeof({0}) WHEN 'blob' THEN 7 ELSE CAST({0} || 'x' AS BLOB) END",
}
"""SQL, of a column's name."""


class Filled:
    """A database with rows in each table that has checksums."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshot, "PART_PAIRS_MAX", 1)
        self.shard = shard = Shard()
        self.connection = connection = shard.connection
        shard.put(b"k", b"value")
        shard.put(b"k", b"another", prev_kv=True)
        shard.grant(50)
        give_users(shard)
        table = TableCache(connection).get(TABLE)
        assert table is not None
        CopiedLeases(connection, MachineLevel(connection, LEVEL)).note(TABLE, {51: 60}, list)
        Followers(connection).note(table, "west", 2)
        AuthStore(connection).add_token(TABLE, b"token", "root")
        DeadTables(connection).add(TABLE + 7)
        Moves(connection).put(TABLE + 8, Move(State.MOVED, 1, 3))
        ids, fingerprints, revisions = b"i" * 16, b"f" * 8, b"r" * 8
        arrived = Arrived(0, 3, 9, 1, 1, ids + fingerprints + revisions, b"answer")
        ArrivedResults(connection, 1000).add([arrived])
        note_recovery(connection)
        shard.machine.reload()
        assert shard.write(begin()).error is None
        assert shard.write(frames.TableSpec(id=COPY, name="c", history=-1, origin=TABLE)).error is None
        other = leader()
        other.put(b"a")
        other.put(b"b")
        self.first_part, self.second_part = snapshot_of(other)
        assert take_part(shard, self.first_part).error is None

    @property
    def checksums(self) -> dict[str, int]:
        """The least of each SQL table that has them."""
        names = "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c ON c.name = 'crc'"
        tables: Any = self.connection.execute(f"{names} WHERE m.name NOT LIKE '%_rev' ORDER BY 1").fetchall()
        return {name: self.connection.execute(f"SELECT min(crc) FROM {name}").get for (name,) in tables}  # noqa: S608

    def accept_any_type(self) -> None:
        """SQLite keeps no wrong type from being written any more, as no disk does."""
        rows: Any = self.connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        self.connection.execute("PRAGMA writable_schema = ON")
        for name, sql in rows:
            loose = re.sub(r" (INTEGER|TEXT|BLOB) NOT NULL", "", sql).replace("STRICT, ", "")
            loose = loose.replace("STRICT", "")
            self.connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (loose, name))
        self.connection.execute("PRAGMA writable_schema = RESET")

    def damages(self, table: str) -> Iterator[str]:
        """Damages the rows of a table in each way, one after the other, and mends them; says how."""
        columns: Any = self.connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        for column in [name for (name,) in columns if (table, name) not in UNCHECKED]:
            for said, damage in DAMAGES.items():
                # What a primary key becomes has to leave it one.
                with self.undone(), suppress(apsw.ConstraintError, apsw.MismatchError):
                    self.connection.execute(f"UPDATE {table} SET {column} = {damage.format(column)}")  # noqa: S608
                    yield f"{column} becomes {said}"

    @contextmanager
    def undone(self) -> Iterator[None]:
        """What is done within did not happen."""
        self.connection.execute("SAVEPOINT damage")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK TO damage")
            self.connection.execute("RELEASE damage")
            self.shard.machine.rollback()
            self.shard.machine.reload()

    def finds_damage(self, table: str) -> bool:
        """Whether whoever reads the rows of a table says that they are damaged."""
        try:
            self.read(table)
        except errors.Corrupt:
            return True
        return False

    def read(self, table: str) -> None:
        """As the machine does."""
        if table == "restores_begun":
            self.shard.apply_uncommitted(self.shard.command(end(0)))
        elif table == "snapshots_under_way":
            part = frames.ReplicatedPairs(origin=TABLE, part=self.second_part)
            self.shard.apply_uncommitted(self.shard.command(part, COPY))
        elif table == "recoveries":
            read_recoveries(self.connection)
        else:
            self.shard.machine.reload()


def test_stored_checksums_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Filled(monkeypatch).checksums == CHECKSUMS


@pytest.mark.parametrize("table", CHECKSUMS)
def test_damage_is_found_whatever_it_makes_of_a_value(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = Filled(monkeypatch)
    filled.accept_any_type()
    with filled.undone():
        assert not filled.finds_damage(table)
    found = {damage: filled.finds_damage(table) for damage in filled.damages(table)}
    assert len(found) >= len(DAMAGES)
    assert all(found.values()), found
