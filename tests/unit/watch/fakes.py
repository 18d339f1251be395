"""A shard that is a list, and a client that is a queue."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from random import Random
from typing import TYPE_CHECKING, Any, Self

from coordinator.api.call import ANYBODY
from coordinator.api.credentials import Credentials
from coordinator.api.headers import EtcdHeaders
from coordinator.auth.authenticator import Rights
from coordinator.services.etcd_watch import EtcdWatch
from coordinator.shards.vigil import LeaderVigil
from coordinator.watch.changes import Change, Gone, Part, Revised
from coordinator.watch.tables import WatchedTables
from proto import errors
from proto.catalog import TableEntry
from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.spans import NOTHING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from coordinator.watch.changes import Told
    from coordinator.watch.inquiry import Question

TABLE = TableEntry("t", 10_001, ShardId(1))
HEADERS = EtcdHeaders(cluster_id=1, member_id=2)


class FakeFeed:
    """One table. Its replica has applied everything unless the test holds it back."""

    def __init__(self) -> None:
        self.log: list[Change] = []
        self.floor = -1
        self.applied_max: int | None = None
        """What the replica that is asked has applied; the leader has all."""
        self.lacks_table = False
        """Whether the replica that is asked has not heard of the table; the leader has."""
        self.shown_revision = 0
        self.led = True
        self.deleted = False
        self.revisions_asked = 0
        self.auth_version = 0
        self.failures: list[Exception] = []
        """What the next questions end with."""
        self.asked: list[Question] = []
        self._news = asyncio.Event()

    @property
    def latest(self) -> int:
        """The table's revision: each change is one."""
        return 1 + len(self.log)

    def _applied(self, question: Question) -> int:
        lags = self.applied_max is not None and not question.of_leader
        return min(self.applied_max or 0, self.latest) if lags else self.latest

    def _check_has_table(self, question: Question) -> None:
        if self.lacks_table and not question.of_leader:
            raise errors.TableNotFound

    def put(self, key: bytes, value: bytes = b"v") -> None:
        pair = kv_pb2.KeyValue(key=key, value=value, mod_revision=self.latest + 1)
        self.log.append(Change(key, etcd.RangeResponse(kvs=[pair]).SerializeToString(), None))
        self.tell()

    def tell(self) -> None:
        self._news.set()

    async def changes(self, table: TableEntry, question: Question) -> Told:
        assert table == TABLE
        first, waits = question.first, question.waits
        self.asked.append(question)
        if self.failures:
            raise self.failures.pop(0)
        self._check_has_table(question)
        first = first or self._applied(question) + 1
        while waits and first > self._applied(question):
            self._news.clear()
            await self._news.wait()
            if self.failures:
                raise self.failures.pop(0)
            self._check_has_table(question)
        if first < self.floor:
            return Gone(self.floor)
        through = max(self._applied(question), first - 1)
        numbers = range(max(first, 2), through + 1)
        return Part(
            first,
            through,
            [Revised(number, [self.log[number - 2]]) for number in numbers],
            question.prev,
            self.auth_version,
        )

    def shown(self, table: TableEntry) -> int:
        assert table == TABLE
        return self.shown_revision

    async def revision(self, table: TableEntry) -> int:
        assert table == TABLE
        self.revisions_asked += 1
        if self.deleted:
            raise errors.TableNotFound
        if not self.led:
            raise errors.NoLeader("nobody leads")
        return self.latest


class FakeTables:
    """Every call means the one table, and insists on a leader if its metadata has anything about it."""

    def __init__(self, vigil: LeaderVigil) -> None:
        self._vigil = vigil

    def while_led(self, call: FakeCall, table: TableEntry) -> AbstractAsyncContextManager[None]:
        return self._vigil.while_led(table) if "hasleader" in call.metadata else nullcontext()

    async def find(self, _call: object) -> TableEntry:
        return TABLE

    def step_deadline(self, _call: object) -> float:
        return float("inf")


