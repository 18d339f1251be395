"""The driver over real sockets: futures, links that come and go with the topology, answers that wait for clients."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import zmq

from config.topology import FileTopology
from coordinator.api.credentials import NOBODY
from coordinator.catalog.cache import Catalog
from coordinator.catalog.table_calls import Asked, TableCalls
from coordinator.catalog.tables import Tables
from coordinator.shards.bounds import AnswerBudget, Bounds
from coordinator.shards.driver import Driver
from coordinator.shards.memberships import Memberships
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.replica_status import ReplicaStatuses
from coordinator.shards.request_ids import RequestIds
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto import errors
from proto.catalog import CATALOG, WITHOUT_QUOTA, TableEntry
from proto.ids import NodeId, ShardId
from proto.internal import frames_pb2 as frames
from proto.internal.sockets import LINK_QUEUE_MESSAGES_MAX
from proto.methods import Access
from tests.unit.coordinator.fake_worker import FakeShard, FakeWorker
from tests.unit.coordinator.running import in_loop, make_config
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from config import ClusterConfig
    from coordinator.shards.shard_call import Target

SHARD = ShardId(1)
N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
TABLE_ID = 10_001
WINDOW_BYTES = 4 << 20


class MovingTopology(FileTopology):
    """Replicas where the test says."""

    def __init__(self, cluster: ClusterConfig, nodes: Sequence[NodeId]) -> None:
        super().__init__(cluster)
        self._nodes = nodes
        self._notify: list[Callable[[ShardId], None]] = []

    def replicas_of(self, shard: ShardId) -> Sequence[NodeId]:
        return self._nodes

    def changes(self, notify: Callable[[ShardId], None]) -> None:
        self._notify.append(notify)

    def move(self, nodes: Sequence[NodeId]) -> None:
        self._nodes = nodes
        for notify in self._notify:
            notify(SHARD)


class Bench:
    def __init__(self, folder: Path, nodes: Sequence[NodeId]) -> None:
        cluster = make_config(folder, nodes=3, shards=1)
        cluster.runtime_dir.mkdir(parents=True, exist_ok=True)
        self.store = FakeShard((TABLE_ID,))
        self.workers = {node: FakeWorker(cluster, SHARD, node, store=self.store) for node in (N1, N2, N3)}
        self.topology = MovingTopology(cluster, nodes)
        self.bounds = Bounds(calls_max=1_000, bytes_max=1 << 20)
        self.held_bytes = 0
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.driver = Driver(
            self.context,
            asyncio.get_running_loop(),
            self.topology,
            local=N1,
            bounds=self.bounds,
            budget=AnswerBudget(lambda: self.held_bytes, bytes_max=1),
            memberships=Memberships(cluster, self.topology),
        )

    def elect(self, node: NodeId, *, term: int) -> None:
        for worker in self.workers.values():
            worker.believe(term=term, leader=node)

    async def read(self, target: Target = NEAREST) -> frames.Reply:
        deadline = self.driver.time() + 5.0
        call = ShardCall(SHARD, target, Access.READ, frames.ETCD_RANGE, TABLE_ID, b"", deadline=deadline)
        return await self.driver.ask(call)

    async def write(self, request_id: bytes = b"i" * 16) -> frames.Reply:
        call = ShardCall(
            SHARD, LEADER, Access.WRITE, frames.ETCD_PUT, TABLE_ID, b"",
            deadline=self.driver.time() + 5.0, request_id=request_id,
        )  # fmt: skip
        return await self.driver.ask(call)

    def is_connected(self, node: NodeId) -> bool:
        return self.driver.routes(SHARD).is_connected(node)

    async def close(self) -> None:
        self.driver.close()
        self.context.term()
        for worker in self.workers.values():
            worker.stop()


@contextlib.asynccontextmanager
async def bench(folder: Path, *nodes: NodeId) -> AsyncIterator[Bench]:
    made = Bench(folder, nodes)
    try:
        await wait_until_async(
            lambda: all(made.is_connected(node) for node in nodes), timeout_s=5, what="the links"
        )
        yield made
    finally:
        await made.close()


@in_loop
async def test_links_follow_the_topology(tmp_path: Path) -> None:
    async with bench(tmp_path, N1, N2) as b:
        b.elect(N1, term=1)
        assert (await b.write()).revision == 2
        b.topology.move([N2, N3])
        await wait_until_async(lambda: b.is_connected(N3), timeout_s=5, what="a link to n3")
        assert not b.is_connected(N1)
        assert b.driver.routes(SHARD).nodes == (N2, N3)
        b.elect(N3, term=2)
        assert (await b.write(b"j" * 16)).revision == 3
        assert len(b.workers[N3].requests(frames.ETCD_PUT)) == 1
        seen = len(b.workers[N1].seen)
        await b.read()
        assert len(b.workers[N1].seen) == seen


@in_loop
async def test_every_replica_hears_what_tables_were_made_to_hold(tmp_path: Path) -> None:
    async with bench(tmp_path, N1, N2) as b:
        limited, unlimited = (
            TableEntry("limited", 10_001, SHARD, quota=5_000),
            TableEntry("unlimited", 10_002, SHARD, quota=0),
        )
        as_the_file_says = TableEntry("t", 10_003, SHARD)
        for _ in range(2):  # as whenever the catalog is read
            b.driver.know_tables([CATALOG, limited, as_the_file_says])
        first, second = {10_001: 5_000, 10_003: WITHOUT_QUOTA}, {10_001: 5_000, 10_002: 0}
        await wait_until_async(lambda: b.workers[N2].quotas, timeout_s=5, what="the news")
        b.driver.know_tables([CATALOG, limited, unlimited])
        await wait_until_async(
            lambda: all(len(b.workers[node].quotas) > 1 for node in (N1, N2)),
            timeout_s=5,
            what="the next ones",
        )
        assert b.workers[N1].quotas == b.workers[N2].quotas == [first, second]
        b.topology.move([N2, N3])
        await wait_until_async(lambda: b.workers[N3].quotas, timeout_s=5, what="the news at who is new")
        assert b.workers[N3].quotas == [second]


@in_loop
async def test_news_that_find_no_room_are_told_once_there_is_some_and_only_the_newest(tmp_path: Path) -> None:
    async with bench(tmp_path, N1) as b:
        # All before the replica reads any of it, and more than what the system keeps on the way.
        others = dict.fromkeys(range(10_002, 10_022), 0)
        tables = [TableEntry("other", table_id, SHARD, quota=quota) for table_id, quota in others.items()]
        words = 2 * LINK_QUEUE_MESSAGES_MAX
        for quota in range(1, words + 1):
            b.driver.know_tables([*tables, TableEntry("t", TABLE_ID, SHARD, quota=quota)])
        told, newest = b.workers[N1].quotas, {**others, TABLE_ID: words}
        await wait_until_async(lambda: told and told[-1] == newest, timeout_s=20, what="the newest")
        assert len(told) < words


@in_loop
async def test_a_member_of_which_nobody_says_where_it_is_holds_up_no_other(tmp_path: Path) -> None:
    async with bench(tmp_path, N1) as b:
        b.topology.move([NodeId(9), N2, N3])
        await wait_until_async(
            lambda: b.is_connected(N2) and b.is_connected(N3), timeout_s=5, what="links to the others"
        )
        assert b.driver.routes(SHARD).nodes == (N2, N3)


@in_loop
async def test_a_call_in_flight_survives_the_move_of_its_replica(tmp_path: Path) -> None:
    async with bench(tmp_path, N1, N2) as b:
        b.elect(N1, term=1)
        b.workers[N1].script[frames.ETCD_PUT] = lambda _: None
        write = asyncio.ensure_future(b.write())
        await wait_until_async(
            lambda: b.workers[N1].requests(frames.ETCD_PUT), timeout_s=5, what="the put to arrive"
        )
        b.topology.move([N2, N3])
        b.elect(N2, term=2)
        assert (await write).revision == 2


@in_loop
async def test_who_gives_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async with bench(tmp_path, N1) as b:
        b.workers[N1].script[frames.ETCD_RANGE] = lambda _: None
        read = asyncio.ensure_future(b.read())
        await wait_until_async(
            lambda: b.workers[N1].requests(frames.ETCD_RANGE), timeout_s=5, what="the read to arrive"
        )
        assert b.bounds.calls == 1
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        assert b.bounds.calls == 0


@in_loop
async def test_an_answer_may_cross_with_its_caller_leaving(tmp_path: Path) -> None:
    async with bench(tmp_path, N1) as b:
        worker = b.workers[N1]
        worker.script[frames.ETCD_RANGE] = lambda _: None
        worker.script[frames.CURSOR_CLOSE] = lambda _: None
        read = asyncio.ensure_future(b.read())
        await wait_until_async(
            lambda: worker.requests(frames.ETCD_RANGE), timeout_s=5, what="the read to arrive"
        )
        [request] = worker.requests(frames.ETCD_RANGE)
        worker.answer(frames.Reply(call=request.call, cursor=7))
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        await wait_until_async(
            lambda: worker.requests(frames.CURSOR_CLOSE), timeout_s=5, what="the cursor to be closed"
        )
        [close] = worker.requests(frames.CURSOR_CLOSE)
        assert close.cursor == 7


@in_loop
async def test_answers_wait_at_the_replica_while_clients_take_none(tmp_path: Path) -> None:
    async with bench(tmp_path, N1) as b:
        worker = b.workers[N1]
        worker.window_bytes = WINDOW_BYTES
        worker.script[frames.ETCD_RANGE] = lambda _: frames.Reply(body=b"x" * (1 << 20))
        b.held_bytes = 1  # some client does not take what is queued for it
        reads = [asyncio.ensure_future(b.read()) for _ in range(50)]
        await wait_until_async(
            lambda: len(worker.requests(frames.ETCD_RANGE)) == 50, timeout_s=5, what="the requests"
        )
        await wait_until_async(
            lambda: sum(read.done() for read in reads) == 4, timeout_s=5, what="a window of answers"
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reads[4]), 0.3)
        assert sum(read.done() for read in reads) == 4
        b.held_bytes = 0
        await asyncio.gather(*reads)


@in_loop
async def test_the_streams_of_a_client_are_told_from_those_of_another(tmp_path: Path) -> None:
    async with bench(tmp_path, N1) as b:
        worker = b.workers[N1]
        worker.script[frames.REGATTA_ITERATE] = lambda _: frames.Reply(cursor=7)
        worker.script[frames.CURSOR_CLOSE] = lambda _: None
        ids = RequestIds(bytes(8))
        source = Tables(OwnCalls(b.driver, ids), ReplicaStatuses(b.driver), shards=[SHARD], named=())
        tables = Catalog(source, promised=())
        calls = TableCalls(b.driver, tables, ids, b.bounds, step_timeout_s=5.0)
        for peer in ("10.0.0.1:5000", "10.0.0.1:5001", "10.0.0.2:5000", "[::1]:5000", ""):
            asked = Asked(CATALOG, frames.REGATTA_ITERATE, b"", b.driver.time() + 5, NOBODY, peer=peer)
            stream = await calls.start(asked, linearizable=False)
            stream.close()
        first, again, *others, untold = (
            request.client for request in worker.requests(frames.REGATTA_ITERATE)
        )
        assert first == again, "another connection makes no other client"
        assert len({first, *others}) == 3
        assert untold == 0
        await wait_until_async(
            lambda: len(worker.requests(frames.CURSOR_CLOSE)) == 5, timeout_s=5, what="the closes"
        )


@in_loop
async def test_the_end_fails_what_is_left(tmp_path: Path) -> None:
    async with bench(tmp_path, N1) as b:
        b.workers[N1].script[frames.ETCD_RANGE] = lambda _: None
        read, write = asyncio.ensure_future(b.read()), asyncio.ensure_future(b.write())
        await wait_until_async(lambda: b.bounds.calls == 2, timeout_s=5, what="both calls")
        b.driver.end_calls()
        with pytest.raises(errors.ShuttingDown):
            await read
        with pytest.raises(errors.TimedOut):
            await write
        with pytest.raises(errors.ShuttingDown):
            await b.read()
