"""A leader cluster of Regatta's own, as far as its followers see one: a log and pairs for each table, told by
replication.v1 as its servers do, and writes. It knows no field of ours, and says nothing of revisions."""

from __future__ import annotations

import itertools
import threading
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cramjam
import grpc

from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from google.protobuf.message import Message

MESSAGE_COMMANDS_MAX = 3
CHUNK_BYTES = 40
Kind = mvcc.Command


@dataclass
class Table:
    """One, which is a Raft group of its own there."""

    log: list[mvcc.Command] = field(default_factory=list)
    """From index 1 on."""
    pairs: dict[bytes, bytes] = field(default_factory=dict)
    compacted: int = 0
    """Indexes up to here are no longer in the log."""
    shard: int = field(default_factory=itertools.count(10_001).__next__)
    """Its number there, never that of another one."""

    @property
    def index(self) -> int:
        """Of the last command that was applied."""
        return len(self.log)

    def apply(self, command: mvcc.Command) -> int:
        """Its index."""
        self.log.append(command)
        self._carry_out(command)
        return self.index

    def _carry_out(self, command: mvcc.Command) -> None:
        match command.type:
            case Kind.PUT:
                self.pairs[command.kv.key] = command.kv.value
            case Kind.PUT_BATCH:
                self.pairs.update({kv.key: kv.value for kv in command.batch})
            case Kind.DELETE:
                low, end = command.kv.key, command.range_end
                if command.HasField("range_end"):
                    gone = [key for key in self.pairs if low <= key and (end == b"\0" or key < end)]
                else:
                    gone = [low]
                for key in gone:
                    self.pairs.pop(key, None)
            case Kind.SEQUENCE:
                for inner in command.sequence:
                    self._carry_out(inner)
            case Kind.TXN:
                held = all(compare.key in self.pairs for compare in command.txn.compare)
                for operation in command.txn.success if held else command.txn.failure:
                    self.pairs[operation.request_put.key] = operation.request_put.value
            case Kind.DUMMY:
                pass
            case _:
                raise AssertionError(command)


class StandIn:
    """coordinator.replication.leader.Calls, and a server of the same on a port."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.snapshots = 0
        """How many were asked for."""
        self._lock = threading.Lock()

    def write(self, table: str, *commands: mvcc.Command) -> int:
        """The index of the last one."""
        with self._lock:
            return [self.tables[table].apply(command) for command in commands][-1]

    # ---- replication.v1 ---------------------------------------------------------------------------------------------

    def metadata(self) -> replication.MetadataResponse:
        """All tables, by name."""
        return replication.MetadataResponse(
            tables=[
                replication.Table(name=name, type=replication.Table.REPLICATED)
                for name in sorted(self.tables)
            ]
        )

    def replicate(self, request: replication.ReplicateRequest) -> Iterator[replication.ReplicateResponse]:
        """The log from an index on, in messages of a few commands; the last one has none."""
        table = self.tables[request.table.decode()]
        applied = table.index
        first = request.leader_index
        assert first > 0
        if applied + 1 < first:
            yield _refusal(replication.LEADER_BEHIND)
            return
        if first <= table.compacted:
            yield _refusal(replication.USE_SNAPSHOT)
            return
        for at in range(first, applied + 1, MESSAGE_COMMANDS_MAX):
            told = replication.ReplicateResponse(leader_index=applied)
            for index in range(at, min(at + MESSAGE_COMMANDS_MAX, applied + 1)):
                command = mvcc.Command(leader_index=index)
                command.MergeFrom(table.log[index - 1])
                told.commands_response.commands.add(leader_index=index, command=command)
            yield told
        yield replication.ReplicateResponse(leader_index=table.index)

    def snapshot(self, request: replication.SnapshotRequest) -> Iterator[replication.SnapshotChunk]:
        """Framed snappy of records, cut anywhere; the first chunk is empty."""
        self.snapshots += 1
        table = self.tables[request.table.decode()]
        commands = [
            Kind(table=request.table, type=Kind.PUT, kv=mvcc.KeyValue(key=key, value=value))
            for key, value in sorted(table.pairs.items())
        ]
        commands.append(Kind(table=request.table, type=Kind.DUMMY, leader_index=table.index))
        records = b"".join(
            len(record).to_bytes(8, "little") + record
            for record in (each.SerializeToString() for each in commands)
        )
        data = bytes(cramjam.snappy.compress(records))
        yield replication.SnapshotChunk()
        for at in range(0, len(data), CHUNK_BYTES):
            chunk = data[at : at + CHUNK_BYTES]
            yield replication.SnapshotChunk(data=chunk, len=len(chunk))

    # ---- regatta.v1 -------------------------------------------------------------------------------------------------

    def range(self, request: regatta.RangeRequest) -> regatta.RangeResponse:
        """As far as its header goes."""
        shard = self.tables[request.table.decode()].shard
        return regatta.RangeResponse(header=regatta.ResponseHeader(shard_id=shard))

    def put(self, request: regatta.PutRequest) -> regatta.PutResponse:
        """Passed on by a follower."""
        pair = mvcc.KeyValue(key=request.key, value=request.value)
        index = self.write(request.table.decode(), Kind(table=request.table, type=Kind.PUT, kv=pair))
        return regatta.PutResponse(header=regatta.ResponseHeader(revision=index))

    # ---- as leader.Calls --------------------------------------------------------------------------------------------

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """Metadata and Range."""
        if path == "/regatta.v1.KV/Range":
            return self.range(regatta.RangeRequest.FromString(request)).SerializeToString()
        assert path == "/replication.v1.Metadata/Get"
        return self.metadata().SerializeToString()

    async def stream(
        self, path: str, request: bytes, timeout_s: float | None, silence_s: float | None = None
    ) -> AsyncGenerator[bytes]:
        """Log and Snapshot."""
        answers: Iterator[Message]
        if path == "/replication.v1.Log/Replicate":
            answers = self.replicate(replication.ReplicateRequest.FromString(request))
        else:
            assert path == "/replication.v1.Snapshot/Stream"
            answers = self.snapshot(replication.SnapshotRequest.FromString(request))
        for answer in answers:
            yield answer.SerializeToString()

    # ---- as a server ------------------------------------------------------------------------------------------------

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its address."""
        server = grpc.server(futures.ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers(
            [
                _service(
                    "replication.v1.Metadata",
                    Get=_unary(lambda _: self.metadata(), replication.MetadataRequest),
                ),
                _service(
                    "replication.v1.Log", Replicate=_stream(self.replicate, replication.ReplicateRequest)
                ),
                _service(
                    "replication.v1.Snapshot", Stream=_stream(self.snapshot, replication.SnapshotRequest)
                ),
                _service(
                    "regatta.v1.KV",
                    Range=_unary(self.range, regatta.RangeRequest),
                    Put=_unary(self.put, regatta.PutRequest),
                ),
            ]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait()


def _refusal(error: replication.ReplicateError.ValueType) -> replication.ReplicateResponse:
    return replication.ReplicateResponse(error_response=replication.ReplicateErrResponse(error=error))


def _service(name: str, **methods: grpc.RpcMethodHandler[Any, Any]) -> grpc.GenericRpcHandler[Any, Any]:
    return grpc.method_handlers_generic_handler(name, methods)


def _unary(work: Any, request: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        lambda asked, _: work(asked), request.FromString, lambda answer: answer.SerializeToString()
    )


def _stream(work: Any, request: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_stream_rpc_method_handler(
        lambda asked, _: work(asked), request.FromString, lambda answer: answer.SerializeToString()
    )