class FakeAuthenticator:
    """Who may read what, as the test says; nobody is asked while the feed says that authentication is off."""

    def __init__(self, feed: FakeFeed) -> None:
        self._feed = feed
        self.readable = NOTHING
        self.failures: list[Exception] = []
        """What the next questions end with."""
        self.leader_knows: int | None = None
        """The auth version by which the leader answers; None: one that is new enough."""
        self.asked: list[Credentials] = []
        self.stuck: set[bytes] = set()
        """Tokens about which no question is answered."""

    def credentials(self, call: FakeCall, _table: TableEntry) -> Credentials:
        return Credentials(token=call.metadata.get("token", "").encode())

    async def rights(
        self, who: Credentials, _table: TableEntry, _deadline: float, *, at_least: int
    ) -> Rights:
        self.asked.append(who)
        if who.token in self.stuck:
            await asyncio.Event().wait()
        if self.failures:
            raise self.failures.pop(0)
        user = who.user or f"u{who.token.decode().removeprefix('t')}"
        newest = max(at_least, self._feed.auth_version) if self.leader_knows is None else self.leader_knows
        return Rights(newest, user, self.readable)


class FakeCall:
    """One watch stream, and the client at its other end."""

    body = b""
    deadline = float("inf")
    peer = "test"
    identity = ANYBODY
    table = ""

    def __init__(self, **metadata: str) -> None:
        self.metadata = metadata
        self._said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def messages(self) -> AsyncIterator[bytes]:
        while (message := await self._said.get()) is not None:
            yield message

    async def take_messages(self, count_max: int) -> Sequence[bytes]:
        raise AssertionError("a watch takes them one by one")

    async def send(self, message: bytes) -> None:
        await self.may_read.wait()
        self._heard.put_nowait(message)

    async def send_all(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            await self.send(message)

    def send_now(self, messages: Sequence[bytes]) -> bool:
        if not self.may_read.is_set():
            return False
        for message in messages:
            self._heard.put_nowait(message)
        return True

    def add_header(self, name: str, value: str) -> None:
        raise AssertionError("a watch adds none")

    add_trailer = add_header

    def say(self, message: bytes | None) -> None:
        self._said.put_nowait(message)

    def create(self, key: bytes, end: bytes = b"", **options: Any) -> None:
        create = etcd.WatchCreateRequest(key=key, range_end=end, **options)
        self.say(etcd.WatchRequest(create_request=create).SerializeToString())

    def cancel(self, watch_id: int) -> None:
        cancel = etcd.WatchCancelRequest(watch_id=watch_id)
        self.say(etcd.WatchRequest(cancel_request=cancel).SerializeToString())

    async def hear(self) -> etcd.WatchResponse:
        async with asyncio.timeout(10):
            return etcd.WatchResponse.FromString(await self._heard.get())

    @property
    def unheard(self) -> int:
        return self._heard.qsize()


class Bench:
    """The service over a feed. Streams end with the block."""

    def __init__(self, *, progress_interval_s: float = 600.0, leader_patience_s: float = 600.0) -> None:
        self.feed = FakeFeed()
        self.watched = WatchedTables(
            self.feed,
            lambda _table: lambda revision: HEADERS.encode(revision=revision, term=3),
            Random(1),
        )
        vigil = LeaderVigil(lambda _table: self.feed.led, patience_s=leader_patience_s)
        tables: Any = FakeTables(vigil)
        self.authenticator = FakeAuthenticator(self.feed)
        authenticator: Any = self.authenticator
        self._service = EtcdWatch(
            tables, authenticator, self.watched, Random(1), progress_interval_s=progress_interval_s
        )
        self._streams: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        assert self.watched.budget.bytes == 0
        assert list(self.watched) == []

    def open(self, **metadata: str) -> tuple[FakeCall, asyncio.Task[None]]:
        call = FakeCall(**metadata)
        stream = asyncio.create_task(self._service.watch(call))
        self._streams.append(stream)
        return call, stream
