"""One state machine over a database in memory or in a file, driven the way the worker's loop drives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from proto.boathouse import restore_pb2
from proto.etcd import rpc_pb2
from proto.etcd.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
)
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2
from shardworker.machine import FORMAT, REGISTRY, Registry, Result, StateMachine, WindowLimits
from shardworker.machine.recoveries import note_recovery
from shardworker.machine.statements import CHANGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator

    from google.protobuf.message import Message

    from proto.errors import BoathouseError

TABLE = 10001

METHODS: dict[type[Message], int] = {
    rpc_pb2.RangeRequest: frames.ETCD_RANGE,
    rpc_pb2.PutRequest: frames.ETCD_PUT,
    rpc_pb2.DeleteRangeRequest: frames.ETCD_DELETE_RANGE,
    rpc_pb2.TxnRequest: frames.ETCD_TXN,
    rpc_pb2.CompactionRequest: frames.ETCD_COMPACT,
    regatta_pb2.RangeRequest: frames.REGATTA_RANGE,
    regatta_pb2.PutRequest: frames.REGATTA_PUT,
    regatta_pb2.DeleteRangeRequest: frames.REGATTA_DELETE_RANGE,
    regatta_pb2.TxnRequest: frames.REGATTA_TXN,
    rpc_pb2.LeaseGrantRequest: frames.LEASE_GRANT,
    rpc_pb2.LeaseRevokeRequest: frames.LEASE_REVOKE,
    frames.ExpiredLeases: frames.LEASE_EXPIRE,
    frames.LeaseCheckpoints: frames.LEASE_CHECKPOINT,
    frames.TableSpec: frames.TABLE_CREATE,
    frames.MachineLevel: frames.RAISE_LEVEL,
    frames.TableQuota: frames.TABLE_QUOTA,
    frames.TableFreed: frames.TABLE_FREED,
    frames.AlarmChange: frames.ETCD_ALARM,
    restore_pb2.LoadRequest: frames.TABLE_LOAD,
    frames.ReplicatedChanges: frames.REPLICATE_CHANGES,
    frames.ReplicatedPairs: frames.REPLICATE_SNAPSHOT,
    frames.FollowedCommands: frames.FOLLOW_COMMANDS,
    frames.FollowedPart: frames.FOLLOW_SNAPSHOT,
    frames.FollowerPosition: frames.FOLLOWER_POSITION,
    frames.RestoredPart: frames.TABLE_RESTORE,
    frames.CopyReset: frames.COPY_RESET,
    frames.TableOrigin: frames.TABLE_ORIGIN,
    frames.ReplicatedUsers: frames.REPLICATE_USERS,
    frames.MoveStep: frames.TABLE_MOVE,
    frames.MoveImport: frames.TABLE_IMPORT,
    frames.ExportRequest: frames.TABLE_EXPORT,
}

_READS = (rpc_pb2.RangeRequest, regatta_pb2.RangeRequest)


class Shard:
    """Writes are one entry and one transaction each, unless a test opens a transaction of its own."""

    def __init__(
        self,
        path: str = ":memory:",
        *,
        history: int = -1,
        shard: int = 2,
        limits: WindowLimits | None = None,
        create: bool = True,
        registry: Registry = REGISTRY,
    ):
        self._open(apsw.Connection(path), shard, limits, registry)
        self.index = 0
        self.time_ms = 0
        self._ids = 0
        self._number = shard
        if create:
            self.write(frames.TableSpec(id=TABLE, name="t", history=history))

    def _open(
        self, connection: apsw.Connection, shard: int, limits: WindowLimits | None, registry: Registry
    ) -> None:
        self.connection = connection
        self.machine = StateMachine(connection, shard, limits, registry=registry)
        self.machine.committed()

    def kept(self) -> tuple[bytes, int]:
        """What a replica has that gets no further entry, for recover()."""
        return self.connection.serialize("main"), self.index

    def recover(self, kept: tuple[bytes, int]) -> None:
        """The replica that had this goes on alone (shardworker/recovery.py): whatever came later is lost."""
        data, self.index = kept
        connection = apsw.Connection(":memory:")
        connection.deserialize("main", data)
        note_recovery(connection)
        self._open(connection, self._number, None, REGISTRY)

    def command(self, request: Message, table: int = TABLE, request_id: bytes = b"") -> frames.Command:
        """The request as a command; without an id it gets one that no other has."""
        return frames.Command(
            method=frames.Method.ValueType(METHODS[type(request)]),
            table_id=table,
            body=request.SerializeToString(),
            request_id=request_id or self.new_id(),
        )

    def new_id(self) -> bytes:
        """One that no other request of any shard has."""
        self._ids += 1
        return b"new id%d" % self._number + self._ids.to_bytes(16 - len(b"new id%d" % self._number))

    def apply(self, *commands: frames.Command) -> list[Result]:
        """One entry with these commands, committed."""
        self.connection.execute("BEGIN IMMEDIATE")
        results = self.apply_uncommitted(*commands)
        self.connection.execute("COMMIT")
        self.machine.committed()
        return results

    def apply_uncommitted(self, *commands: frames.Command) -> list[Result]:
        self.index += 1
        batch = frames.CommandBatch(time_ms=self.time_ms, commands=commands, format=FORMAT)
        return self.machine.apply(self.index, batch)

    def write(self, request: Message, table: int = TABLE, request_id: bytes = b"") -> Result:
        return self.apply(self.command(request, table, request_id))[0]

    def read(self, request: Message, table: int = TABLE) -> Result:
        return self.read_as(METHODS[type(request)], request.SerializeToString(), table)

    def read_as(
        self, method: int, body: bytes, table: int = TABLE, connection: apsw.Connection | None = None
    ) -> Result:
        """A read as it arrives, on the writer's connection or another."""
        return self.machine.read(connection or self.connection, self.machine.parse(method, table, body))

    def iterate(
        self, body: bytes, table: int = TABLE, connection: apsw.Connection | None = None
    ) -> Generator[Result, None, None]:
        request = self.machine.parse(frames.REGATTA_ITERATE, table, body)
        return self.machine.iterate(connection or self.connection, request)

    def run(self, request: Message) -> Result:
        return self.read(request) if isinstance(request, _READS) else self.write(request)

    # ---- answers, parsed; a test that expects success fails on an error ---------------------------------------

    def range(self, key: bytes, end: bytes = b"", **options: int) -> tuple[int, rpc_pb2.RangeResponse]:
        result = self.read(RangeRequest(key=key, range_end=end, **options))  # type: ignore[arg-type]
        assert result.error is None, result.error
        return result.revision, RangeResponse.FromString(result.body)

    def put(self, key: bytes, value: bytes = b"", **options: int) -> tuple[int, rpc_pb2.PutResponse]:
        result = self.write(PutRequest(key=key, value=value, **options))  # type: ignore[arg-type]
        assert result.error is None, result.error
        return result.revision, PutResponse.FromString(result.body)

    def delete(
        self, key: bytes, end: bytes = b"", *, prev_kv: bool = False
    ) -> tuple[int, rpc_pb2.DeleteRangeResponse]:
        result = self.write(DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv))
        assert result.error is None, result.error
        return result.revision, DeleteRangeResponse.FromString(result.body)

    def grant(self, lease_id: int = 0, ttl_s: int = 60) -> rpc_pb2.LeaseGrantResponse:
        result = self.write(rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl_s))
        assert result.error is None, result.error
        return rpc_pb2.LeaseGrantResponse.FromString(result.body)

    def lease_keys(self, lease_id: int) -> list[bytes]:
        return self.machine.lease_keys(self.connection, TABLE, lease_id)

    def error(self, request: Message) -> type[BoathouseError]:
        """The class of the error that a request meets; its table must stay as it was."""
        before = self.machine.table_status()
        result = self.run(request)
        assert result.error is not None, "expected an error"
        assert result.body == b""
        assert self.machine.table_status() == before
        return type(result.error)

    def sweep(self, rows_max: int = 1000) -> None:
        """Compacts physically until nothing is left."""
        while self.sweep_once(rows_max):
            pass

    def sweep_once(self, rows_max: int) -> int:
        self.connection.execute("BEGIN IMMEDIATE")
        visited = self.machine.compaction_step(rows_max)
        self.connection.execute("COMMIT")
        self.machine.committed()
        return visited

    def rows(self, table: int = TABLE) -> list[tuple[int, bytes, bool]]:
        """What is physically there: (revision, key, is it a pair), in order."""
        text = f"SELECT id >> 24, key, kv NOTNULL FROM t{table}_rev ORDER BY id"  # noqa: S608
        found: Any = self.connection.execute(text)
        return [(revision, key, bool(pair)) for revision, key, pair in found]

    def rows_bytes(self, table: int = TABLE) -> int:
        """What these rows count in the table's size."""
        text = f"SELECT sum(length(key) + ifnull(length(kv), 0) + {CHANGE_BYTES}) FROM t{table}_rev"  # noqa: S608
        found: Any = self.connection.execute(text).get
        return int(found)


