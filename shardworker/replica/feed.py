"""What has changed in a table, for those who follow it: each asks from a revision on, and gets what there is.

A follower that is up to date waits here until something happens, and is told with the turn that committed it; one
that is behind is answered at once. There is no subscription to lose: who has heard everything up to a revision asks
from the next one, here or at another replica, and a slow one simply asks later. So nothing is queued for anybody but
what happened lately, once for each table that is followed, within bounds.

    from > revision        wait, for as long as the request says
    from in what is kept   answer from memory (recent_changes.py); to a follower also what was compacted meanwhile
    from >= floor          read the table's log, on a thread (table_history.py)
    from < floor           say where the floor is; or read the log to who copies the table, while it is whole

A follower also says which checksum he has heard as the table's before that. If it was another one, he has heard of a
past that was given up since (a copy was put back to an earlier state, a shard was recovered from one replica), and is
told so.

A replica tells what it has applied, whether it leads or not. Once a table has gone to another shard, or is about to,
who waits is sent there, where everything is kept from the moment on at which the table came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import Listen, Result, oldest
from shardworker.machine.pairs import parse
from shardworker.machine.tables import REVISION_MAX
from shardworker.replica import telling
from shardworker.replica.part import Part
from shardworker.replica.recent_changes import RecentChanges
from shardworker.replica.table_history import tell_history

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.machine import Change
    from shardworker.machine.tables import TableState
    from shardworker.replica.long_reads import LongReads
    from shardworker.replica.part import Handler, ReplicaContext

KEPT_BYTES_MAX_TOTAL: Final = 64 << 20
"""Of the latest changes of all tables together; the table that changes gives way."""

FLOOR_BYTES_MAX: Final = 64
"""Of an answer that only says what was compacted: four numbers."""

FORGET_MS: Final = 60_000
"""Nobody has asked about a table for so long: its changes are taken down no longer."""


@dataclass(slots=True)
class _Follower:
    """Who asks for what has changed from a revision on."""

    identity: bytes
    call: int
    first: int
    prev: bool
    exact: bool
    """Every single edit or the floor. The log may no longer have all of them at the floor itself, and may have them far
    below it (machine/sweep.py)."""
    checksum: int | None
    """What he has heard as the table's before that revision, if he says so."""
    ticks_left: int
    """For which he waits; 0 = not at all."""


@dataclass(slots=True)
class _Followed:
    """A table that somebody follows, or did so a while ago."""

    recent: RecentChanges
    waiting: list[_Follower] = field(default_factory=list)
    unasked_ticks: int = 0
    is_guarded: bool = False
    """Whether authentication was enabled after the last turn."""


