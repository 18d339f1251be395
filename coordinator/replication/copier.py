"""Keeping the copy of one table level with its origin, for as long as it runs. What to do is decided in tail.py."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol, assert_never

import structlog

from coordinator.replication.leader import LeaderFailed, parsed, reason_of
from coordinator.replication.parts import PartsUnderWay
from coordinator.replication.regatta_form import CREATION
from coordinator.replication.report import CopyReport
from coordinator.replication.tail import Follow, Rng, Since, Tail, TakeSnapshot, Wait
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from coordinator.replication.clock import Loop
    from coordinator.replication.copies import Copies
    from coordinator.replication.leader import Leader
    from proto.catalog import TableEntry

log = structlog.get_logger()


class Aside(Protocol):
    """Where copies are kept that hold what the leader cluster does not: aside.Aside."""

    async def keep(self, copy: TableEntry, status: frames.TableStatus, *, is_fresh: bool) -> None:
        """status: where the copy stands. is_fresh: it is what the last snapshot brought, and no more. Raises
        BoathouseError."""


class Prefixes(Protocol):
    """Of which copies it is known that they hold nothing but what their origin has held: prefixes.Prefixes."""

    async def known(self, copy: TableEntry) -> bytes: ...
    async def note(self, copy: TableEntry, table: bytes) -> None: ...
    async def forget(self, copy: TableEntry) -> None: ...


class Copier:
    """One copy. run() ends only by being cancelled, or by a bug."""

    def __init__(
        self,
        copy: TableEntry,
        leader: Leader,
        copies: Copies,
        prefixes: Prefixes,
        aside: Aside,
        rng: Rng,
        loop: Loop,
        since: Since | None = None,
    ) -> None:
        """since: see Tail."""
        self._copy = copy
        self._prefixes = prefixes
        self._aside = aside
        self._leader = leader
        self._copies = copies
        self._loop = loop
        self.tail = Tail(rng, loop.time(), since)
        self._compacted = 0
        self._users = b""
        """As they were last taken over."""
        self._prefix_of = b""
        """As this copier has noted or found it."""

    async def run(self) -> None:
        """For ever: the next step, and the next."""
        while True:
            step = self.tail.next()
            try:
                match step:
                    case Follow():
                        await self._follow()
                    case TakeSnapshot():
                        await self._take_snapshot(step)
                    case Wait():
                        await self._loop.sleep(step.seconds)
                    case _:
                        assert_never(step)
            except errors.Diverged as error:
                self.tail.cannot_follow(error.detail, loses=True)
            except (errors.BoathouseError, LeaderFailed) as error:
                self.tail.failed(reason_of(error))
                self._warn()

    def report(self, now: float) -> CopyReport:
        """How it goes."""
        tail = self.tail
        lag = tail.lag(now)
        return CopyReport(
            name=self._copy.name,
            revision=tail.revision,
            lag_revisions=lag.entries,
            lag_s=round(lag.seconds, 1),
            stuck_s=round(tail.stuck_s(now), 1),
            does=self._does(),
            stalled=tail.is_stalled(now),
            trouble=tail.trouble,
            backoff_s=round(tail.backoff_s, 2),
        )

    def _does(self) -> str:
        return self.tail.does.value

    def _warn(self) -> None:
        tail = self.tail
        log.warning(
            "replication is held up",
            table=self._copy.name,
            revision=tail.revision,
            reason=tail.trouble,
            backoff_s=round(tail.backoff_s, 2),
        )

    async def _follow(self) -> None:
        """One stream of changes, from where the copy ends."""
        tail, copy = self.tail, self._copy
        status = await self._copies.status(copy)
        tail.stands(status.revision)
        self._compacted = max(0, status.compacted_revision)
        table = self._leader.table(copy.origin)
        if status.revision <= CREATION:
            await self._note_prefix(table)  # it holds nothing, and its shard takes changes of that table only
        stream = self._leader.replicate(copy.name, copy.origin, status.revision + 1)
        async with aclosing(stream):
            async for message in stream:
                if self._is_refused(message):
                    return
                if message.users:
                    await self._take_users(message.users)
                elif await self._take(message, status):
                    await self._note_prefix(table)

    def _is_refused(self, message: replication.ReplicateResponse) -> bool:
        """Whether it says that the leader cluster can't tell what follows; what that means for the copy is noted."""
        if not message.HasField("error_response"):
            return False
        error = message.error_response.error
        # Ahead of its origin a copy can only be if that cluster was restored, or the table made anew.
        loses = error == replication.LEADER_BEHIND
        self.tail.cannot_follow(_word(error), loses=loses, newest=message.leader_index)
        return True

    async def _take_users(self, users: bytes) -> None:
        """They come at the beginning of each stream, whether or not anything has changed."""
        if users != self._users:
            await self._copies.take_users(self._copy, users)
            self._users = users

    async def _take(self, message: replication.ReplicateResponse, began: frames.TableStatus) -> bool:
        """Whether the copy was found to be the same as its origin."""
        is_same = False
        changes = parsed(frames.TableChanges.FromString, message.changes)
        if changes.through > self.tail.revision or changes.compacted > self._compacted:
            revision = await self._copies.apply(self._copy, message.changes)
            self._compacted = changes.compacted
            is_same = changes.HasField("checksum") and revision == changes.through
        else:
            revision = self.tail.revision
            if revision == began.revision == changes.through and changes.HasField("checksum"):
                _check_same(began, changes)
                is_same = True
        self.tail.heard(revision, message.leader_index, self._loop.time())
        return is_same

    async def _take_snapshot(self, step: TakeSnapshot) -> None:
        """All parts of one snapshot; the last one puts it in place."""
        copy = self._copy
        log.warning(
            "a copy is replaced by a snapshot", table=copy.name, revision=self.tail.revision, reason=step.why
        )
        table = self._leader.table(copy.origin)
        if step.loses:
            await self._forget_prefix()
        status = await self._copies.status(copy)
        if status.revision > CREATION and (step.loses or not await self._is_prefix(table)):
            await self._aside.keep(copy, status, is_fresh=step.of_fresh)
        parts = PartsUnderWay(self._copies, copy, self._loop)
        stream = self._leader.snapshot(copy.name, copy.origin)
        try:
            async with aclosing(stream):
                async for chunk in stream:
                    if not chunk.pairs or await parts.add(chunk.pairs):
                        self.tail.part_taken(self._loop.time())
            revision = await parts.finish()
        finally:
            parts.give_up()
        self.tail.replaced(revision, self._loop.time())
        log.info("a copy was replaced by a snapshot", table=copy.name, revision=revision)
        await self._note_prefix(table)

    # ---- what may be replaced ---------------------------------------------------------------------------------------

    async def _is_prefix(self, table: bytes) -> bool:
        self._prefix_of = self._prefix_of or await self._prefixes.known(self._copy)
        return table == self._prefix_of

    async def _note_prefix(self, table: bytes) -> None:
        if self._prefix_of != table:
            await self._prefixes.note(self._copy, table)
            self._prefix_of = table

    async def _forget_prefix(self) -> None:
        self._prefix_of = b""
        await self._prefixes.forget(self._copy)


def _word(error: int) -> str:
    """For an error of Replicate. Raises LeaderFailed for one that this version does not know."""
    if error not in replication.ReplicateError.values():
        raise LeaderFailed(
            "UNIMPLEMENTED", f"it can't tell the changes, for a reason {error} that is not known here"
        )
    return replication.ReplicateError.Name(error)  # type: ignore[arg-type]  # it is one of them


def _check_same(status: frames.TableStatus, changes: frames.TableChanges) -> None:
    """Raises Diverged. Once there is something to apply, the copy's shard compares."""
    if status.checksum != changes.checksum:
        raise errors.Diverged(
            f"the checksum at revision {status.revision} is {status.checksum:016x}, not {changes.checksum:016x}"
        )