def op(request: Message) -> rpc_pb2.RequestOp:
    match request:
        case rpc_pb2.RangeRequest():
            return RequestOp(request_range=request)
        case rpc_pb2.PutRequest():
            return RequestOp(request_put=request)
        case rpc_pb2.DeleteRangeRequest():
            return RequestOp(request_delete_range=request)
        case rpc_pb2.TxnRequest():
            return RequestOp(request_txn=request)
        case _:
            raise AssertionError(request)


def txn(
    *success: Message,
    compare: list[rpc_pb2.Compare] | None = None,
    failure: list[Message] | None = None,
) -> rpc_pb2.TxnRequest:
    return TxnRequest(
        compare=compare or [],
        success=[op(request) for request in success],
        failure=[op(request) for request in failure or []],
    )


def get(key: bytes, end: bytes = b"", **options: int) -> rpc_pb2.RangeRequest:
    return RangeRequest(key=key, range_end=end, **options)  # type: ignore[arg-type]


def put(key: bytes, value: bytes = b"", **options: int) -> rpc_pb2.PutRequest:
    return PutRequest(key=key, value=value, **options)  # type: ignore[arg-type]


def delete(key: bytes, end: bytes = b"", *, prev_kv: bool = False) -> rpc_pb2.DeleteRangeRequest:
    return DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv)


def keys(response: rpc_pb2.RangeResponse) -> list[bytes]:
    return [kv.key for kv in response.kvs]


def numbers(response: rpc_pb2.RangeResponse) -> list[tuple[bytes, int, int, int]]:
    """key, create revision, mod revision, version of each pair."""
    return [(kv.key, kv.create_revision, kv.mod_revision, kv.version) for kv in response.kvs]


def request_id(number: int) -> bytes:
    return number.to_bytes(16, "big")
