"""etcdserverpb.Watch: one stream, any number of watchers of one table.

A stream reads requests in order and answers them in order through its outbox, with the events of its watchers in
between. What is put there is sent within a turn of the loop (`send_news`) while its client reads; else `run` waits for
that. While the outbox is full it takes no more requests. A client that has no more to ask still hears of events: the
stream ends when its client ends the call, when the table's shard has no leader and the client has asked to be told, or
with the process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from coordinator.api import outcomes
from coordinator.services.decoding import decode
from coordinator.services.watch_user import WatchUser, why_forbidden
from coordinator.watch import responses
from coordinator.watch.audience import Interest, State, Watcher
from coordinator.watch.outbox import Outbox
from coordinator.watch.rechecks import Readable
from proto import errors
from proto.auth_version import is_enabled
from proto.etcd import rpc_pb2 as etcd
from proto.spans import NOTHING, OPEN_END, span_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from coordinator.api.call import Call, Handler
    from coordinator.api.credentials import Credentials
    from coordinator.auth.authenticator import Authenticator
    from coordinator.services.etcd_tables import EtcdTables
    from coordinator.watch.hub import Hub
    from coordinator.watch.outbox import Budget
    from coordinator.watch.tables import WatchedTable, WatchedTables

OUTBOX_BYTES_MAX: Final = 1 << 20
"""Of one stream. A client that has so much to read hears the rest from the history when it has read half of it."""

BATCH_BYTES_MAX: Final = 64 << 10
"""Of responses that are given to the connection at once, about."""

PROGRESS_JITTER: Final = 0.1
"""Notifications of streams that began together drift apart by up to this part of the interval."""

LOWEST_KEY: Final = b"\0"
"""What an empty key stands for."""

DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY_RANGE: Final = "mvcc: watcher range is empty"
COMPACTED: Final = outcomes.to_status(outcomes.ETCD, errors.Compacted()).text


class EtcdWatch:
    """Watch."""

    def __init__(
        self,
        tables: EtcdTables,
        authenticator: Authenticator,
        watched: WatchedTables,
        random: Random,
        *,
        progress_interval_s: float,
    ) -> None:
        """progress_interval_s: see config.WatchConfig."""
        self._tables = tables
        self._authenticator = authenticator
        self._watched = watched
        self._random = random
        self._progress_interval_s = progress_interval_s

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {"/etcdserverpb.Watch/Watch": self.watch}

    async def watch(self, call: Call) -> None:
        """A stream, until it ends. Raises NoLeader if it insists on a leader and there is none for too long."""
        table = await self._tables.find(call)
        interval_s = self._progress_interval_s * (1 + PROGRESS_JITTER * self._random.random())
        user = WatchUser(
            self._authenticator,
            table,
            lambda: self._authenticator.credentials(call, table),
            lambda: self._tables.step_deadline(call),
        )
        stream = _Stream(call, self._watched.budget, user, progress_interval_s=interval_s)
        with self._watched.watching(table, stream) as watched:
            try:
                async with self._tables.while_led(call, table):
                    await stream.run(watched)
            finally:
                stream.close()


class _Stream:
    """One call, and the watchers that its client has made."""

    _watched: WatchedTable
    _hub: Hub

    def __init__(self, call: Call, budget: Budget, user: WatchUser, *, progress_interval_s: float) -> None:
        self._call = call
        self._user = user
        self._progress_interval_s = progress_interval_s
        self._watchers: dict[int, Watcher] = {}
        """By id; those that ended by themselves too, until their client cancels them."""
        self._notified: dict[int, Watcher] = {}
        """Those that want to be notified of progress."""
        self._notice: asyncio.TimerHandle | None = None
        self._next_id = 0
        self._failure: BaseException | None = None
        self._unsent: Sequence[bytes] = ()
        """What run() sends before it looks into the outbox; as long as it has not, nothing else is sent."""
        self._is_needed = asyncio.Event()
        """run() is."""
        self._has_room = asyncio.Event()
        self.outbox = Outbox(
            budget, bytes_max=OUTBOX_BYTES_MAX, on_message=self._handle_message, on_room=self._handle_room
        )

    async def run(self, watched: WatchedTable) -> None:
        """Until the call is over. Raises what fail() was told."""
        self._watched = watched
        requests = asyncio.create_task(self._handle_requests())
        requests.add_done_callback(self._handle_end_of_requests)
        try:
            while True:
                await self._is_needed.wait()
                self._is_needed.clear()
                if self._failure is not None:
                    raise self._failure
                while self._unsent:
                    await self._call.send_all(self._unsent)
                    self._unsent = self.outbox.pop_batch(BATCH_BYTES_MAX)
        finally:
            requests.cancel()

    def close(self) -> None:
        """Let go of everything."""
        if self._notice is not None:
            self._notice.cancel()
        for watcher in self._watchers.values():
            self._hub.cancel(watcher)
        self.outbox.close()

    def fail(self, failure: BaseException) -> None:
        """End with this error."""
        self._failure = failure
        self._is_needed.set()

    @property
    def has_watchers(self) -> bool:
        return bool(self._watchers)

    def _handle_message(self) -> None:
        self._watched.send_soon(self)

    def send_news(self) -> None:
        """Send what is in the outbox, as far as that need not wait."""
        while not self._unsent and (batch := self.outbox.pop_batch(BATCH_BYTES_MAX)):
            if not self._call.send_now(batch):
                self._unsent = batch
                self._is_needed.set()

    def _handle_room(self) -> None:
        self._has_room.set()
        self._watched.wake()

    # ---- whose it is ------------------------------------------------------------------------------------------------

    @property
    def who(self) -> Credentials:
        return self._user.who

    async def readable(self, at_least: int) -> Readable:
        return await self._user.readable(at_least)

    def handle_readable(self, readable: Readable | errors.AuthError) -> None:
        if isinstance(readable, Readable):
            self._user.handle_known(readable.user)
            spans, refusal = readable.spans, why_forbidden(errors.PermissionDenied())
        else:
            spans, refusal = NOTHING, why_forbidden(readable)
        for watch_id, watcher in list(self._watchers.items()):
            heard = span_of(watcher.interest.key, watcher.interest.end)
            if watcher.state is not State.ENDED and not spans.covers(heard):
                self._end(watch_id, reason=refusal)

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def _handle_requests(self) -> None:
        self._hub = await self._watched.hub()
        async for message in self._call.messages():
            request = decode(etcd.WatchRequest.FromString, message)
            match request.WhichOneof("request_union"):
                case "create_request":
                    await self._create(request.create_request)
                case "cancel_request":
                    self._cancel(request.cancel_request.watch_id)
                case "progress_request":
                    await self._watched.current(patient=False)
                    self._hub.tell_progress(self._watchers.values(), self.outbox)
                case None:
                    pass
            while self.outbox.is_full:
                self._has_room.clear()
                await self._has_room.wait()

    def _handle_end_of_requests(self, requests: asyncio.Task[None]) -> None:
        """A client that has no more to ask still hears of events."""
        if not requests.cancelled() and (failure := requests.exception()) is not None:
            self.fail(failure)

    async def _create(self, request: etcd.WatchCreateRequest) -> None:
        if request.start_revision:
            revision = await self._watched.heard()  # what it is to hear does not depend on where now is
        else:
            revision = await self._watched.current(patient=self._refusal(request) is None)
        header = self._watched.header(revision)
        refusal = COMPACTED if request.start_revision < 0 else await self._forbidden(request)
        refusal = refusal or self._refusal(request)
        await self._watched.hub()  # the table may be gone by now, and nobody is told of it twice
        if refusal is not None:
            self.outbox.put((responses.refused(header, refusal),))
            return
        filters = request.filters
        watcher = Watcher(
            watch_id=request.watch_id or self._draw_id(),
            interest=Interest(
                request.key or LOWEST_KEY,
                request.range_end,
                puts=etcd.WatchCreateRequest.NOPUT not in filters,
                deletes=etcd.WatchCreateRequest.NODELETE not in filters,
                prev_kv=request.prev_kv,
            ),
            outbox=self.outbox,
            start=request.start_revision,
            next=request.start_revision or revision + 1,
            fragment=request.fragment,
        )
        self._watchers[watcher.watch_id] = watcher
        self.outbox.put((responses.created(header, watcher.watch_id),))
        self._hub.add(watcher)
        self._watched.wake()
        if request.progress_notify:
            self._notified[watcher.watch_id] = watcher
            self._notice_later()

    async def _forbidden(self, request: etcd.WatchCreateRequest) -> str | None:
        """Why the user may not hear of it; looked at again if users or permissions change meanwhile."""
        rechecks = self._watched.rechecks
        # That a range has no keys in it is told to who may read every key, as to root.
        span = span_of(request.key or LOWEST_KEY, request.range_end) or (LOWEST_KEY, None)
        looked_at = 0
        while is_enabled(at_least := rechecks.auth_version) and looked_at < at_least:
            try:
                readable = await self._user.readable_anew(at_least)
            except errors.AuthError as error:
                return why_forbidden(error)
            if not readable.spans.covers(span):
                return why_forbidden(errors.PermissionDenied())
            looked_at = readable.auth_version
            rechecks.handle_found(at_least, looked_at)
        return None

    def _refusal(self, request: etcd.WatchCreateRequest) -> str | None:
        """Why the watcher can't be made, in etcd's order and words."""
        end = request.range_end
        if request.start_revision < 0:
            return COMPACTED
        if end and end != OPEN_END and end <= (request.key or LOWEST_KEY):
            return EMPTY_RANGE
        if request.watch_id in self._watchers and request.watch_id:
            return DUPLICATE_ID
        return None

    def _draw_id(self) -> int:
        """An id that is not in use, and was not drawn before."""
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _cancel(self, watch_id: int) -> None:
        if watch_id in self._watchers:
            self._end(watch_id)

    def _end(self, watch_id: int, *, reason: str = "") -> None:
        watcher = self._watchers.pop(watch_id)
        self._notified.pop(watch_id, None)
        self._hub.cancel(watcher)
        header = self._watched.header(self._hub.revision)
        self.outbox.put((responses.canceled(header, watch_id, reason=reason),))

    # ---- progress ---------------------------------------------------------------------------------------------------

    def _notice_later(self) -> None:
        if self._notice is None:
            loop = asyncio.get_running_loop()
            self._notice = loop.call_later(self._progress_interval_s, self._notify)

    def _notify(self) -> None:
        self._notice = None
        for watcher in self._notified.values():
            self._hub.notify(watcher)
        if self._notified:
            self._notice_later()
