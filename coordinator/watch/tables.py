"""The tables that somebody watches through this coordinator: each with its hub, and three loops that feed it.

One loop follows the table: a question that waits for the next change, answered, published, asked again. One reads the
past for watchers who are behind. What they ask, and what becomes of the answers, is in inquiry.py. The third looks now
and then whether the replica that is asked keeps up with its shard, so that watchers cannot be late in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from coordinator.watch.changes import Part
from coordinator.watch.inquiry import Inquiry, Question
from coordinator.watch.outbox import Budget
from coordinator.watch.rechecks import RETRY_FIRST_S, RETRY_MAX_S, Rechecks
from coordinator.watch.responses import revision_of
from coordinator.watch.shared import SharedQuestion
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from coordinator.watch.changes import Told
    from coordinator.watch.feed import Feed
    from coordinator.watch.hub import Hub
    from coordinator.watch.rechecks import Stream
    from coordinator.watch.responses import Header
    from proto.catalog import TableEntry

REACH_TIMEOUT_S: Final = 2.0
"""How far the nearest replica may be behind the leader, and how long a request waits for what the leader has. Behind
one that lags more watchers are told by the leader."""

LOOK_INTERVAL_S: Final = 2.0
"""Between two looks at where the leader is."""

BYTES_MAX: Final = 256 << 20
"""Of all that waits for watch clients to read it."""

DELETED: Final = "etcdserver: table was deleted"

log = structlog.get_logger()


class WatchedTable:
    """One table, for as long as somebody watches it."""

    def __init__(self, table: TableEntry, feed: Feed, header: Header, random: Random) -> None:
        """header: how responses begin."""
        self.table = table
        self.header = header
        self.rechecks = Rechecks()
        """Its streams."""
        self._feed = feed
        self._inquiry = Inquiry(header, random, self.rechecks.heed)
        self._standing = SharedQuestion(self._ask_where_it_stands)
        self._begun = asyncio.Event()
        self._wanted = asyncio.Event()
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._missed = 0
        """What was shown when the hub was last waited for in vain to reach that."""
        self._unsent: list[Stream] = []
        self._asking: asyncio.Timeout | None = None
        """Of the question that follows the table, by which it can be asked of another one."""
        self._has_ended = False
        self._broken: errors.InvariantBroken | None = None
        self._tasks = [
            asyncio.create_task(self._follow(), name=f"follow {table.name}"),
            asyncio.create_task(self._read_past(), name=f"past of {table.name}"),
            asyncio.create_task(self._look(), name=f"look at {table.name}"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._handle_task_ended)

    def _handle_task_ended(self, task: asyncio.Task[None]) -> None:
        """Nobody may go on to wait for news that do not come any more."""
        if task.cancelled() or task.exception() is None:
            return
        log.error("a watch stopped", table=self.table.name, job=task.get_name(), exc_info=task.exception())
        self._broken = errors.InvariantBroken(f"{task.get_name()} stopped: {task.exception()!r}")
        self._begun.set()
        for stream in self.rechecks.streams:
            stream.fail(self._broken)

    async def hub(self) -> Hub:
        """The table's watchers, once it is known where the table stands. Raises TableNotFound."""
        await self._begun.wait()
        if self._broken is not None:
            raise self._broken
        hub = self._inquiry.hub
        if hub is None or self._has_ended:
            raise errors.TableNotFound(self.table.name)
        return hub

    def wake(self) -> None:
        """Somebody is behind and has room: the past may have to be read."""
        self._wanted.set()

    def send_soon(self, stream: Stream) -> None:
        """Have a stream send what is in its outbox: in the next turn of the loop, or in this one if it was put there by
        what a replica has told, of which writers hear in this turn, too."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send_unsent)
        self._unsent.append(stream)

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        for stream in unsent:
            stream.send_news()

    async def heard(self) -> int:
        """Where the hub stands: unless its replica lags, no earlier than what an answer through this process has shown.
        Takes no leader. Raises TableNotFound."""
        hub = await self.hub()
        shown = self._feed.shown(self.table)
        # Once is enough: the requests of a stream wait for each other.
        if hub.revision < shown != self._missed and not await self._reach(shown):
            self._missed = shown
        return hub.revision

    async def current(self, *, patient: bool) -> int:
        """Where the table stands now: everything that a client has seen before is below or at it, and unless the leader
        is out of reach so is the hub.

        That takes a leader. Without one, patient waits for it; else the answer is where the hub stands. Raises
        TableNotFound."""
        hub = await self.hub()
        delay_s = RETRY_FIRST_S
        while True:
            try:
                revision = await self._standing.answer()
            except errors.TableNotFound:
                raise
            except errors.BoathouseError:
                if not patient:
                    return hub.revision
                delay_s = await self._pause(delay_s)
            else:
                break
        if hub.revision < revision and not await self._reach(revision):
            self._ask_leader(is_asked=True)
            await self._reach(revision)
        return max(hub.revision, revision)

    async def _ask_where_it_stands(self) -> int:
        place = self._inquiry.place
        revision = await self._feed.revision(self.table)
        self._inquiry.handle_standing(place, revision)
        if self._inquiry.place[0] != place[0]:
            self._ask_anew()  # what is under way is about a past that was given up
        return revision

    async def _reach(self, revision: int) -> bool:
        """Whether the hub does within some time."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append((revision, reached))
        try:
            async with asyncio.timeout(REACH_TIMEOUT_S):
                await reached
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Nobody watches any more."""
        self.rechecks.close()
        self._standing.close()
        for task in self._tasks:
            task.cancel()

    # ---- the present ------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        inquiry = self._inquiry
        delay_s = RETRY_FIRST_S
        while not self._has_ended:
            question = inquiry.present()
            try:
                told = await self._ask(question)
            except errors.TableNotFound:
                # A replica that lags may not have heard of a new table.
                if await self._is_gone():
                    self._end()
                elif delay_s >= RETRY_MAX_S:
                    self._ask_leader(is_asked=True)
                delay_s = await self._pause(delay_s)
                continue
            except errors.BoathouseError as error:
                log.debug("asked in vain for changes", table=self.table.name, error=repr(error))
                delay_s = await self._pause(delay_s)
                continue
            except TimeoutError:  # another one is asked
                continue
            delay_s = RETRY_FIRST_S
            inquiry.take(question, told)
            self._send_unsent()
            self._begun.set()
            if inquiry.hub is not None:
                self._handle_news(inquiry.hub)

    async def _ask(self, question: Question) -> Told:
        """The answer. Raises TimeoutError if another one is to be asked."""
        try:
            async with asyncio.timeout(None) as self._asking:
                return await self._feed.changes(self.table, question)
        finally:
            self._asking = None

    def _handle_news(self, hub: Hub) -> None:
        if hub.behind_count:
            self.wake()
        if self._awaited:
            self._tell_reached(hub.revision)

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
        if self._inquiry.hub is not None:
            self._inquiry.hub.end(DELETED)
        self._begun.set()

    # ---- whether whoever is asked keeps up --------------------------------------------------------------------------

    async def _look(self) -> None:
        while not self._has_ended:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self.current(patient=False)
                if self._inquiry.of_leader and await self._keeps_up():
                    self._ask_leader(is_asked=False)
            except errors.TableNotFound:
                if not self._has_ended:
                    self._end()
            except errors.BoathouseError as error:
                log.debug("it is not known whether a watch is late", table=self.table.name, error=repr(error))

    async def _keeps_up(self) -> bool:
        """Whether the nearest replica does."""
        heard = self._inquiry.stands
        try:
            async with asyncio.timeout(REACH_TIMEOUT_S):
                told = await self._feed.changes(self.table, Question(0))
        except (TimeoutError, errors.TableNotFound):  # as of one that was made anew; the leader has the table
            return False
        return isinstance(told, Part) and told.through >= heard

    def _ask_leader(self, *, is_asked: bool) -> None:
        """From now on the leader is asked, or again the nearest replica: whatever is under way is asked anew."""
        if self._inquiry.of_leader == is_asked:
            return
        self._inquiry.of_leader = is_asked
        log.warning(
            "the nearest replica lags behind its shard: watches are told by the leader"
            if is_asked
            else "the nearest replica has caught up: watches are told by it again",
            table=self.table.name,
        )
        self._ask_anew()

    def _ask_anew(self) -> None:
        """Give up the question that follows the table, and put the next one."""
        if self._asking is not None:
            self._asking.reschedule(0)

    # ---- the past ---------------------------------------------------------------------------------------------------

    async def _read_past(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            question = self._inquiry.past()
            if question is None:
                continue
            self._wanted.set()  # there may be more
            try:
                told = await self._feed.changes(self.table, question)
                moved = self._inquiry.take(question, told)
            except errors.BoathouseError as error:
                log.debug("asked in vain for the past", table=self.table.name, error=repr(error))
                moved = False
            delay_s = RETRY_FIRST_S if moved else await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> float:
        await asyncio.sleep(delay_s)
        return min(2 * delay_s, RETRY_MAX_S)

    # ---- figures ----------------------------------------------------------------------------------------------------

    @property
    def watchers_count(self) -> int:
        return 0 if self._inquiry.hub is None else self._inquiry.hub.watchers_count

    @property
    def behind_count(self) -> int:
        """Watchers that have not been told yet of all that was published."""
        return 0 if self._inquiry.hub is None else self._inquiry.hub.behind_count

    @property
    def lag_revisions(self) -> int:
        """How far the last of the clients is behind what this coordinator has heard of: because its replica lags, or
        since it reads slowly."""
        hub = self._inquiry.hub
        if hub is None or not hub.watchers_count:
            return 0
        unread = [
            revision_of(message) - 1
            for stream in self.rechecks.streams
            if (message := stream.outbox.oldest) is not None
        ]
        told_through = min([hub.told_through, *[revision for revision in unread if revision > 0]])
        return max(self._inquiry.stands, self._feed.shown(self.table)) - told_through


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
    def watching(self, table: TableEntry, stream: Stream) -> Iterator[WatchedTable]:
        """The table, which is followed for as long as any stream watches it."""
        watched = self._tables.get(table.id)
        if watched is None:
            watched = WatchedTable(table, self._feed, self._header_of(table), self._random)
            self._tables[table.id] = watched
        watched.rechecks.enter(stream)
        try:
            yield watched
        finally:
            if watched.rechecks.leave(stream):
                del self._tables[table.id]
                watched.close()

    def __iter__(self) -> Iterator[WatchedTable]:
        return iter(self._tables.values())
