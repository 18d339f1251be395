"""Many clients at once over real gRPC, each call written down for the checkers.

Every client sticks to one node, as a client with one endpoint does, and mixes two kinds of work: puts, gets, deletes
and compare-and-swaps of a few registers, which the linearizability checker judges; and puts of tokens, each a key of
its own, whose version tells afterwards how often the put took effect.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio

from proto.etcd import rpc_pb2 as etcd
from tests.history import exactly_once, linearizability, revisions
from tests.history.operations import Kind, Operation, Outcome, Pending, Recorder
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

CALL_TIMEOUT_S = 20.0
RETRY_FOR_S = 15.0
ANSWERS_WITHIN_S = 60.0
REGISTERS = 32
PATH = "/etcdserverpb.KV/"
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that ended with an error, whatever a retry made of it."""

    endpoint: str
    code: str
    details: str
    method: str


@dataclass(slots=True)
class Table:
    """What was done to one table."""

    name: str
    recorder: Recorder = field(default_factory=Recorder)
    tokens: dict[bytes, Outcome] = field(default_factory=dict)


class Load:
    """Clients on a loop in a thread of its own: the test kills processes meanwhile."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tables: Sequence[str] = ("default",),
        *,
        clients: int = 64,
        seed: int = 1,
        retry_elsewhere: bool = False,
    ) -> None:
        self.endpoints = list(endpoints)
        self.tables = [Table(name) for name in tables]
        self.clients = clients
        self.seed = seed
        # Keys of this load's own: every register starts absent, whatever ran on the cluster before.
        self.tokens = b"token/%d/" % seed
        self.registers = b"register/%d/" % seed
        self.retry_elsewhere = retry_elsewhere
        """Each call brings a request id and is repeated, at the next node, while it ends UNAVAILABLE. Without this, a
        call waits until its node is back, unless it was in flight when the node went."""
        self.failures: list[Failure] = []
        self.unexpected: list[BaseException] = []
        self.completed: list[float] = []
        """When each call came back with an answer."""
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run_thread, name="clients")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client finish its call. Raises what went wrong in the clients themselves."""
        self._stop.set()
        self._thread.join(CALL_TIMEOUT_S + RETRY_FOR_S + 10)
        assert not self._thread.is_alive(), "clients still wait for answers"
        if self.unexpected:
            raise self.unexpected[0]

    @property
    def answers(self) -> int:
        """How many calls were answered so far."""
        return len(self.completed)

    def wait_answers(self, more: int) -> None:
        """Until the clients got this many more answers: the load runs again, and not only on what was in flight."""
        wanted = self.answers + more
        wait_until(lambda: self.answers >= wanted, timeout_s=ANSWERS_WITHIN_S, what=f"{more} more answers")

    @property
    def operations(self) -> int:
        """How many operations the recorded histories and the tokens come to."""
        return sum(len(table.recorder.operations) + len(table.tokens) for table in self.tables)

    def longest_pause_s(self) -> float:
        """The longest time in which no client got an answer."""
        times = sorted(self.completed)
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    def check(self) -> None:
        """Judge what was recorded, and compare the tokens with what the cluster holds now."""
        for table in self.tables:
            history = table.recorder.history()
            verdict = linearizability.check(history)
            assert isinstance(verdict, linearizability.Linearizable), f"table {table.name}: {verdict}"
            anomalies = revisions.check(history)
            assert not anomalies, f"table {table.name}: {anomalies[0]}"
            wrong = exactly_once.check(table.tokens, self._applied(table))
            assert not wrong, f"table {table.name}: {len(wrong)} tokens, first {wrong[0]}"

    def _applied(self, table: Table) -> list[bytes]:
        request = etcd.RangeRequest(key=self.tokens, range_end=self.tokens + b"\xff", keys_only=True)
        with grpc.insecure_channel(self.endpoints[0], options=OPTIONS) as channel:
            call = channel.unary_unary(PATH + "Range", None, None)
            body = call(
                request.SerializeToString(),
                timeout=CALL_TIMEOUT_S,
                metadata=(("table", table.name),),
                wait_for_ready=True,
            )
        found = etcd.RangeResponse.FromString(body)
        return [kv.key for kv in found.kvs for _ in range(kv.version)]

    def _run_thread(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # told to the test by stop()
            self.unexpected.append(error)

    async def _run(self) -> None:
        channels = [grpc.aio.insecure_channel(endpoint, options=OPTIONS) for endpoint in self.endpoints]
        self._calls = [
            {
                name: channel.unary_unary(PATH + name, None, None)
                for name in ("Put", "Range", "DeleteRange", "Txn")
            }
            for channel in channels
        ]
        try:
            await asyncio.gather(*(_Client(self, number).run() for number in range(self.clients)))
        finally:
            for channel in channels:
                await channel.close(None)

    async def call(
        self, home: int, method: str, request: bytes, table: str, request_id: str
    ) -> bytes | Failure:
        """The answer, or the last failure; all failures are noted."""
        metadata = [("table", table)]
        if self.retry_elsewhere:
            metadata.append(("boathouse-request-id", request_id))
        started = time.monotonic()
        for attempt in range(10_000):
            at = (home + attempt) % len(self.endpoints)
            try:
                answer = await self._calls[at][method](
                    request,
                    timeout=CALL_TIMEOUT_S,
                    metadata=metadata,
                    wait_for_ready=not self.retry_elsewhere,
                )
            except grpc.aio.AioRpcError as error:
                failure = Failure(self.endpoints[at], error.code().name, error.details() or "", method)
                self.failures.append(failure)
                late = time.monotonic() - started > RETRY_FOR_S
                if late or not self.retry_elsewhere or failure.code != "UNAVAILABLE":
                    return failure
            else:
                now = time.monotonic()
                self.completed.append(now)
                self.slowest_s = max(self.slowest_s, now - started)
                assert isinstance(answer, bytes)
                return answer
        raise AssertionError("10,000 attempts failed faster than the time limit passed")

    def stopping(self) -> bool:
        """Whether clients should finish."""
        return self._stop.is_set()


class _Client:
    """One client: the next call when the last was answered."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.number = number
        self.home = number % len(load.endpoints)
        self.rng = random.Random(load.seed * 1_000_003 + number)
        self.calls = 0
        self.seen: dict[tuple[str, bytes], bytes | None] = {}

    async def run(self) -> None:
        while not self.load.stopping():
            self.calls += 1
            table = self.rng.choice(self.load.tables)
            if self.rng.randrange(3) == 0:
                await self._put_token(table)
            else:
                await self._touch_register(table)

    async def _put_token(self, table: Table) -> None:
        token = self.load.tokens + b"%d-%d" % (self.number, self.calls)
        table.tokens[token] = Outcome.UNKNOWN
        answer = await self._call("Put", etcd.PutRequest(key=token).SerializeToString(), table)
        table.tokens[token] = _outcome(answer)

    async def _touch_register(self, table: Table) -> None:
        key = self.load.registers + b"%d" % self.rng.randrange(REGISTERS)
        value = b"%d-%d" % (self.number, self.calls)
        expected = self.seen.get((table.name, key))
        kinds = [Kind.PUT, Kind.PUT, Kind.GET, Kind.GET, Kind.DELETE] + ([Kind.CAS] * 2 if expected else [])
        kind = self.rng.choice(kinds)
        pending = table.recorder.invoke(
            self.number,
            kind,
            key,
            value=value if kind in (Kind.PUT, Kind.CAS) else None,
            expected=expected if kind is Kind.CAS else None,
        )
        method, request = _request(kind, key, value, expected)
        answer = await self._call(method, request, table)
        if isinstance(answer, Failure):
            if _outcome(answer) is Outcome.REFUSED:
                pending.refused()
            else:
                pending.lost()
            return
        operation = _succeeded(pending, answer)
        if operation.kind is Kind.GET:
            self.seen[table.name, key] = operation.found
        elif operation.kind is not Kind.CAS or operation.hit:
            self.seen[table.name, key] = operation.value

    async def _call(self, method: str, request: bytes, table: Table) -> bytes | Failure:
        request_id = f"{self.load.seed}-{self.number}-{self.calls}"
        return await self.load.call(self.home, method, request, table.name, request_id)


def _outcome(answer: bytes | Failure) -> Outcome:
    if isinstance(answer, bytes):
        return Outcome.OK
    # Whatever is not the caller's mistake may have happened.
    definite = answer.code in {"INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED"}
    return Outcome.REFUSED if definite else Outcome.UNKNOWN


def _request(kind: Kind, key: bytes, value: bytes, expected: bytes | None) -> tuple[str, bytes]:
    match kind:
        case Kind.GET:
            return "Range", etcd.RangeRequest(key=key).SerializeToString()
        case Kind.PUT:
            return "Put", etcd.PutRequest(key=key, value=value).SerializeToString()
        case Kind.DELETE:
            return "DeleteRange", etcd.DeleteRangeRequest(key=key).SerializeToString()
        case Kind.CAS:
            compare = etcd.Compare(
                key=key, target=etcd.Compare.VALUE, result=etcd.Compare.EQUAL, value=expected or b""
            )
            put = etcd.RequestOp(request_put=etcd.PutRequest(key=key, value=value))
            return "Txn", etcd.TxnRequest(compare=[compare], success=[put]).SerializeToString()


def _succeeded(pending: Pending, answer: bytes) -> Operation:
    match pending.kind:
        case Kind.GET:
            read = etcd.RangeResponse.FromString(answer)
            found = read.kvs[0].value if read.kvs else None
            mod_revision = read.kvs[0].mod_revision if read.kvs else 0
            return pending.succeeded(found=found, revision=read.header.revision, mod_revision=mod_revision)
        case Kind.PUT:
            return pending.succeeded(revision=etcd.PutResponse.FromString(answer).header.revision)
        case Kind.DELETE:
            deleted = etcd.DeleteRangeResponse.FromString(answer)
            return pending.succeeded(hit=deleted.deleted > 0, revision=deleted.header.revision)
        case Kind.CAS:
            swapped = etcd.TxnResponse.FromString(answer)
            return pending.succeeded(hit=swapped.succeeded, revision=swapped.header.revision)
