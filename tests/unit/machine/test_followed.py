"""The copy of a table whose cluster speaks no replication but Regatta's."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import pytest

from proto import errors
from proto.catalog import FIRST_TABLE_ID
from proto.etcd.rpc_pb2 import PutRequest, RangeResponse
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, LEVEL
from proto.pairs import encode_pair
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import replication_pb2 as replication
from proto.varint import varint
from shardworker.machine import budget
from shardworker.machine.tables import SUB_BITS
from tests.unit.machine.copying import COPY, contents, past
from tests.unit.machine.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardworker.machine import Result

ORIGIN = FIRST_TABLE_ID
Kind = mvcc.Command


def pair(key: bytes, value: bytes = b"") -> mvcc.KeyValue:
    return mvcc.KeyValue(key=key, value=value)


def put(key: bytes, value: bytes = b"") -> mvcc.Command:
    return Kind(table=b"t", type=Kind.PUT, kv=pair(key, value))


def delete(key: bytes, end: bytes | None = None) -> mvcc.Command:
    return Kind(table=b"t", type=Kind.DELETE, kv=pair(key), range_end=end)


def in_sequence(*commands: mvcc.Command) -> mvcc.Command:
    return Kind(type=Kind.SEQUENCE, sequence=commands)


DUMMY = Kind(type=Kind.DUMMY)


@pytest.fixture
def shard() -> Shard:
    one = Shard(create=False)
    one.write(frames.MachineLevel(level=LEVEL))
    one.write(frames.TableSpec(id=COPY, name="t", history=-1, origin=ORIGIN))
    return one


def told(commands: Iterable[tuple[int, mvcc.Command]], after: int) -> frames.FollowedCommands:
    message = replication.ReplicateCommandsResponse()
    for index, command in commands:
        message.commands.add(leader_index=index, command=command)
    return frames.FollowedCommands(origin=ORIGIN, after=after, commands=message.SerializeToString())


def follow(shard: Shard, *commands: mvcc.Command, after: int = 0) -> Result:
    """These, which have the indexes behind that."""
    return shard.write(told(enumerate(commands, after + 1), after), table=COPY)


def reached(result: Result) -> int:
    assert result.error is None, result.error
    return frames.FollowedIndex.FromString(result.body).leader_index


def stands_at(shard: Shard) -> int:
    return frames.TableStatus.FromString(shard.read_as(frames.TABLE_STATUS, b"", COPY).body).leader_index


def pairs(shard: Shard) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in RangeResponse.FromString(contents(shard, COPY)).kvs}


def test_each_command_that_changes_anything_is_a_revision(shard: Shard) -> None:
    done = follow(
        shard,
        DUMMY,
        put(b"a", b"1"),
        put(b"b", b"2"),
        Kind(type=Kind.PUT_BATCH, batch=[pair(b"c", b"3"), pair(b"", b"none's"), pair(b"d", b"4")]),
        delete(b"nothing"),
        delete(b"a"),
        Kind(type=Kind.DELETE_BATCH, batch=[pair(b"c"), pair(b"e")]),
        put(b"", b"nobody can ask for it"),
    )
    assert (reached(done), stands_at(shard)) == (8, 8)
    assert pairs(shard) == {b"b": b"2", b"d": b"4"}
    assert [(revision, [key for key, _ in edits]) for revision, edits in past(shard, COPY, 1)] == [
        (2, [b"a"]),
        (3, [b"b"]),
        (4, [b"c", b"d"]),
        (5, [b"a"]),
        (6, [b"c"]),
    ]


def test_spans_are_those_of_regatta(shard: Shard) -> None:
    follow(shard, *(put(bytes([key])) for key in b"abcdef"))
    follow(shard, delete(b"b", b"d"), delete(b"a", b""), delete(b"f", b"e"), after=6)
    assert b"".join(pairs(shard)) == b"adef"
    follow(shard, delete(b"e", b"\0"), after=9)
    assert b"".join(pairs(shard)) == b"ad"


def test_transactions_are_decided_here_as_there(shard: Shard) -> None:
    def txn(expected: bytes) -> mvcc.Command:
        compare = mvcc.Compare(key=b"a", value=expected, result=mvcc.Compare.EQUAL)
        ops = mvcc.RequestOp
        success = [
            ops(request_put=ops.Put(key=b"a", value=b"won", prev_kv=True)),
            ops(request_put=ops.Put(key=b"", value=b"none's")),
            ops(request_range=ops.Range(key=b"a")),
            ops(request_delete_range=ops.DeleteRange(key=b"x", range_end=b"z", count=True)),
        ]
        failure = [ops(request_put=ops.Put(key=b"a", value=b"lost"))]
        return Kind(type=Kind.TXN, txn=mvcc.Txn(compare=[compare], success=success, failure=failure))

    follow(shard, put(b"a", b"1"), put(b"y"), txn(b"1"))
    assert pairs(shard) == {b"a": b"won"}
    follow(shard, txn(b"1"), after=3)
    assert pairs(shard) == {b"a": b"lost"}
    # Within a sequence it sees what came before it there.
    follow(shard, in_sequence(put(b"a", b"2"), in_sequence(txn(b"2"))), after=4)
    assert pairs(shard) == {b"a": b"won"}


def test_nothing_is_applied_twice_or_skipped(shard: Shard) -> None:
    follow(shard, put(b"a", b"1"), put(b"a", b"2"))
    before = contents(shard, COPY)
    assert reached(follow(shard, put(b"a", b"1"), put(b"a", b"2"))) == 2
    assert contents(shard, COPY) == before
    assert reached(follow(shard, put(b"a", b"2"), put(b"b", b"3"), after=1)) == 3
    assert isinstance(follow(shard, put(b"c"), after=4).error, errors.ReplicationGap)
    assert stands_at(shard) == 3
    # Indexes may have holes: other tables are in the same log.
    assert reached(shard.write(told([(7, put(b"c")), (9, put(b"d"))], after=3), table=COPY)) == 9
    assert b"".join(pairs(shard)) == b"abcd"


def test_commands_out_of_order_are_refused(shard: Shard) -> None:
    for indexes in ((2, 1), (1, 1), (0,)):
        result = shard.write(told([(index, put(b"a")) for index in indexes], after=0), table=COPY)
        assert isinstance(result.error, errors.MalformedRequest)
    unknown = Kind(type=9)  # type: ignore[arg-type]  # of a later version
    assert isinstance(follow(shard, unknown).error, errors.MalformedRequest)


def test_the_index_lives_with_the_data(shard: Shard) -> None:
    shard.connection.execute("BEGIN IMMEDIATE")
    shard.apply_uncommitted(shard.command(told([(1, put(b"a"))], after=0), COPY))
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert (stands_at(shard), pairs(shard)) == (0, {})
    follow(shard, put(b"a"))
    shard.machine.reload()
    assert (stands_at(shard), shard.machine.origin_of(COPY), shard.machine.origin_of(-COPY)) == (1, ORIGIN, 0)


def test_what_is_too_much_for_one_command_needs_a_snapshot(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "ROWS_FREE", 0)
    monkeypatch.setattr(budget, "ROWS_MAX", 6)
    monkeypatch.setattr(budget, "ENTRY_ROWS_MAX", 1_000)
    follow(shard, *(put(bytes([key])) for key in b"abcd"))
    too_much = delete(b"a", b"z")
    assert isinstance(follow(shard, too_much, after=4).error, errors.TooManyRows)
    # What came before it is not lost, and can be told again.
    assert reached(follow(shard, put(b"e"), too_much, after=4)) == 5
    assert (stands_at(shard), b"".join(pairs(shard))) == (5, b"abcde")
    # In the middle of a sequence no index says where the copy is.
    assert reached(follow(shard, in_sequence(put(b"f"), too_much), after=5)) == 0
    assert isinstance(follow(shard, put(b"g")).error, errors.ReplicationGap)


def restored(**told: object) -> bytes:
    return frames.RestoredPart(attempt=7, **told).SerializeToString()  # type: ignore[arg-type]


def test_a_snapshot_brings_the_index_with_its_end(shard: Shard) -> None:
    follow(shard, put(b"old"), in_sequence())
    revision, id_ = varint(9), 9 << SUB_BITS
    stored = encode_pair(b"a", revision, revision, 1, b"1", 0)
    for part in (
        restored(begin=True),
        restored(pairs=stored, ids=[id_], crc=crc32(stored)),
        restored(end=frames.RestoredEnd(parts=1, fresh_revision=9)),
    ):
        assert stands_at(shard) == 2
        result = shard.write(frames.FollowedPart(origin=ORIGIN, part=part, leader_index=40), table=COPY)
        assert result.error is None, result.error
    assert (stands_at(shard), pairs(shard)) == (40, {b"a": b"1"})
    assert reached(follow(shard, put(b"b"), after=40)) == 41


def test_a_copy_that_is_promoted_forgets_it(shard: Shard) -> None:
    follow(shard, put(b"a"))
    for was, origin in ((ORIGIN, 0), (0, ORIGIN)):
        shard.write(frames.TableOrigin(table_id=COPY, was=was, origin=origin))
    assert stands_at(shard) == 0
    assert isinstance(follow(shard, put(b"b")).error, errors.ReplicationGap)


def test_a_copy_that_is_reset_forgets_it(shard: Shard) -> None:
    follow(shard, put(b"a"))
    shard.write(frames.CopyReset(origin=ORIGIN), table=COPY)
    assert stands_at(shard) == 0


def test_it_is_for_copies_alone_and_known_from_a_level_on(shard: Shard) -> None:
    wrong = frames.FollowedCommands(origin=ORIGIN + 1)
    assert isinstance(shard.write(wrong, table=COPY).error, errors.OtherOrigin)
    assert isinstance(shard.write(PutRequest(key=b"a"), table=COPY).error, errors.TableReplicated)
    assert {COMMANDS[method].since_level for method in (frames.FOLLOW_COMMANDS, frames.FOLLOW_SNAPSHOT)} == {
        3
    }
