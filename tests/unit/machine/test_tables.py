"""Tables, and what a log may not hold: unknown commands, other formats, broken bytes."""

from __future__ import annotations

import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import FORMAT, TooNew, UnreadableEntry
from tests.unit.machine.shard import TABLE, Shard, get, put, request_id


def test_shard_one_is_born_with_the_catalog() -> None:
    catalog = Shard(shard=1, create=False).machine.table_status()
    assert [(status.id, status.name, status.revision) for status in catalog] == [(1, "_catalog", 1)]
    assert Shard(shard=2, create=False).machine.table_status() == []


def test_creating_a_table_is_its_first_revision_and_can_be_repeated() -> None:
    shard = Shard(create=False)
    spec = frames.TableSpec(id=7, name="users", history=-1)
    result = shard.write(spec)
    status = frames.TableStatus.FromString(result.body)
    assert (result.error, result.revision, status.name, status.revision) == (None, 1, "users", 1)
    shard.write(put(b"a"), table=7)
    assert shard.write(spec).revision == 2
    for other in (
        frames.TableSpec(id=7, name="other", history=-1),
        frames.TableSpec(id=7, name="users", history=3),
    ):
        assert type(shard.write(other).error) is errors.TableContradicted
    for bad in (
        frames.TableSpec(id=0, name="x"),
        frames.TableSpec(id=1 << 63, name="x"),
        frames.TableSpec(id=8, name=""),
        frames.TableSpec(id=8, name="x", history=-2),
    ):
        assert type(shard.write(bad).error) is errors.InvalidRequest
    assert len(shard.machine.table_status()) == 1


def test_unknown_tables_and_methods_are_errors() -> None:
    shard = Shard()
    assert type(shard.write(put(b"a"), table=99).error) is errors.TableNotFound
    assert type(shard.read(get(b"a"), table=99).error) is errors.TableNotFound
    assert type(shard.read_as(999, b"").error) is errors.MethodNotServed


@pytest.mark.parametrize("method", [999, frames.REPLICA_STATUS, frames.ETCD_RANGE])
def test_a_log_with_a_command_of_a_newer_version_stops_the_replica(method: int) -> None:
    shard = Shard()
    known = shard.command(put(b"a"))
    unknown = frames.Command(method=frames.Method.ValueType(method), table_id=TABLE, request_id=request_id(1))
    shard.connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(TooNew, match=f"entry 2 holds a command of method {method}, which this version"):
        shard.apply_uncommitted(known, unknown)
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert shard.range(b"a")[1].count == 0, "the entry is applied whole or not at all"


def test_a_log_entry_of_another_format_stops_the_replica() -> None:
    shard = Shard()
    for unknown in (0, FORMAT + 1):
        batch = frames.CommandBatch(commands=[shard.command(put(b"a"))], format=unknown)
        with pytest.raises(TooNew, match=f"entry 9 has format {unknown}; this version reads 1"):
            shard.machine.apply(9, batch)


def test_tables_do_not_see_each_other() -> None:
    shard = Shard()
    shard.write(frames.TableSpec(id=TABLE + 1, name="u", history=-1))
    shard.put(b"a", b"1")
    assert shard.read(get(b"a"), table=TABLE + 1).revision == 1
    assert shard.read(get(b"a"), table=TABLE + 1).body == b""


@pytest.mark.parametrize(
    "method",
    [
        frames.ETCD_PUT,
        frames.ETCD_DELETE_RANGE,
        frames.ETCD_TXN,
        frames.ETCD_COMPACT,
        frames.REGATTA_PUT,
        frames.REGATTA_DELETE_RANGE,
        frames.REGATTA_TXN,
        frames.TABLE_CREATE,
    ],
)
@pytest.mark.parametrize(
    "body", [b"\xff", b"\x0a\x7f", b"\x0a\x01", b"\x00", b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"]
)
def test_broken_bytes_are_an_answer(method: int, body: bytes) -> None:
    shard = Shard()
    command = frames.Command(
        method=frames.Method.ValueType(method), table_id=TABLE, body=body, request_id=request_id(1)
    )
    before = shard.machine.checksum
    result = shard.apply(command)[0]
    assert type(result.error) is errors.MalformedRequest
    assert shard.machine.checksum == before


def test_status_of_a_table() -> None:
    shard = Shard()
    shard.put(b"a")
    result = shard.read_as(frames.TABLE_STATUS, b"")
    status = frames.TableStatus.FromString(result.body)
    assert status.auth_version
    status.ClearField("auth_version")
    (of_replica,) = shard.machine.table_status()
    assert of_replica.auth_revision
    of_replica.ClearField("auth_revision")
    assert status == of_replica
    assert (status.keys, status.revision, status.compacted_revision, status.history) == (1, 2, -1, -1)
    assert status.checksum


def test_a_log_entry_that_no_leader_proposes_stops_the_replica() -> None:
    shard = Shard()
    command = shard.command(put(b"a"), request_id=b"short")
    with pytest.raises(UnreadableEntry, match="entry 9 holds a command whose id has 5 bytes instead of 16"):
        shard.machine.apply(9, frames.CommandBatch(commands=[command], format=FORMAT))
    with pytest.raises(UnreadableEntry, match="entry 9 is of the time"):
        shard.machine.apply(9, frames.CommandBatch(time_ms=1 << 63, format=FORMAT))
