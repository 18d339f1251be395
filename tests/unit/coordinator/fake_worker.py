"""A worker without Raft or disk: a ROUTER on the addresses of one replica that answers from a script.

It keeps one counter per table, remembers what each request id was answered, and lets a test decide everything else:
whether it leads, which reply a request gets, and whether it answers at all.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import zmq

from proto import errors
from proto.etcd import kv_pb2, rpc_pb2
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig


class FakeWorker:
    """One fake replica. Runs on the test's event loop."""

    def __init__(self, cluster: ClusterConfig, shard: int, node: int, *, store: FakeShard) -> None:
        self.shard = shard
        self.node = node
        self.store = store
        self.term = 1
        self.leader = 0
        self.seen: list[frames.Request] = []
        """Every request in order of arrival."""
        self.hellos = 0
        self.quotas: list[dict[int, int]] = []
        """What tables were made to hold, each time that a coordinator told of it."""
        self.script: dict[int, Callable[[frames.Request], frames.Reply | errors.BoathouseError | None]] = {}
        """By method: what to answer instead of the usual. None = nothing."""
        self.silent = False
        self.window_bytes = 1 << 40
        """Bodies sent ahead of what the coordinator has said that it took; more answers wait."""
        self.status = frames.ReplicaStatus(database_bytes=8192, database_in_use_bytes=4096)
        self.status.voters.extend(holder.id for holder in cluster.replica_nodes(shard))
        self._group = cluster.group(shard)
        self._endpoints = (cluster.worker_ipc(node, shard), cluster.worker_tcp(node, shard))
        self._identities: list[bytes] = []
        self._ahead_bytes: int
        self._waiting: list[tuple[bytes, frames.Reply]]
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.start()

    def start(self) -> None:
        """Bind and answer, with no memory of earlier links."""
        self._identities = []
        self._waiting = []
        self._ahead_bytes = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        for endpoint in self._endpoints:
            self._socket.bind(endpoint)
        self._fd = int(self._socket.get(zmq.FD))
        asyncio.get_running_loop().add_reader(self._fd, self._drain)
        asyncio.get_running_loop().call_soon(self._drain)

    @property
    def is_up(self) -> bool:
        """Between start and stop."""
        return self._context is not None

    def stop(self) -> None:
        """Go away as a killed process does."""
        if self._context is None:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        self._socket.close()
        self._context.term()
        self._context = None

    # ---- the test's side --------------------------------------------------------------------------------------------

    def believe(self, *, term: int, leader: int) -> None:
        """Change what this replica believes and push it to every coordinator it knows."""
        self.term, self.leader = term, leader
        for identity in self._identities:
            self._send(identity, frames.Envelope(state=self._state()))

    def reply_later(self, request: frames.Request) -> None:
        """Answer a request now that the script left unanswered."""
        for identity in self._identities:
            self._send(identity, frames.Envelope(replies=[self._perform(request)]))

    def answer(self, reply: frames.Reply) -> None:
        """Send this answer now."""
        for identity in self._identities:
            self._send(identity, frames.Envelope(replies=[reply]))

    def requests(self, method: frames.Method.ValueType) -> list[frames.Request]:
        """What has arrived of one method."""
        return [request for request in self.seen if request.method == method]

    # ---- the wire ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        while self._context is not None:
            try:
                identity, payload = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(identity, frames.Envelope.FromString(payload))

    def _handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        assert envelope.group == self._group
        answer = frames.Envelope()
        self._ahead_bytes -= envelope.taken_bytes
        if envelope.HasField("hello"):
            if envelope.hello.acknowledges:
                self._ahead_bytes = 0
                self.hellos += 1
                self._identities.append(identity)
            answer.state.CopyFrom(self._state())
        if envelope.HasField("table_quotas"):
            self.quotas.append(dict(envelope.table_quotas.quotas))
        for request in envelope.requests:
            self.seen.append(request)
            reply = self._answer(request)
            if reply is not None and not self.silent:
                self._waiting.append((identity, reply))
        self._send_waiting()
        if not self.silent and answer.ListFields():
            self._send(identity, answer)

    def _send_waiting(self) -> None:
        while self._waiting and self._ahead_bytes < self.window_bytes:
            identity, reply = self._waiting.pop(0)
            self._ahead_bytes += len(reply.body)
            self._send(identity, frames.Envelope(replies=[reply]))

    def _answer(self, request: frames.Request) -> frames.Reply | None:
        scripted = self.script.get(request.method)
        if scripted is None:
            return self._perform(request)
        answer = scripted(request)
        if isinstance(answer, errors.BoathouseError):
            return self._refusal(request, answer)
        if answer is not None:
            answer.call = request.call
        return answer

    def _send(self, identity: bytes, envelope: frames.Envelope) -> None:
        envelope.group = self._group
        self._socket.send_multipart((identity, envelope.SerializeToString()), zmq.NOBLOCK)
        asyncio.get_running_loop().call_soon(self._drain)  # sending may have swallowed the descriptor's edge

    def _state(self) -> frames.ReplicaState:
        return frames.ReplicaState(shard=self.shard, node=self.node, term=self.term, leader=self.leader)

    def _refusal(self, request: frames.Request, error: errors.BoathouseError) -> frames.Reply:
        return frames.Reply(
            call=request.call,
            error=error.frame_code,
            detail=error.detail,
            term=self.term,
            leader=self.leader,
        )

    def _perform(self, request: frames.Request) -> frames.Reply:
        if request.method == frames.REPLICA_STATUS:
            return self._replica_status(request)
        if (request.request_id or request.linearizable) and self.leader != self.node:
            return self._refusal(request, errors.NotLeader())
        try:
            revision, body = self.store.perform(request)
        except errors.BoathouseError as error:
            return self._refusal(request, error)
        return frames.Reply(
            call=request.call, revision=revision, term=self.term, leader=self.leader, body=body
        )

    def _replica_status(self, request: frames.Request) -> frames.Reply:
        status = frames.ReplicaStatus()
        status.CopyFrom(self.status)
        status.shard, status.node, status.term, status.leader = self.shard, self.node, self.term, self.leader
        said = {table.id for table in status.tables}
        for table_id, table in self.store.tables.items():
            if table_id not in said:
                status.tables.add(
                    id=table_id, revision=table.revision, name=table.name, history=table.history
                )
        status.highest_table_id = max([0, *self.store.tables, *self.store.dead])
        return frames.Reply(
            call=request.call, term=self.term, leader=self.leader, body=status.SerializeToString()
        )


