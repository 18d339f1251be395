"""Who watches a table, and that nobody hears what he may not read.

Each watcher is held against its user's permissions when it begins. When users or permissions have changed, which the
auth version says that comes with each piece of news, every stream that has watchers is held back, until it is known
what its user may read now: its watchers fall behind, and go on by themselves from the history. So nobody waits for
another one's answer, and those of the same user share one.

The version may also go back, as the table's revision may (inquiry.py): a shard was recovered from the disk of one
replica, or a copy put back. Who tells of an earlier version than was heard of may just lag, so it is a reason to ask,
and what the table's leader says then is what counts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog

from proto import errors
from proto.auth_version import is_enabled

if TYPE_CHECKING:
    from coordinator.api.credentials import Credentials
    from coordinator.watch.outbox import Outbox
    from proto.spans import SpanSet

QUESTIONS_MAX: Final = 64
"""Under way at a time."""

RETRY_FIRST_S: Final = 0.02
RETRY_MAX_S: Final = 1.0
"""Between questions that failed; doubled from one to the next."""

log = structlog.get_logger()


class Readable(NamedTuple):
    """What a user may read."""

    user: str
    auth_version: int
    """Of the table, when that was looked at."""
    spans: SpanSet


class Stream(Protocol):
    """A watch stream, as its table sees it."""

    @property
    def outbox(self) -> Outbox: ...

    @property
    def has_watchers(self) -> bool: ...

    @property
    def who(self) -> Credentials:
        """Whose it is."""

    def send_news(self) -> None:
        """Send what is in its outbox."""

    def fail(self, failure: errors.BoathouseError, /) -> None:
        """End it with this error."""

    async def readable(self, at_least: int, /) -> Readable:
        """What its user may read, at this auth version of the table or later, or as its leader says. Raises AuthError
        if he is none, and other errors if that can't be found out now."""

    def handle_readable(self, readable: Readable | errors.AuthError, /) -> None:
        """What the user of it may read now, or why nothing: end the watchers that he may not have any more."""


class Rechecks:
    """The streams of one table."""

    def __init__(self) -> None:
        self.auth_version = 0
        """The newest that was heard of (frames.TableChanges), unless the leader knows of none so new: a new watcher is
        looked at by this one or a later one."""
        self._earlier = 0
        """What was heard last that is below that."""
        self._streams: dict[Stream, None] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(QUESTIONS_MAX)

    @property
    def streams(self) -> list[Stream]:
        return list(self._streams)

    def enter(self, stream: Stream) -> None:
        """It watches from now on."""
        self._streams[stream] = None

    def leave(self, stream: Stream) -> bool:
        """It has ended. Returns whether it was the last one."""
        del self._streams[stream]
        return not self._streams

    def heed(self, auth_version: int) -> None:
        """Before anybody hears what happened up to this auth version."""
        if auth_version in (self.auth_version, self._earlier):
            return
        went_back = auth_version < self.auth_version
        if went_back:
            self._earlier = auth_version
        else:
            self.auth_version, self._earlier = auth_version, 0
        self.close()  # what they ask is out of date, and whom they would release is looked at below
        by_user: dict[Credentials, list[Stream]] = {}
        for stream in self._streams:
            if (went_back or is_enabled(auth_version)) and stream.has_watchers:
                stream.outbox.hold()
                by_user.setdefault(stream.who, []).append(stream)
            else:
                stream.outbox.release()
        for streams in by_user.values():
            task = asyncio.create_task(self._recheck(self.auth_version, streams))
            self._asking.add(task)
            task.add_done_callback(self._handle_asked)

    def handle_found(self, at_least: int, found: int) -> None:
        """Somebody was looked at by this auth version, when one as new as at_least was asked for. If it is an earlier
        one, the leader has said that there is none so new."""
        if found < at_least == self.auth_version:
            self.auth_version, self._earlier = found, 0

    def close(self) -> None:
        """Ask no more."""
        for task in self._asking:
            task.cancel()

    def _handle_asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("watches are held back, and nobody asks whether they may go on", exc_info=failure)
            for stream in list(self._streams):
                stream.fail(errors.InvariantBroken(f"the permissions of watches: {failure!r}"))

    async def _recheck(self, auth_version: int, streams: list[Stream]) -> None:
        """All of one user."""
        delay_s = RETRY_FIRST_S
        while streams := [stream for stream in streams if stream in self._streams]:
            try:
                async with self._turns:
                    readable: Readable | errors.AuthError = await streams[0].readable(auth_version)
            except errors.AuthError as refusal:
                readable = refusal
            except errors.BoathouseError as error:
                log.debug("asked in vain what a watch's user may read", error=repr(error))
                streams.append(streams.pop(0))  # its own deadline may be over
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
                continue
            if isinstance(readable, Readable):
                self.handle_found(auth_version, readable.auth_version)
            for stream in streams:
                if stream in self._streams:
                    stream.handle_readable(readable)
                    stream.outbox.release()
            return
