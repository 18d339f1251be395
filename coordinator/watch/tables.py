"""The tables that somebody watches through this coordinator: each with its hub, and two loops that feed it.

One loop follows the table: a question to the nearest replica that waits for the next change, answered, published, asked
again. The other reads the past for watchers who are behind. Both ask from a revision on, so a failure of any kind is
answered by asking again after a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from coordinator.watch.feed import HistoryGone
from coordinator.watch.hub import Hub
from coordinator.watch.outbox import Budget
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from coordinator.watch.changes import Part
    from coordinator.watch.feed import Feed
    from coordinator.watch.responses import Header
    from proto.catalog import TableEntry

FOLLOW_WAIT_S: Final = 10.0
"""A replica that has nothing to tell says so after this."""

RETRY_FIRST_S: Final = 0.02
RETRY_MAX_S: Final = 1.0
"""Between failed questions; doubled from one to the next."""

REACH_TIMEOUT_S: Final = 2.0
"""How long a request waits for the nearest replica to apply what the leader has. One that lags more is told of its own
state, as by a member of etcd that lags."""

BYTES_MAX: Final = 256 << 20
"""Of all that waits for watch clients to read it."""

DELETED: Final = "etcdserver: table was deleted"

Fail = Callable[[errors.BoathouseError], None]
"""Ends a stream with this error."""
Recheck = Callable[[int], Awaitable[None]]
"""Ends those watchers of a stream whose user may not read what they hear, at this auth version of the table or later.
Raises if that can't be found out now."""

log = structlog.get_logger()


