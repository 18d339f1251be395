"""One link over a real socket, while its replica reads nothing."""

from __future__ import annotations

import asyncio
import contextlib
import select
from typing import TYPE_CHECKING, Any

import zmq

from coordinator.shards.link import Link
from coordinator.shards.router import Outgoing, Replica
from coordinator.shards.shard_call import LEADER, ShardCall
from proto.ids import NodeId, ShardId
from proto.internal import frames_pb2 as frames
from proto.internal import sockets, wire
from proto.methods import Access
from tests.unit.coordinator.running import in_loop
from tests.waiting import wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

GROUP = 7
SHARD = ShardId(1)


class Heard:
    def __init__(self) -> None:
        self.is_connected = False
        self.terms: list[int] = []
        self.turns = 0

    def handle_connected(self, replica: Replica) -> None:
        self.is_connected = True

    def handle_disconnected(self, replica: Replica) -> None:
        self.is_connected = False

    def handle_envelope(self, replica: Replica, envelope: frames.Envelope, attached_bytes: int) -> None:
        self.terms.append(envelope.state.term)

    def turn(self) -> None:
        self.turns += 1


class Bench:
    """A link, and the other end, which reads when the test does."""

    def __init__(self, folder: Path) -> None:
        endpoint = f"ipc://{folder / 'worker'}"
        self.there: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.worker = self.there.socket(zmq.ROUTER)
        self.worker.linger = 0
        self.worker.rcvhwm = 1
        self.worker.bind(endpoint)
        self.here: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.heard = Heard()
        self.replica = Replica(SHARD, NodeId(1))
        self.link = Link(
            self.here, asyncio.get_running_loop(), self.heard, self.replica,
            endpoint=endpoint, group=GROUP, local=1, keys=None,
        )  # fmt: skip

    def ask(self) -> bool:
        call = ShardCall(SHARD, LEADER, Access.READ, frames.ETCD_RANGE, 10_001, bytes(100_000), deadline=0.0)
        return self.link.send(Outgoing(self.replica, False, False, 0, [call], None))

    def read(self) -> list[str]:
        """What came, by kind."""
        kinds = []
        while self.worker.poll(500):
            self.identity, payload = self.worker.recv_multipart(zmq.NOBLOCK)
            envelope = wire.decode(payload, GROUP)
            kinds.append("quotas" if envelope.HasField("table_quotas") else "requests")
        return kinds

    def answer(self, term: int) -> None:
        envelope = frames.Envelope(state=frames.ReplicaState(term=term))
        self.worker.send_multipart([self.identity, wire.encode(envelope, GROUP)])


@contextlib.asynccontextmanager
async def full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """With news that find no room."""
    monkeypatch.setattr(sockets, "LINK_QUEUE_MESSAGES_MAX", 4)
    bench = Bench(folder)
    try:
        await wait_until_async(lambda: bench.heard.is_connected, timeout_s=5, what="the link")
        await wait_until_async(bench.ask, timeout_s=5, what="a request")
        bench.read()
        await wait_until_async(lambda: not bench.ask(), timeout_s=5, what="no room")
        bench.link.tell(frames.Envelope(table_quotas=frames.TableQuotas(quotas={10_001: 1})))
        yield bench
    finally:
        bench.link.close()
        bench.here.term()
        bench.worker.close()
        bench.there.term()


@in_loop
async def test_an_answer_that_comes_while_news_are_told_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with full(tmp_path, monkeypatch) as bench:
        await asyncio.sleep(0)
        send, raced = zmq.Socket.send, list[int]()

        def racing(self: zmq.Socket[bytes], *args: Any, **options: Any) -> Any:
            if self is not bench.worker and not raced:
                raced.append(1)
                bench.answer(5)
                fd = int(self.get(zmq.FD))
                wait_until(lambda: bool(select.select([fd], [], [], 0)[0]), timeout_s=5, what="the answer")
            return send(self, *args, **options)

        bench.read()
        monkeypatch.setattr(zmq.Socket, "send", racing)
        await wait_until_async(lambda: bool(raced), timeout_s=5, what="room")
        await wait_until_async(lambda: bench.heard.terms == [5], timeout_s=5, what="the answer")


@in_loop
async def test_no_request_overtakes_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with full(tmp_path, monkeypatch) as bench:
        await asyncio.sleep(0)
        bench.read()
        assert bench.ask()
        assert bench.read() == ["quotas", "requests"]


@in_loop
async def test_a_request_that_finds_no_room_makes_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with full(tmp_path, monkeypatch) as bench:
        for _ in range(10):
            await asyncio.sleep(0)
        before = bench.heard.turns
        for _ in range(100):
            assert not bench.ask()
            await asyncio.sleep(0)
        assert bench.heard.turns == before
