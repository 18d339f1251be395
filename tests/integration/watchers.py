"""Watchers on a real cluster whose clients lose or leave their streams, go on at another node, and note all they hear.

There is one of each kind for each table and node. A client resumes as etcd's and Kubernetes' do: behind the last event
or bookmark that it has heard. So what a stream promises is judged stream by stream, and what all of them together
must come to, which is everything, client by client (tests/history/watches.py). The cluster tells where a stream stands
while nothing happens (`watch.progress_interval_ms`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import threading
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import grpc
import grpc.aio

from proto.etcd import rpc_pb2 as etcd
from tests.history.watches import Watched, check, truth_of
from tests.integration.clients import OPTIONS, REGISTERS
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

WATCH: Final = "/etcdserverpb.Watch/Watch"
RANGE: Final = "/etcdserverpb.KV/Range"
EVERYTHING: Final = b"\0"
CALL_TIMEOUT_S: Final = 20.0
CONNECT_S: Final = 1.0
"""Before a client tries the next node."""
STAYS: Final = (20, 400)
"""Responses that a client hears before it leaves a stream by itself."""
CATCH_UP_S: Final = 90.0
STOP_S: Final = 30.0


class Wish(NamedTuple):
    """What a client wants to hear."""

    key: bytes = EVERYTHING
    end: bytes = EVERYTHING
    puts: bool = True
    deletes: bool = True
    prev_kv: bool = False


def wishes(seed: int) -> list[Wish]:
    """Of the keys that a load of this seed touches, and of all."""
    registers, tokens = b"register/%d/" % seed, b"token/%d/" % seed
    return [
        Wish(prev_kv=True),
        Wish(registers, registers + b"\xff", puts=False, prev_kv=True),
        Wish(tokens, tokens + b"\xff", deletes=False),
        Wish(registers + b"%d" % (REGISTERS // 2), b"", prev_kv=True),
    ]


class Watches:
    """All clients, on a loop in a thread of its own."""

    def __init__(self, endpoints: Sequence[str], tables: Sequence[str], *, seed: int) -> None:
        self._endpoints = list(endpoints)
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._clients = [
            _Client(self._endpoints, home, table, wish, random.Random(f"{seed} {home} {table} {wish}"))
            for home in range(len(endpoints))
            for table in tables
            for wish in wishes(seed)
        ]
        self.clients = len(self._clients)
        self._tables = tables
        self._unexpected: list[BaseException] = []
        self._thread = threading.Thread(target=self._run_thread, name="watchers")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself, and said why
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "watchers do not stop"
        if self._unexpected:
            raise self._unexpected[0]

    def _run_thread(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        except BaseException as error:  # told to the test by __exit__()
            self._unexpected.append(error)
        finally:
            self._loop.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(client.run()) for client in self._clients]
            await self._stop.wait()
            for task in listening:
                task.cancel()

    @property
    def streams(self) -> int:
        """How many streams it took."""
        return sum(len(client.streams) for client in self._clients)

    @property
    def events(self) -> int:
        """How many were heard."""
        return sum(len(stream.events) for client in self._clients for stream in client.streams)

    def catch_up(self) -> None:
        """Until everybody has heard of everything, and knows that."""
        revisions = {table: self._revision(table) for table in self._tables}

        def all_have() -> bool:
            heard = all(client.through >= revisions[client.table] for client in self._clients)
            return heard or bool(self._unexpected)

        wait_until(all_have, timeout_s=CATCH_UP_S, what=f"watchers to hear of {revisions}")

    def check(self) -> None:
        """Judge what was heard, once nothing happens any more, by the whole history as it is told now."""
        for table in self._tables:
            judge = _Client(self._endpoints, 0, table, Wish(prev_kv=True), random.Random(0))
            judge.until = self._revision(table)
            asyncio.run(asyncio.wait_for(judge.run(), CATCH_UP_S))
            truth = truth_of(judge.together().events)
            for client in self._clients:
                if client.table == table:
                    for stream in client.streams:
                        check(stream, truth, max((e.kv.mod_revision for e in stream.events), default=0))
                    check(client.together(), truth, client.through)

    def _revision(self, table: str) -> int:
        with grpc.insecure_channel(self._endpoints[0], options=OPTIONS) as channel:
            call = channel.unary_unary(RANGE, None, None)
            body = call(
                etcd.RangeRequest(key=b"none").SerializeToString(),
                timeout=CALL_TIMEOUT_S,
                metadata=(("table", table),),
                wait_for_ready=True,
            )
        return etcd.RangeResponse.FromString(body).header.revision


class _Client:
    """One watcher, over as many streams as it takes."""

    def __init__(self, endpoints: list[str], home: int, table: str, wish: Wish, rng: random.Random) -> None:
        self.table = table
        self.through = 0
        """It has heard of everything up to this."""
        self.streams: list[Watched] = []
        self.until: float = math.inf
        """It ends when it has heard of everything up to this."""
        self._endpoints = endpoints
        self._home = home
        self._wish = wish
        self._rng = rng

    def together(self) -> Watched:
        """All streams as if they had been one."""
        whole = Watched(**self._wish._asdict())
        for stream in self.streams:
            whole.responses += stream.responses
        return whole

    async def run(self) -> None:
        for at in itertools.count(self._home):
            if self._is_done:
                return
            endpoint = self._endpoints[at % len(self._endpoints)]
            async with grpc.aio.insecure_channel(endpoint, options=OPTIONS) as channel:
                with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
                    await asyncio.wait_for(channel.channel_ready(), CONNECT_S)
                    await self._listen(channel)

    @property
    def _is_done(self) -> bool:
        return self.through >= self.until

    async def _listen(self, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(WATCH, None, None)(
            None,  # requests are written one by one
            metadata=(("table", self.table),),
        )
        wish, first = self._wish, self.through + 1
        filters = [
            kind
            for kind, wanted in (
                (etcd.WatchCreateRequest.NOPUT, wish.puts),
                (etcd.WatchCreateRequest.NODELETE, wish.deletes),
            )
            if not wanted
        ]
        create = etcd.WatchCreateRequest(
            key=wish.key,
            range_end=wish.end,
            start_revision=first,
            filters=filters,
            prev_kv=wish.prev_kv,
            progress_notify=True,
        )
        await call.write(etcd.WatchRequest(create_request=create).SerializeToString())
        heard, stays = Watched(**wish._asdict(), first=first), self._rng.randint(*STAYS)
        self.streams.append(heard)
        progress = etcd.WatchRequest(progress_request=etcd.WatchProgressRequest()).SerializeToString()
        try:
            async for message in call:
                response = etcd.WatchResponse.FromString(message)
                assert not response.canceled, f"{self.table}, from {first}: {response}"
                heard.responses.append(response)
                if response.created:
                    await call.write(progress)
                elif response.events:
                    self.through = response.events[-1].kv.mod_revision
                else:
                    self.through = max(self.through, response.header.revision)
                if self._is_done or len(heard.responses) >= stays:
                    return
        finally:
            call.cancel()
