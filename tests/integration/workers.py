"""Real worker processes without a supervisor or coordinators: the test is both.

It starts each replica with a spec on stdin, as `boathouse up` does, and talks Envelope frames to it over ZeroMQ. So it
decides itself when a replica starts, with which crash point, and when it is killed, paused or looked at."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import zmq

from config import ClusterConfig, ProcessSpec
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.store.crash_points import VARIABLE
from tests.waiting import free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]
SHARD: Final = 1
TABLE: Final = 10001
ANSWER_TIMEOUT_MS: Final = 20_000
DEATH_TIMEOUT_S: Final = 30.0


class Silence(Exception):
    """The worker died, or did not answer."""


MOVED: Final = (errors.NotLeader, errors.LeaderLost, Silence)
"""What a replica says that leads no longer, or not yet."""


class WorkerProcess:
    """One replica of shard 1. It may live several times."""

    def __init__(self, config: ClusterConfig, node: str, context: zmq.Context[Any], log: Path) -> None:
        self.config = config
        self.node = node
        self.folder = config.replica_dir(node, SHARD)
        self.said: list[bytes] = []
        """What it reported on stdout, over all its lives."""
        self._context = context
        self._log = log
        self._calls = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._began = 0.0

    def age_s(self) -> float:
        """How long this life has lasted."""
        return time.monotonic() - self._began

    def start(self, crash_at: str = "", *, wait: bool = True, build: str = "shardworker") -> None:
        """Start it, to be killed at `crash_at` if that is given. wait: until it is ready, or dead. build: the module
        that is run."""
        assert self._process is None, f"{self.node} runs"
        environment = {**os.environ, VARIABLE: crash_at}
        self._began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", build],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=environment,
            )  # fmt: skip
        spec = ProcessSpec(cluster=self.config, kind="shardworker", node=self.node, number=SHARD)
        assert self._process.stdin is not None
        self._process.stdin.write(spec.model_dump_json().encode() + b"\n")
        self._process.stdin.flush()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.reconnect_ivl = 20
        self._socket.connect(self.config.worker_tcp(self.node, SHARD))
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it is ready, or dead."""
        assert self._process is not None
        assert self._process.stdout is not None
        self.said.append(self._process.stdout.readline())

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_dead(self) -> int:
        """Wait for it to end by itself; its exit status."""
        assert self._process is not None
        status = self._process.wait(DEATH_TIMEOUT_S)
        assert self._process.stdout is not None
        self.said.append(self._process.stdout.read())
        self._let_go()
        return status

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._let_go()

    def stop(self) -> None:
        """An orderly end."""
        if self._process is not None:
            self.signal(signal.SIGTERM)
            assert self.wait_dead() == 0, self.describe()

    def _let_go(self) -> None:
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def describe(self) -> str:
        """For a failed test."""
        return f"{self.node} said {self.said}; its log ends:\n{self._log.read_text()[-3000:]}"

    # ---- talking to it -------------------------------------------------------------------------------------------

    def ask(self, method: frames.Method.ValueType, body: bytes = b"", **fields: Any) -> frames.Reply:
        """Send one request; its reply, errors raised. Raises Silence if none came."""
        if self._socket is None:
            raise Silence(f"{self.node} does not run")
        call = next(self._calls)
        envelope = frames.Envelope(group=self.config.group(SHARD))
        envelope.requests.add(call=call, method=method, body=body, **fields)
        self._socket.send(envelope.SerializeToString())
        reply = self._receive(call)
        if reply.error:
            raise errors.from_frame(reply.error, reply.detail)
        return reply

    def tell_put(self, key: bytes, value: bytes, request_id: bytes) -> None:
        """Send a put and don't wait for an answer."""
        assert self._socket is not None
        body = etcd.PutRequest(key=key, value=value).SerializeToString()
        envelope = frames.Envelope(group=self.config.group(SHARD))
        envelope.requests.add(
            call=0, method=frames.ETCD_PUT, body=body, table_id=TABLE, request_id=request_id
        )
        self._socket.send(envelope.SerializeToString())

    def _receive(self, call: int) -> frames.Reply:
        assert self._socket is not None
        for _ in range(ANSWER_TIMEOUT_MS // 50):
            if not self._socket.poll(50):
                if not self.is_running:
                    raise Silence(f"{self.node} died")
                continue
            envelope, *attachments = self._socket.recv_multipart()
            for reply in frames.Envelope.FromString(envelope).replies:
                if reply.call == call:
                    if reply.attachment:
                        reply.body = attachments[reply.attachment - 1]
                    return reply
        raise Silence(f"{self.node} did not answer\n{self.describe()}")

    def create_table(self, request_id: bytes = b"create-the-table") -> None:
        spec = frames.TableSpec(id=TABLE, name="default", history=-1)
        self.ask(frames.TABLE_CREATE, spec.SerializeToString(), request_id=request_id)

    def put(self, key: bytes, value: bytes, request_id: bytes) -> int:
        """The revision that the put got."""
        body = etcd.PutRequest(key=key, value=value).SerializeToString()
        return self.ask(frames.ETCD_PUT, body, table_id=TABLE, request_id=request_id).revision

    def range(self, key: bytes, end: bytes = b"", *, linearizable: bool = True) -> etcd.RangeResponse:
        body = etcd.RangeRequest(key=key, range_end=end).SerializeToString()
        reply = self.ask(frames.ETCD_RANGE, body, table_id=TABLE, linearizable=linearizable)
        return etcd.RangeResponse.FromString(reply.body)

    def status(self) -> frames.ReplicaStatus:
        return frames.ReplicaStatus.FromString(self.ask(frames.REPLICA_STATUS).body)

    def leads(self) -> bool:
        return self.is_running and self.status().role == "leader"


class Workers:
    """All replicas of one shard; what still runs is killed at the end of the block."""

    def __init__(self, folder: Path, nodes: int = 1, settings: Mapping[str, Any] | None = None) -> None:
        """`settings` are further keys of the cluster file, by section. Nothing runs yet."""
        names = [f"n{number}" for number in range(1, nodes + 1)]
        self.config = ClusterConfig.model_validate(
            {
                "cluster": f"test-{folder.name}"[:64],
                "data_dir": str(folder / "data"),
                "nodes": {
                    name: dict(zip(("client_port", "http_port", "peer_port"), free_ports(3), strict=True))
                    for name in names
                },
                "shards": 1,
                "replicas": nodes,
                **(settings or {}),
            }
        )
        self._context = zmq.Context()
        self.by_name = {
            name: WorkerProcess(self.config, name, self._context, folder / f"{name}.log") for name in names
        }

    def __enter__(self) -> Self:
        self.config.runtime_dir.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self:
            worker.kill()
        self._context.destroy(linger=0)

    def __iter__(self) -> Any:
        return iter(self.by_name.values())

    def __getitem__(self, node: str) -> WorkerProcess:
        return self.by_name[node]

    def start_all(self, *, build: str = "shardworker") -> None:
        """Start all replicas of a new shard, and wait until they serve. build: as of WorkerProcess.start().

        One that comes so late that the others have begun ends to start over: a supervisor's part is played here."""
        for worker in self:
            worker.start(wait=False, build=build)
        for worker in self:
            worker.wait_ready()

        def settled() -> bool:
            for worker in self:
                if not worker.is_running:
                    worker.wait_dead()
                    worker.start(build=build)
            return not any(worker.status().fault for worker in self)

        wait_until(settled, timeout_s=60, what="all replicas to serve", not_yet=(Silence,))

    def leader(self, *, other_than: WorkerProcess | None = None) -> WorkerProcess:
        """Wait for the replica that leads."""

        def leading() -> WorkerProcess | None:
            told: list[tuple[int, WorkerProcess]] = []
            for worker in self:
                if worker is not other_than and worker.is_running:
                    status = worker.status()
                    if status.role == "leader":
                        told.append((status.term, worker))
            # One that was deposed may not have heard of it yet.
            return max(told, key=lambda one: one[0])[1] if told else None

        return wait_until(leading, timeout_s=30, what="a leader", not_yet=(Silence,))

    def at_leader(self, do: Callable[[WorkerProcess], T]) -> T:
        """What the replica that leads answers. Asked again, maybe elsewhere, if leadership has moved under it: a write
        must bring the same request id each time."""

        def done() -> tuple[T] | None:
            return (do(self.leader()),)

        return wait_until(done, timeout_s=30, what="an answer of the leader", not_yet=MOVED)[0]

    def lead(self, worker: WorkerProcess) -> None:
        """Make this one lead."""
        to = frames.TransferLeader(target=self.config.node(worker.node).id)

        def leads() -> bool:
            leader = self.leader()
            if leader is not worker:
                leader.ask(frames.TRANSFER_LEADER, to.SerializeToString())
            return leader is worker

        wait_until(leads, timeout_s=30, what=f"{worker.node} to lead", interval_s=0.2,
                   not_yet=(*MOVED, errors.NoSuccessor))  # fmt: skip

    def wait_alike(self, worker: WorkerProcess) -> None:
        """Wait until a replica has applied all that the leader has, and holds the same."""

        def alike() -> bool:
            own, leaders = worker.status(), self.leader().status()
            return own.applied_index == leaders.applied_index and own.tables == leaders.tables

        wait_until(
            alike, timeout_s=30, what=f"{worker.node} to hold what the leader holds", not_yet=(Silence,)
        )
