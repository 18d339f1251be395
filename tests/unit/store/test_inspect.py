"""`boathouse inspect` on sound and on damaged databases."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proto.internal.frames_pb2 import NodeRecord
from shardworker.inspection import NotADatabase, inspect_database
from shardworker.machine.tables import TableState, create_schema, create_table
from shardworker.raft import NodeId
from tests.unit.store.replicas import entry, open_replica, put
from tools.failure import Failed
from tools.inspect_database import inspect
from tools.output import Output

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed replica with 40 applied entries and two more in its log."""
    store = open_replica(tmp_path)
    for _ in range(40):
        put(store, b"needle in the log")
    with store.turn(sync=True) as turn:
        turn.append(None, [entry(41), entry(42)])
    store.close()
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".db"}


def test_what_is_in_a_sound_database(folder: Path) -> None:
    before = files(folder)
    found = inspect_database(folder)
    assert found.problems == []
    assert found.replica["node"] == 1
    assert found.replica["shard"] == 2
    assert found.replica["cluster"] == "demo"
    assert (found.replica["applied_index"], found.replica["first_index"], found.replica["last_index"]) == (
        40,
        1,
        42,
    )
    assert found.replica["voters"] == [1, 2, 3]
    assert {row["name"]: row["rows"] for row in found.storage} == {"kv": 40, "log": 42, "meta": 4}
    assert files(folder) == before, "it only reads"


def test_where_members_are_that_came_later(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = NodeRecord(
        name="n4", peer_urls=["http://h4:7301"], client_urls=["http://h4:2479"], peer_key=b"k"
    )
    later = ((NodeId(4), record.SerializeToString()), (NodeId(5), b"\xff"))
    store = open_replica(folder)
    with store.turn(sync=True) as turn:
        turn.set_membership(replace(store.membership, directory=later, generation=2))
    store.close()
    found = inspect_database(folder)
    assert found.replica["generation"] == 2
    assert found.members == [
        {
            "node": 4,
            "name": "n4",
            "peer_urls": ["http://h4:7301"],
            "client_urls": ["http://h4:2479"],
            "peer_key": "k",
        }
    ]
    (problem,) = found.problems
    assert "the record of member 5 can't be read" in problem
    with pytest.raises(Failed):
        inspect(folder, Output.TABLE)
    assert "http://h4:7301  http://h4:2479" in capsys.readouterr().out


def test_a_running_replica_can_be_inspected(folder: Path) -> None:
    store = open_replica(folder)
    put(store)
    assert inspect_database(store.file).problems == []
    store.close()


def test_key_value_tables_are_listed_and_counted(folder: Path) -> None:
    store = open_replica(folder)
    with store.turn(sync=True) as turn:
        create_schema(turn.connection)
        table = TableState(10001, "users", -1, revision=7, compacted=3, keys=2, checksum=(1 << 64) - 1)
        create_table(turn.connection, table)
        turn.connection.execute("INSERT INTO t10001_live VALUES(x'01', 1, 1, 1, 0)")
    store.close()
    found = inspect_database(folder)
    assert found.tables == [
        {
            "id": 10001,
            "name": "users",
            "revision": 7,
            "compacted_revision": 3,
            "history": -1,
            "keys": 2,
            "checksum": "f" * 16,
        }
    ]
    assert found.problems == ["table users counts 2 keys, but 1 are stored"]


def test_a_flipped_byte_in_a_tables_name_is_found(folder: Path) -> None:
    store = open_replica(folder)
    with store.turn(sync=True) as turn:
        create_schema(turn.connection)
        create_table(turn.connection, TableState(10001, "users", -1))
    store.close()
    file = folder / "replica-00000001.db"
    file.write_bytes(file.read_bytes().replace(b"users", b"user\xff"))
    found = inspect_database(folder)
    assert [problem for problem in found.problems if "table id 10001 fails its checksum" in problem]


def test_a_flipped_byte_in_the_log_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "replica-00000001.db"
    data = bytearray(file.read_bytes())
    at = data.index(b"needle in the log")
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(Failed, match="not sound: 1 problem"):
        inspect(folder, Output.JSON)
    said = json.loads(capsys.readouterr().out)
    assert "fails its checksum" in said["problems"][0]
    with pytest.raises(Failed):
        inspect(folder, Output.TABLE)
    assert "problem: the log row of index" in capsys.readouterr().out


def test_a_damaged_page_is_found(folder: Path) -> None:
    file = folder / "replica-00000001.db"
    data = bytearray(file.read_bytes())
    data[4096:8192] = bytes(4096)
    file.write_bytes(data)
    assert inspect_database(folder).problems != []


def test_what_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(NotADatabase, match="there is no"):
        inspect_database(tmp_path / "missing")
    with pytest.raises(NotADatabase, match="no replica's folder"):
        inspect_database(tmp_path)
    with pytest.raises(Failed, match="no replica's folder"):
        inspect(tmp_path, Output.TABLE)
    noise = tmp_path / "noise"
    noise.write_bytes(b"noise" * 1000)
    with pytest.raises(Failed, match=r"noise cannot be opened|is not sound"):
        inspect(noise, Output.JSON)