class Feed(Part):
    """The followed tables of one replica."""

    def __init__(self, context: ReplicaContext, long_reads: LongReads) -> None:
        self._machine = context.machine
        self._store = context.store
        self._outgoing = context.outgoing
        self._long_reads = long_reads
        self._tick_ms = context.cluster.raft.tick_ms
        self._followed: dict[int, _Followed] = {}
        self._kept_bytes = 0
        self._held: set[bytes] = set()
        """Links to which an answer could go once there is room."""

    def methods(self) -> Mapping[int, Handler]:
        return {frames.TABLE_CHANGES: self._ask}

    def _ask(self, identity: bytes, request: frames.Request) -> None:
        try:
            asked = frames.ChangesRequest.FromString(request.body)
        except DecodeError as error:
            raise errors.MalformedRequest(str(error)) from None
        table = self._machine.tables.get(request.table_id)
        if table is None:
            return self._ask_for_gone(identity, request, asked)
        follower = _Follower(
            identity,
            request.call,
            asked.from_revision or table.revision + 1,
            asked.prev,
            asked.exact,
            asked.checksum if asked.HasField("checksum") else None,
            max(1, asked.wait_ms // self._tick_ms) if asked.wait_ms else 0,
        )
        if follower.first > table.revision:
            self._check_goes_on(table)
        if follower.ticks_left:
            followed = self._follow(table, prev=asked.prev)
            if self._is_of_other_past(table, follower):
                self._answer(follower, table, telling.taken_back(table))
            elif follower.first > table.revision:
                followed.waiting.append(follower)
            else:
                self._tell(follower, table)
            return
        if not asked.from_revision:
            # Who asks where the table stands is about to follow it from there, and what happens until then may be
            # compacted at once.
            self._follow(table, prev=asked.prev)
        if 0 < asked.from_revision < oldest(table, exact=asked.exact):
            self._answer(follower, table, telling.compacted(follower.first, table.floor))
        else:
            self._tell(follower, table, prev_above=table.floor)

    def _is_of_other_past(self, table: TableState, follower: _Follower) -> bool:
        """Whether he has heard of something else before his first revision than what led here. That a table stands
        below what he has heard says nothing: this replica may lag."""
        before, checksum = follower.first - 1, follower.checksum
        if checksum is None or before > table.revision:
            return False
        if before == table.revision:
            return checksum != table.checksum
        followed = self._followed.get(table.id)
        known = None if followed is None else followed.recent.checksum_at(before)
        return known is not None and known != checksum

    def _check_goes_on(self, table: TableState) -> None:
        """Raises TableElsewhere if whatever comes next in the table happens in another shard."""
        if self._machine.moves.is_fenced(table.id):
            self._machine.moves.check_serves(table.id)

    def _ask_for_gone(self, identity: bytes, request: frames.Request, asked: frames.ChangesRequest) -> None:
        """A replica may have heard of a table's last changes together with its going: who follows the table and has not
        been told of them yet is, where the other shard may not know them any more. Raises why the table is not here."""
        told = self._last_words(request.table_id, asked.from_revision, prev=asked.prev)
        if told is None:
            raise self._machine.moves.absence(request.table_id)
        self._outgoing.answer(identity, request.call, Result(told.through, told.SerializeToString()))

    def _last_words(self, table_id: int, first: int, *, prev: bool) -> frames.TableChanges | None:
        """What is kept from this revision on of a table that has gone to another shard."""
        followed = self._followed.get(table_id)
        if (
            followed is None
            or followed.is_guarded  # permissions have gone with the table
            or not followed.recent.reaches(first, prev=prev)
        ):
            return None
        if not isinstance(self._machine.moves.absence(table_id), errors.TableAway):
            return None
        return followed.recent.tell(first, 0 if prev else REVISION_MAX)

    def _follow(self, table: TableState, *, prev: bool) -> _Followed:
        followed = self._followed.get(table.id)
        if followed is None:
            recent = RecentChanges(table.revision, table.checksum)
            followed = self._followed[table.id] = _Followed(recent)
            self._listen()
        if prev and not followed.recent.with_prev:
            followed.recent.prev_since = table.revision
            self._listen()
        followed.unasked_ticks = 0
        return followed

    def _listen(self) -> None:
        self._machine.listen(
            {
                table_id: Listen.WITH_PREVIOUS if followed.recent.with_prev else Listen.CHANGES
                for table_id, followed in self._followed.items()
            }
        )

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _tell(self, follower: _Follower, table: TableState, *, prev_above: int = -1) -> None:
        """Answer with what there is. prev_above: pairs before are told of higher revisions only; who waits is told of
        all that are known. Raises QueueFull."""
        first, prev, exact = follower.first, follower.prev, follower.exact
        followed = self._followed.get(table.id)
        recent = None if followed is None else followed.recent
        if first > table.revision:
            nothing = telling.nothing(first)
            if first == table.revision + 1:
                nothing.checksum = table.checksum
            self._answer(follower, table, nothing)
        elif recent is not None and first > recent.told_from(prev=prev):
            self._answer(follower, table, recent.tell(first, prev_above if prev else REVISION_MAX))
        elif first < table.floor and recent is not None and first > recent.since:
            # Nobody had asked for the pairs before, and now they are gone.
            self._answer(follower, table, recent.tell(first, REVISION_MAX, prev=True))
        elif first < oldest(table, exact=exact):
            self._answer(follower, table, telling.compacted(first, table.floor))
        else:
            self._long_reads.submit(
                follower.identity,
                partial(self._read_history, table.id, first, table.revision, prev=prev, exact=exact),
                partial(self._answer_from_history, follower.identity, follower.call, table.id, first),
            )

    def _answer(self, follower: _Follower, table: TableState, told: frames.TableChanges) -> None:
        if follower.exact:
            self._add_leases(table.id, told)
        told.auth_version = self._machine.auth.of(table.id).version
        told.compacted = max(0, table.compacted)
        result = Result(table.revision, told.SerializeToString())
        self._outgoing.answer(follower.identity, follower.call, result)

    def _add_leases(self, table_id: int, told: frames.TableChanges) -> None:
        """For who copies: what the leases were granted for that the pairs name."""
        leases = self._machine.leases
        if not leases.knows_any(table_id):
            return
        stored = [edit.kv for revision in told.revisions for edit in revision.keys]
        for lease_id in sorted({pair.lease for pair in parse(b"".join(stored))}):
            if ttl_s := leases.granted_for(table_id, lease_id):
                told.leases.add(id=lease_id, ttl_s=ttl_s)

    def _answer_from_history(
        self, identity: bytes, call: int, table_id: int, first: int, result: Result
    ) -> None:
        """What the log said; or, where it was compacted before it could be read, what is kept, without the pairs
        before."""
        followed = self._followed.get(table_id)
        if (
            followed is not None
            and first > followed.recent.since
            and len(result.body) <= FLOOR_BYTES_MAX
            and frames.TableChanges.FromString(result.body).floor
        ):
            told = followed.recent.tell(first, REVISION_MAX, prev=True)
            result = result._replace(body=told.SerializeToString())
        self._outgoing.answer(identity, call, result)

    def _read_history(self, table_id: int, first: int, revision: int, *, prev: bool, exact: bool) -> Result:
        """On a thread."""
        connection = self._store.reader()
        try:
            told = tell_history(connection, table_id, first, revision, prev=prev, exact=exact)
            if exact:
                self._add_leases(table_id, told)
            told.auth_version = self._machine.auth.of(table_id).version
            return Result(revision, told.SerializeToString())
        except errors.BoathouseError as error:
            return Result(0, b"", error)
        finally:
            self._store.close_reader(connection)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def end_turn(self) -> None:
        """Tell what came about otherwise than by what was applied, and those who came or whose time was up since."""
        self.tell()

    def tell(self) -> None:
        """Keep what has changed, and tell those who waited for it."""
        for change in self._machine.take_changes():
            if change.opens:
                self._go_on(change)
            else:
                self._keep(change)
        self._held.clear()
        for table_id, followed in self._followed.items():
            if followed.waiting:
                self._tell_waiting(table_id, followed)
            followed.is_guarded = table_id in self._machine.auth.guarded

    def _go_on(self, opened: Change) -> None:
        """Whoever followed the table in the shard that it came from asks from this revision on. Who waits for it here
        still, since it left and came back within the turn, goes on waiting."""
        table_id, revision = opened.table_id, opened.revision
        before = self._followed.get(table_id)
        recent = RecentChanges(revision, opened.checksum, prev_since=revision)
        followed = self._followed[table_id] = _Followed(recent)
        if before is not None:
            self._kept_bytes -= before.recent.size_bytes
            followed.waiting = before.waiting
        self._listen()

    def _keep(self, change: Change) -> None:
        followed = self._followed.get(change.table_id)
        if followed is None:
            return
        self._kept_bytes -= followed.recent.size_bytes
        followed.recent.keep(change, KEPT_BYTES_MAX_TOTAL - self._kept_bytes)
        self._kept_bytes += followed.recent.size_bytes

    def _tell_waiting(self, table_id: int, followed: _Followed) -> None:
        table = self._machine.tables.get(table_id)
        still: list[_Follower] = []
        for follower in followed.waiting:
            waits = (
                table is not None
                and follower.first > table.revision
                and not self._is_of_other_past(table, follower)
                and not self._machine.moves.is_fenced(table_id)
            )
            if waits and follower.ticks_left > 0:
                still.append(follower)
            elif not self._outgoing.has_room(follower.identity):
                self._held.add(follower.identity)
                still.append(follower)
            else:
                self._tell_follower(table_id, table, follower)
        followed.waiting = still

    def _tell_follower(self, table_id: int, table: TableState | None, follower: _Follower) -> None:
        try:
            if table is None:
                told = self._last_words(table_id, follower.first, prev=follower.prev)
                if told is None:
                    raise self._machine.moves.absence(table_id)
                self._outgoing.answer(
                    follower.identity, follower.call, Result(told.through, told.SerializeToString())
                )
                return
            if follower.first > table.revision:
                self._check_goes_on(table)
            if self._is_of_other_past(table, follower):
                self._answer(follower, table, telling.taken_back(table))
            else:
                self._tell(follower, table)
        except errors.BoathouseError as error:
            self._outgoing.refuse(follower.identity, follower.call, error)

    def has_work(self) -> bool:
        return any(map(self._outgoing.has_room, self._held))

    def tick(self) -> None:
        """Let those go who have waited long enough, with the end of the turn; forget tables nobody asks about."""
        forgotten: list[int] = []
        for table_id, followed in self._followed.items():
            for follower in followed.waiting:
                follower.ticks_left -= 1
            if not followed.waiting:
                followed.unasked_ticks += 1
                if followed.unasked_ticks * self._tick_ms >= FORGET_MS:
                    forgotten.append(table_id)
        for table_id in forgotten:
            self._kept_bytes -= self._followed.pop(table_id).recent.size_bytes
            self._listen()

    def ticks_until_action(self) -> int:
        ticks = super().ticks_until_action()
        for followed in self._followed.values():
            if followed.waiting:
                ticks = min(ticks, *(max(1, follower.ticks_left) for follower in followed.waiting))
            else:
                ticks = min(ticks, max(1, FORGET_MS // self._tick_ms - followed.unasked_ticks))
        return ticks

    def abandon(self, why: str) -> None:
        """Who waits asks again, and hears then whether this replica still serves."""
        for table_id, followed in self._followed.items():
            for follower in followed.waiting:
                nothing = telling.nothing(follower.first)
                nothing.auth_version = self._machine.auth.of(table_id).version
                self._outgoing.answer(
                    follower.identity, follower.call, Result(0, nothing.SerializeToString())
                )
            followed.waiting.clear()

    def installed(self) -> None:
        """What led to the new state is not known: who is behind it has to read the log."""
        for table_id, followed in self._followed.items():
            table = self._machine.tables.get(table_id)
            if table is None:
                followed.recent.forget(followed.recent.since, None)
            else:
                followed.recent.forget(table.revision, table.checksum)
        self._kept_bytes = 0
        self._listen()

    def statistics(self) -> Mapping[str, int]:
        return {"tables_followed": len(self._followed), "feed_bytes_kept": self._kept_bytes}