class WatchedTable:
    """One table, for as long as somebody watches it."""

    def __init__(self, table: TableEntry, feed: Feed, header: Header, random: Random) -> None:
        """header: how responses begin."""
        self.table = table
        self.header = header
        self._streams: dict[Fail, Recheck] = {}
        """By how each stream is ended."""
        self.auth_version = 0
        """The newest that was heard of (frames.TableChanges): a new watcher is looked at by this one or a later one."""
        self._heeded_version = 0
        """Every watcher was."""
        self._rechecking = asyncio.Lock()
        self._feed = feed
        self._random = random
        self._hub: Hub | None = None
        self._begun = asyncio.Event()
        self._wanted = asyncio.Event()
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._has_ended = False
        self._broken: errors.InvariantBroken | None = None
        self._tasks = [
            asyncio.create_task(self._follow(), name=f"follow {table.name}"),
            asyncio.create_task(self._read_past(), name=f"past of {table.name}"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._handle_task_ended)

    def enter(self, fail: Fail, recheck: Recheck) -> None:
        """A stream watches from now on; fail is how it is ended if it can't be told any more."""
        self._streams[fail] = recheck

    def leave(self, fail: Fail) -> bool:
        """It has ended. Returns whether it was the last one."""
        del self._streams[fail]
        return not self._streams

    def _handle_task_ended(self, task: asyncio.Task[None]) -> None:
        """Nobody may go on to wait for news that do not come any more."""
        if task.cancelled() or task.exception() is None:
            return
        log.error("a watch stopped", table=self.table.name, job=task.get_name(), exc_info=task.exception())
        self._broken = errors.InvariantBroken(f"{task.get_name()} stopped: {task.exception()!r}")
        self._begun.set()
        for fail in list(self._streams):
            fail(self._broken)

    async def hub(self) -> Hub:
        """The table's watchers, once it is known where the table stands. Raises TableNotFound."""
        await self._begun.wait()
        if self._broken is not None:
            raise self._broken
        if self._hub is None or self._has_ended:
            raise errors.TableNotFound(self.table.name)
        return self._hub

    def wake(self) -> None:
        """Somebody is behind and has room: the past may have to be read."""
        self._wanted.set()

    async def current(self, *, patient: bool) -> int:
        """Where the table stands now: everything that a client has seen before is below or at it, and if the nearest
        replica is not too far behind, so is the hub.

        That takes a leader. Without one, patient waits for it; else the answer is where the hub stands. Raises
        TableNotFound."""
        hub = await self.hub()
        delay_s = RETRY_FIRST_S
        while True:
            try:
                revision = await self._feed.revision(self.table)
            except errors.TableNotFound:
                raise
            except errors.BoathouseError:
                if not patient:
                    return hub.revision
                delay_s = await self._pause(delay_s)
            else:
                break
        if hub.revision < revision:
            await self._reach(revision)
        return max(hub.revision, revision)

    async def _reach(self, revision: int) -> None:
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append((revision, reached))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REACH_TIMEOUT_S):
                await reached

    def close(self) -> None:
        """Nobody watches any more."""
        for task in self._tasks:
            task.cancel()

    # ---- the present ------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        delay_s = RETRY_FIRST_S
        while not self._has_ended:
            try:
                await (self._begin() if self._hub is None else self._publish(self._hub))
            except errors.TableNotFound:
                # A replica that lags may not have heard of a new table.
                if await self._is_gone():
                    self._end()
                delay_s = await self._pause(delay_s)
            except errors.BoathouseError as error:
                log.debug("asked in vain for changes", table=self.table.name, error=repr(error))
                delay_s = await self._pause(delay_s)
            else:
                delay_s = RETRY_FIRST_S

    async def _begin(self) -> None:
        part = await self._feed.changes(self.table, 0)
        self.auth_version = self._heeded_version = part.auth_version
        self._hub = Hub(part.through, self.header, self._random)
        self._begun.set()

    async def _publish(self, hub: Hub) -> None:
        try:
            part = await self._ask(hub, prev=hub.wants_prev)
            await self._heed(part.auth_version)
            if hub.wants_prev and not part.prev and part.through > hub.revision:
                part = await self._ask(hub, prev=True)  # for somebody who has come meanwhile
                await self._heed(part.auth_version)
        except HistoryGone as gone:
            hub.handle_gap(gone.floor)
        else:
            if part.through > hub.revision:
                hub.publish(part)
        if hub.behind_count:
            self.wake()
        if self._awaited:
            self._tell_reached(hub.revision)

    async def _ask(self, hub: Hub, *, prev: bool) -> Part:
        return await self._feed.changes(self.table, hub.revision + 1, prev=prev, wait_s=FOLLOW_WAIT_S)

    async def _heed(self, auth_version: int) -> None:
        """Before anybody hears what happened up to this auth version: who may not read it any more hears nothing."""
        if auth_version <= self._heeded_version:
            return
        self.auth_version = max(self.auth_version, auth_version)
        async with self._rechecking:
            if auth_version % 2:
                for recheck in list(self._streams.values()):
                    await recheck(auth_version)
            self._heeded_version = max(self._heeded_version, auth_version)

    def _tell_reached(self, revision: int) -> None:
        still = []
        for awaited, reached in self._awaited:
            if reached.done():
                continue
            if awaited <= revision:
                reached.set_result(None)
            else:
                still.append((awaited, reached))
        self._awaited = still

    async def _is_gone(self) -> bool:
        try:
            await self._feed.revision(self.table)
        except errors.TableNotFound:
            return True
        except errors.BoathouseError:
            return False
        return False

    def _end(self) -> None:
        self._has_ended = True
        if self._hub is not None:
            self._hub.end(DELETED)
        self._begun.set()

    # ---- the past ---------------------------------------------------------------------------------------------------

    async def _read_past(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            hub = self._hub
            first = None if hub is None else hub.wants_history()
            if hub is None or first is None:
                continue
            self._wanted.set()  # there may be more
            try:
                moved = await self._replay(hub, first)
            except errors.BoathouseError as error:
                log.debug("asked in vain for the past", table=self.table.name, error=repr(error))
                moved = False
            delay_s = RETRY_FIRST_S if moved else await self._pause(delay_s)

    async def _replay(self, hub: Hub, first: int) -> bool:
        """False if the replica that was asked is itself behind: it has nothing to tell."""
        try:
            part = await self._feed.changes(self.table, first, prev=True)
        except HistoryGone as gone:
            hub.handle_compacted(gone.floor)
            return True
        if part.through < first:
            return False
        await self._heed(part.auth_version)
        hub.replay(part)
        return True

    async def _pause(self, delay_s: float) -> float:
        await asyncio.sleep(delay_s)
        return min(2 * delay_s, RETRY_MAX_S)

    # ---- figures ----------------------------------------------------------------------------------------------------

    @property
    def watchers_count(self) -> int:
        return 0 if self._hub is None else self._hub.watchers_count

    @property
    def behind_count(self) -> int:
        """Watchers that have not been told yet of all that was published."""
        return 0 if self._hub is None else self._hub.behind_count

    @property
    def lag_revisions(self) -> int:
        """How far the last of them is behind."""
        return 0 if self._hub is None else self._hub.lag_revisions


class WatchedTables:
    """All of a coordinator."""

    def __init__(self, feed: Feed, header_of: Callable[[TableEntry], Header], random: Random) -> None:
        """header_of: how the responses of a table begin."""
        self.budget = Budget(BYTES_MAX)
        self._feed = feed
        self._header_of = header_of
        self._random = random
        self._tables: dict[int, WatchedTable] = {}

    @contextlib.contextmanager
    def watching(self, table: TableEntry, fail: Fail, recheck: Recheck) -> Iterator[WatchedTable]:
        """The table, which is followed for as long as any stream watches it. The others: see WatchedTable.enter."""
        watched = self._tables.get(table.id)
        if watched is None:
            watched = WatchedTable(table, self._feed, self._header_of(table), self._random)
            self._tables[table.id] = watched
        watched.enter(fail, recheck)
        try:
            yield watched
        finally:
            if watched.leave(fail):
                del self._tables[table.id]
                watched.close()

    def __iter__(self) -> Iterator[WatchedTable]:
        return iter(self._tables.values())
