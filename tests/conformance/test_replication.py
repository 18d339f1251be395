"""replication.v1 as a follower cluster of Regatta speaks it, held against what that protocol promises: a follower that
knows nothing else comes to the same pairs, and to positions on the scale of headers."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any, Final

import cramjam
import grpc
import pytest

from proto.etcd import rpc_pb2 as etcd
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from proto.regatta import replication_pb2 as replication
from tests.stubs import stub

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE_BYTES_MAX: Final = 4 << 20
BEHIND: Final = replication.ReplicateErrResponse(error=replication.LEADER_BEHIND)
SNAPSHOT: Final = replication.ReplicateErrResponse(error=replication.USE_SNAPSHOT)
_numbers = itertools.count(1)


class Leader:
    """A table of its own, and everything that a follower calls."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.table = f"followed-{next(_numbers)}"
        self.tables: Any = stub(channel, regatta, "Tables")
        self.kv: Any = stub(channel, regatta, "KV")
        self.etcd: Any = stub(channel, etcd, "KV")
        self.log: Any = stub(channel, replication, "Log")
        self.snapshot: Any = stub(channel, replication, "Snapshot")
        self.metadata: Any = stub(channel, replication, "Metadata")
        self.create()

    def create(self) -> None:
        self.tables.Create(regatta.CreateTableRequest(name=self.table), timeout=10)

    def delete(self) -> None:
        self.tables.Delete(regatta.DeleteTableRequest(name=self.table), timeout=10)

    def put(self, key: bytes, value: bytes = b"v") -> int:
        request = regatta.PutRequest(table=self.table.encode(), key=key, value=value)
        return int(self.kv.Put(request, timeout=10).header.revision)

    def txn(self, *ops: etcd.RequestOp) -> int:
        answer = self.etcd.Txn(etcd.TxnRequest(success=ops), metadata=[("table", self.table)], timeout=10)
        return int(answer.header.revision)

    def pairs(self) -> dict[bytes, bytes]:
        request = regatta.RangeRequest(
            table=self.table.encode(), key=b"\0", range_end=b"\0", linearizable=True
        )
        answers = list(self.kv.IterateRange(request, timeout=10))
        return {kv.key: kv.value for answer in answers for kv in answer.kvs}

    def replicate(
        self, first: int, *, table: str = "", compression: grpc.Compression | None = None
    ) -> list[replication.ReplicateResponse]:
        """All messages of one stream."""
        request = replication.ReplicateRequest(table=(table or self.table).encode(), leader_index=first)
        return list(self.log.Replicate(request, timeout=10, compression=compression))

    def commands(self, first: int) -> list[replication.ReplicateCommand]:
        """Of a stream that ends well."""
        *messages, end = self.replicate(first)
        assert end.WhichOneof("response") is None
        assert {message.leader_index for message in messages} <= {end.leader_index}
        return [command for message in messages for command in message.commands_response.commands]

    def records(self) -> list[mvcc.Command]:
        """Of a snapshot."""
        request = replication.SnapshotRequest(table=self.table.encode())
        chunks = list(self.snapshot.Stream(request, timeout=10))
        assert all(chunk.len == len(chunk.data) <= 1 << 20 and not chunk.index for chunk in chunks)
        content = bytes(cramjam.snappy.decompress(b"".join(chunk.data for chunk in chunks)))
        found = []
        while content:
            size = int.from_bytes(content[:8], "little")
            found.append(mvcc.Command.FromString(content[8 : 8 + size]))
            content = content[8 + size :]
        return found


class Follower:
    """What a follower does with commands."""

    def __init__(self) -> None:
        self.pairs: dict[bytes, bytes] = {}
        self.index = 0

    def apply(self, command: mvcc.Command) -> None:
        match command.type:
            case mvcc.Command.PUT:
                self.pairs[command.kv.key] = command.kv.value
            case mvcc.Command.DELETE:
                assert not command.HasField("range_end")
                del self.pairs[command.kv.key]
            case mvcc.Command.SEQUENCE:
                for nested in command.sequence:
                    self.apply(nested)
            case mvcc.Command.DUMMY:
                pass
            case other:
                raise AssertionError(f"a command of type {other}")
        if command.HasField("leader_index"):
            self.index = command.leader_index

    def catch_up(self, leader: Leader) -> None:
        for told in leader.commands(self.index + 1):
            assert told.leader_index == told.command.leader_index == self.index + 1
            assert told.command.table.decode() == leader.table
            self.apply(told.command)


@pytest.fixture
def leader(boathouse_endpoint: str) -> Iterator[Leader]:
    with grpc.insecure_channel(
        boathouse_endpoint, options=[("grpc.max_receive_message_length", 8 << 20)]
    ) as channel:
        yield Leader(channel)