class FakeTable:
    """Keys, values and a revision."""

    def __init__(self, name: str = "", history: int = -1) -> None:
        self.name = name
        self.history = history
        self.revision = 1
        self.rows: dict[bytes, tuple[bytes, int]] = {}


class FakeShard:
    """What the replicas of one shard agree on, shared by their fakes."""

    def __init__(self, table_ids: tuple[int, ...] = ()) -> None:
        self.tables: dict[int, FakeTable] = {table_id: FakeTable() for table_id in table_ids}
        self.results: dict[bytes, tuple[int, bytes]] = {}
        self.applied: dict[bytes, int] = defaultdict(int)
        """How often each request id changed something: never more than once."""
        self.dead: set[int] = set()
        """Ids of deleted tables."""

    def perform(self, request: frames.Request) -> tuple[int, bytes]:
        """The revision and body that answer a request. Raises TableNotFound."""
        if request.request_id in self.results:
            return self.results[request.request_id]
        if request.method == frames.TABLE_CREATE:
            spec = frames.TableSpec.FromString(request.body)
            if spec.id in self.dead:
                raise errors.TableDeleted(str(spec.id))
            self.tables.setdefault(request.table_id, FakeTable(spec.name, spec.history))
            result = (1, b"")
        elif request.method == frames.TABLE_DELETE:
            spec = frames.TableSpec.FromString(request.body)
            self.tables.pop(spec.id, None)
            self.dead.add(spec.id)
            result = (0, b"")
        elif request.table_id not in self.tables:
            raise errors.TableNotFound(str(request.table_id))
        else:
            result = self._in_table(self.tables[request.table_id], request)
        if request.request_id:
            self.results[request.request_id] = result
            self.applied[request.request_id] += 1
        return result

    def _in_table(self, table: FakeTable, request: frames.Request) -> tuple[int, bytes]:
        if request.method == frames.TABLE_STATUS:
            status = frames.TableStatus(id=request.table_id, name=table.name, history=table.history)
            return table.revision, status.SerializeToString()
        if request.method == frames.ETCD_RANGE:
            return table.revision, _range(table, rpc_pb2.RangeRequest.FromString(request.body))
        if request.method == frames.ETCD_TXN and request.request_id:
            return self._txn(table, rpc_pb2.TxnRequest.FromString(request.body))
        if request.method == frames.ETCD_PUT:
            put = rpc_pb2.PutRequest.FromString(request.body)
            table.revision += 1
            table.rows[put.key] = (put.value, table.revision)
        elif request.method == frames.ETCD_DELETE_RANGE:
            table.revision += 1
            table.rows.pop(rpc_pb2.DeleteRangeRequest.FromString(request.body).key, None)
        elif request.request_id:
            table.revision += 1
        return table.revision, b""

    def _txn(self, table: FakeTable, txn: rpc_pb2.TxnRequest) -> tuple[int, bytes]:
        succeeded = all((table.rows.get(c.key, (b"", 0))[1]) == c.mod_revision for c in txn.compare)
        if succeeded:
            table.revision += 1
            for op in txn.success:
                if op.HasField("request_put"):
                    table.rows[op.request_put.key] = (op.request_put.value, table.revision)
                else:
                    table.rows.pop(op.request_delete_range.key, None)
        return table.revision, rpc_pb2.TxnResponse(succeeded=succeeded).SerializeToString()


def _range(table: FakeTable, request: rpc_pb2.RangeRequest) -> bytes:
    response = rpc_pb2.RangeResponse()
    for key in sorted(table.rows):
        if key == request.key or (request.range_end and request.key <= key < request.range_end):
            value, revision = table.rows[key]
            response.kvs.append(kv_pb2.KeyValue(key=key, value=value, mod_revision=revision))
    response.count = len(response.kvs)
    return response.SerializeToString()