def refusal(error: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[str, str]:
    return error.value.code().name, error.value.details() or ""


def write_at_random(leader: Leader, rng: random.Random) -> int:
    key = b"k%d" % rng.randrange(8)
    match rng.randrange(4):
        case 0:
            request = regatta.DeleteRangeRequest(table=leader.table.encode(), key=key, range_end=b"k6")
            return int(leader.kv.DeleteRange(request, timeout=10).header.revision)
        case 1:
            ops = [etcd.RequestOp(request_put=etcd.PutRequest(key=key, value=b"t"))]
            ops.append(etcd.RequestOp(request_put=etcd.PutRequest(key=b"other", value=key)))
            return leader.txn(*ops)
        case _:
            return leader.put(key, b"%d" % rng.randrange(1000))


def test_a_follower_comes_to_the_same_pairs_and_positions(leader: Leader) -> None:
    rng, follower = random.Random(7), Follower()
    for _ in range(12):
        for _ in range(rng.randrange(6)):
            written = write_at_random(leader, rng)
        follower.catch_up(leader)
        assert follower.pairs == leader.pairs()
    assert follower.index == written, "headers and positions are one scale"


def test_a_tables_creation_is_its_first_command(leader: Leader) -> None:
    (only,) = leader.commands(1)
    assert (only.leader_index, only.command.type) == (1, mvcc.Command.DUMMY)
    request = regatta.DeleteRangeRequest(table=leader.table.encode(), key=b"missing")
    assert leader.kv.DeleteRange(request, timeout=10).header.revision == 1, (
        "else a follower would wait for ever"
    )


def test_who_is_up_to_date_gets_one_message_with_the_index_alone(leader: Leader) -> None:
    newest = leader.put(b"k")
    assert leader.replicate(newest + 1) == [replication.ReplicateResponse(leader_index=newest)]


def test_who_is_ahead_is_told_so_without_an_index(leader: Leader) -> None:
    newest = leader.put(b"k")
    assert leader.replicate(newest + 2) == [replication.ReplicateResponse(error_response=BEHIND)]


def test_who_is_too_far_behind_takes_a_snapshot_and_goes_on_from_its_index(leader: Leader) -> None:
    for number in range(20):
        newest = leader.put(b"k%d" % (number % 3), b"%d" % number)
    compact = etcd.CompactionRequest(revision=newest, physical=True)
    leader.etcd.Compact(compact, metadata=[("table", leader.table)], timeout=10)
    assert leader.replicate(2) == [replication.ReplicateResponse(error_response=SNAPSHOT)]
    follower = Follower()
    *records, last = leader.records()
    assert [record.kv.key for record in records] == sorted(leader.pairs())
    assert (last.type, last.leader_index) == (mvcc.Command.DUMMY, newest)
    for record in (*records, last):
        follower.apply(record)
    leader.put(b"later")
    follower.catch_up(leader)
    assert follower.pairs == leader.pairs()


def test_a_snapshot_of_an_empty_table_is_its_position(leader: Leader) -> None:
    (only,) = leader.records()
    assert (only.type, only.leader_index) == (mvcc.Command.DUMMY, 1)


def test_a_table_that_is_made_again_is_behind_who_copied_the_old_one(leader: Leader) -> None:
    for number in range(5):
        newest = leader.put(b"k%d" % number)
    leader.delete()
    with pytest.raises(grpc.RpcError) as gone:
        leader.replicate(newest + 1)
    assert refusal(gone) == ("NOT_FOUND", "table not found")
    leader.create()
    assert leader.replicate(newest + 1) == [replication.ReplicateResponse(error_response=BEHIND)]
    assert leader.pairs() == {}


def test_refusals_have_the_codes_that_a_follower_goes_by(leader: Leader) -> None:
    with pytest.raises(grpc.RpcError) as zero:
        leader.replicate(0, table="nowhere")
    assert refusal(zero) == ("INVALID_ARGUMENT", "invalid leaderIndex: leaderIndex must be greater than 0")
    with pytest.raises(grpc.RpcError) as unknown:
        leader.replicate(1, table="nowhere")
    assert refusal(unknown) == ("NOT_FOUND", "table not found")
    with pytest.raises(grpc.RpcError) as no_snapshot:
        list(leader.snapshot.Stream(replication.SnapshotRequest(table=b"nowhere"), timeout=10))
    assert refusal(no_snapshot) == ("UNAVAILABLE", "unable to stream from table 'nowhere': table not found")


def test_messages_stay_below_their_bound(leader: Leader) -> None:
    for number in range(14):
        leader.put(b"large-%02d" % number, b"v" * (700 << 10))
    *messages, _ = leader.replicate(1)
    sizes = [len(message.commands_response.commands) for message in messages]
    assert sizes == [6, 5, 4]  # of them the first is the table's creation
    assert all(message.ByteSize() <= MESSAGE_BYTES_MAX + 1024 for message in messages)


def test_a_follower_may_compress(leader: Leader) -> None:
    leader.put(b"k", b"v" * 10_000)
    plain = leader.replicate(1)
    assert leader.replicate(1, compression=grpc.Compression.Gzip) == plain


def test_tables_are_told_by_name_and_local_ones_are_nobody_elses(leader: Leader) -> None:
    found = leader.metadata.Get(replication.MetadataRequest(), timeout=10).tables
    names = [table.name for table in found]
    assert names == sorted(names)
    assert leader.table in names
    assert "default" in names
    assert not any(name.startswith("_") for name in names)
    assert {table.type for table in found} == {replication.Table.REPLICATED}
