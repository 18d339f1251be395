"""What has changed in a table, for those who follow it: each asks from a revision on, and gets what there is.

A follower that is up to date waits here until something happens, and is told with the turn that committed it; one
that is behind is answered at once. There is no subscription to lose: who has heard everything up to a revision asks
from the next one, here or at another replica, and a slow one simply asks later. So nothing is queued for anybody but
what happened lately, once for each table that is followed, within bounds.

    from > revision        wait, for as long as the request says
    from in what is kept   answer from memory; to a follower also what was compacted meanwhile
    from >= floor          read the table's log, on a thread
    from < floor           say where the floor is; or read the log to who copies the table, while it is whole

A follower also says which checksum he has heard as the table's before that. If it was another one, he has heard of a
past that was given up since (a copy was put back to an earlier state, a shard was recovered from one replica), and is
told so.

A replica tells what it has applied, whether it leads or not. Once a table has gone to another shard, or is about to,
who waits is sent there, where everything is kept from the moment on at which the table came.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import Listen, Result, history, oldest
from shardworker.machine.pairs import parse
from shardworker.machine.snapshot import snapshot
from shardworker.machine.tables import REVISION_MAX, load_table
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import apsw

    from shardworker.machine import Change
    from shardworker.machine.tables import TableState
    from shardworker.replica.long_reads import LongReads
    from shardworker.replica.part import Handler, ReplicaContext

PART_BYTES_MAX: Final = 1 << 20
"""An answer ends with the revision that reaches this."""

KEPT_BYTES_MAX: Final = 8 << 20
"""Of one table's latest changes."""
KEPT_BYTES_MAX_TOTAL: Final = 64 << 20
"""Of all tables' together; the table that changes gives way."""

FLOOR_BYTES_MAX: Final = 64
"""Of an answer that only says what was compacted: four numbers."""

FORGET_MS: Final = 60_000
"""Nobody has asked about a table for so long: its changes are taken down no longer."""


@dataclass(slots=True)
class _Waiter:
    identity: bytes
    call: int
    first: int
    prev: bool
    exact: bool
    checksum: int | None
    ticks_left: int


@dataclass(slots=True)
class _Followed:
    """What happened lately to a table."""

    since: int
    """Everything after this revision is kept ..."""
    since_checksum: int | None = None
    """The table's at that revision, if it is known."""
    prev_since: int = REVISION_MAX
    """... and the pairs before of everything after this one; nobody looks for them before they are asked for."""
    kept: deque[Change] = field(default_factory=deque)
    kept_bytes: int = 0
    waiting: list[_Waiter] = field(default_factory=list)
    unasked_ticks: int = 0
    is_guarded: bool = False
    """Whether authentication was enabled after the last turn."""

    def forget(self, since: int, checksum: int | None) -> None:
        self.kept.clear()
        self.kept_bytes = 0
        self.since = since
        self.since_checksum = checksum
        if self.with_prev:
            self.prev_since = since

    def told_from(self, *, prev: bool) -> int:
        """The revision after which everything can be told from memory."""
        return max(self.since, self.prev_since) if prev else self.since

    def kept_from(self, first: int) -> Iterable[Change]:
        """What is kept from this revision on, which is above since. One change for each revision, so that whoever keeps
        up does not have to be led past what he has heard."""
        return (self.kept[number] for number in range(first - self.since - 1, len(self.kept)))

    def checksum_at(self, revision: int) -> int | None:
        """The table's at this revision, if it is known still."""
        number = revision - self.since - 1
        if number == -1:
            return self.since_checksum
        return self.kept[number].checksum if 0 <= number < len(self.kept) else None

    @property
    def with_prev(self) -> bool:
        return self.prev_since < REVISION_MAX


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
        first = asked.from_revision or table.revision + 1
        if first > table.revision:
            self._check_goes_on(table)
        if not asked.from_revision:
            # Who asks where the table stands is about to follow it from there, and what happens until then may be
            # compacted at once.
            self._follow(table, prev=asked.prev)
        if not asked.wait_ms:
            if 0 < asked.from_revision < oldest(table, exact=asked.exact):
                self._answer(identity, request.call, table, _floor(first, table.floor))
            else:
                self._tell(
                    identity,
                    request.call,
                    table,
                    first,
                    prev=asked.prev,
                    exact=asked.exact,
                    prev_above=table.floor,
                )
            return
        followed = self._follow(table, prev=asked.prev)
        checksum = asked.checksum if asked.HasField("checksum") else None
        if first > table.revision and not self._is_of_other_past(table, first, checksum):
            ticks = max(1, asked.wait_ms // self._tick_ms)
            waiter = _Waiter(identity, request.call, first, asked.prev, asked.exact, checksum, ticks)
            followed.waiting.append(waiter)
        elif self._is_of_other_past(table, first, checksum):
            self._answer(identity, request.call, table, _taken_back(table))
        else:
            self._tell(identity, request.call, table, first, prev=asked.prev, exact=asked.exact)

    def _is_of_other_past(self, table: TableState, first: int, checksum: int | None) -> bool:
        """Whether who asks from this revision on has heard of something else before it than what led here. That a table
        stands below what he has heard says nothing: this replica may lag."""
        if checksum is None or first - 1 > table.revision:
            return False
        if first - 1 == table.revision:
            return checksum != table.checksum
        followed = self._followed.get(table.id)
        known = None if followed is None else followed.checksum_at(first - 1)
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
            or not followed.kept
            or not followed.told_from(prev=prev) < first <= followed.kept[-1].revision
        ):
            return None
        if not isinstance(self._machine.moves.absence(table_id), errors.TableAway):
            return None
        return _from_memory(followed, first, 0 if prev else REVISION_MAX)

    def _follow(self, table: TableState, *, prev: bool) -> _Followed:
        followed = self._followed.get(table.id)
        if followed is None:
            followed = self._followed[table.id] = _Followed(table.revision, table.checksum)
            self._listen()
        if prev and not followed.with_prev:
            followed.prev_since = table.revision
            self._listen()
        followed.unasked_ticks = 0
        return followed

    def _listen(self) -> None:
        self._machine.listen(
            {
                table_id: Listen.WITH_PREVIOUS if followed.with_prev else Listen.CHANGES
                for table_id, followed in self._followed.items()
            }
        )

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _tell(
        self,
        identity: bytes,
        call: int,
        table: TableState,
        first: int,
        *,
        prev: bool,
        exact: bool,
        prev_above: int = -1,
    ) -> None:
        """Answer with what there is from this revision on. Raises QueueFull.

        exact: every single edit or the floor. The log may no longer have all of them at the floor itself, and may have
        them far below it (sweep.py).
        prev_above: pairs before are told of higher revisions only; a follower is told of all that are known."""
        followed = self._followed.get(table.id)
        if first > table.revision:
            nothing = _nothing(first)
            if first == table.revision + 1:
                nothing.checksum = table.checksum
            self._answer(identity, call, table, nothing)
        elif followed is not None and first > followed.told_from(prev=prev):
            told = _from_memory(followed, first, prev_above if prev else REVISION_MAX)
            self._answer(identity, call, table, told, exact=exact)
        elif first < table.floor and followed is not None and first > followed.since:
            # Nobody had asked for the pairs before, and now they are gone.
            self._answer(identity, call, table, _from_memory(followed, first, REVISION_MAX, prev=True))
        elif first < oldest(table, exact=exact):
            self._answer(identity, call, table, _floor(first, table.floor))
        else:
            self._long_reads.submit(
                identity,
                partial(self._read_log, table.id, first, table.revision, prev=prev, exact=exact),
                partial(self._answer_from_log, identity, call, table.id, first),
            )

    def _answer(
        self,
        identity: bytes,
        call: int,
        table: TableState,
        told: frames.TableChanges,
        *,
        exact: bool = False,
    ) -> None:
        if exact:
            self._add_leases(table.id, told)
        told.auth_version = self._machine.auth.of(table.id).version
        told.compacted = max(0, table.compacted)
        self._outgoing.answer(identity, call, Result(table.revision, told.SerializeToString()))

    def _add_leases(self, table_id: int, told: frames.TableChanges) -> None:
        """For who copies: what the leases were granted for that the pairs name."""
        leases = self._machine.leases
        if not leases.knows_any(table_id):
            return
        stored = [edit.kv for revision in told.revisions for edit in revision.keys]
        for lease_id in sorted({pair.lease for pair in parse(b"".join(stored))}):
            if ttl_s := leases.granted_for(table_id, lease_id):
                told.leases.add(id=lease_id, ttl_s=ttl_s)

    def _answer_from_log(self, identity: bytes, call: int, table_id: int, first: int, result: Result) -> None:
        """What the log said; or, where it was compacted before it could be read, what is kept, without the pairs
        before."""
        followed = self._followed.get(table_id)
        if (
            followed is not None
            and first > followed.since
            and len(result.body) <= FLOOR_BYTES_MAX
            and frames.TableChanges.FromString(result.body).floor
        ):
            told = _from_memory(followed, first, REVISION_MAX, prev=True)
            result = result._replace(body=told.SerializeToString())
        self._outgoing.answer(identity, call, result)

    def _read_log(self, table_id: int, first: int, revision: int, *, prev: bool, exact: bool) -> Result:
        """On a thread. revision: where the table stood when this was asked for; it may stand higher now."""
        connection = self._store.reader()
        try:
            told = _from_log(connection, table_id, first, revision, prev=prev, exact=exact)
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
        """Keep what the turn has changed, and tell those who waited for it."""
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
        followed = self._followed[table_id] = _Followed(revision, opened.checksum, prev_since=revision)
        if before is not None:
            self._kept_bytes -= before.kept_bytes
            followed.waiting = before.waiting
        self._listen()

    def _keep(self, change: Change) -> None:
        followed = self._followed.get(change.table_id)
        if followed is None:
            return
        self._kept_bytes -= followed.kept_bytes
        if change.missing:
            followed.forget(change.revision, change.checksum)
        else:
            assert change.revision == followed.since + len(followed.kept) + 1
            followed.kept.append(change)
            followed.kept_bytes += _size_bytes(change)
        while followed.kept and (
            followed.kept_bytes > KEPT_BYTES_MAX
            or self._kept_bytes + followed.kept_bytes > KEPT_BYTES_MAX_TOTAL
        ):
            oldest = followed.kept.popleft()
            followed.kept_bytes -= _size_bytes(oldest)
            followed.since, followed.since_checksum = oldest.revision, oldest.checksum
        self._kept_bytes += followed.kept_bytes

    def _tell_waiting(self, table_id: int, followed: _Followed) -> None:
        table = self._machine.tables.get(table_id)
        still: list[_Waiter] = []
        for waiter in followed.waiting:
            waits = (
                table is not None
                and waiter.first > table.revision
                and not self._is_of_other_past(table, waiter.first, waiter.checksum)
                and not self._machine.moves.is_fenced(table_id)
            )
            if waits and waiter.ticks_left > 0:
                still.append(waiter)
            elif not self._outgoing.has_room(waiter.identity):
                self._held.add(waiter.identity)
                still.append(waiter)
            else:
                self._tell_waiter(table_id, table, waiter)
        followed.waiting = still

    def _tell_waiter(self, table_id: int, table: TableState | None, waiter: _Waiter) -> None:
        try:
            if table is None:
                told = self._last_words(table_id, waiter.first, prev=waiter.prev)
                if told is None:
                    raise self._machine.moves.absence(table_id)
                self._outgoing.answer(
                    waiter.identity, waiter.call, Result(told.through, told.SerializeToString())
                )
                return
            if waiter.first > table.revision:
                self._check_goes_on(table)
            if self._is_of_other_past(table, waiter.first, waiter.checksum):
                self._answer(waiter.identity, waiter.call, table, _taken_back(table))
                return
            self._tell(
                waiter.identity, waiter.call, table, waiter.first, prev=waiter.prev, exact=waiter.exact
            )
        except errors.BoathouseError as error:
            self._outgoing.refuse(waiter.identity, waiter.call, error)

    def has_work(self) -> bool:
        return any(map(self._outgoing.has_room, self._held))

    def tick(self) -> None:
        """Let those go who have waited long enough, with the end of the turn; forget tables nobody asks about."""
        forgotten: list[int] = []
        for table_id, followed in self._followed.items():
            for waiter in followed.waiting:
                waiter.ticks_left -= 1
            if not followed.waiting:
                followed.unasked_ticks += 1
                if followed.unasked_ticks * self._tick_ms >= FORGET_MS:
                    forgotten.append(table_id)
        for table_id in forgotten:
            self._kept_bytes -= self._followed.pop(table_id).kept_bytes
            self._listen()

    def ticks_until_action(self) -> int:
        ticks = super().ticks_until_action()
        for followed in self._followed.values():
            if followed.waiting:
                ticks = min(ticks, *(max(1, waiter.ticks_left) for waiter in followed.waiting))
            else:
                ticks = min(ticks, max(1, FORGET_MS // self._tick_ms - followed.unasked_ticks))
        return ticks

    def abandon(self, why: str) -> None:
        """Who waits asks again, and hears then whether this replica still serves."""
        for table_id, followed in self._followed.items():
            for waiter in followed.waiting:
                nothing = _nothing(waiter.first)
                nothing.auth_version = self._machine.auth.of(table_id).version
                self._outgoing.answer(waiter.identity, waiter.call, Result(0, nothing.SerializeToString()))
            followed.waiting.clear()

    def installed(self) -> None:
        """What led to the new state is not known: who is behind it has to read the log."""
        for table_id, followed in self._followed.items():
            table = self._machine.tables.get(table_id)
            if table is None:
                followed.forget(followed.since, None)
            else:
                followed.forget(table.revision, table.checksum)
        self._kept_bytes = 0
        self._listen()

    def statistics(self) -> Mapping[str, int]:
        return {"tables_followed": len(self._followed), "feed_bytes_kept": self._kept_bytes}


def _size_bytes(change: Change) -> int:
    return sum([edit.size_bytes for edit in change.edits])


def _nothing(first: int) -> frames.TableChanges:
    return frames.TableChanges(first=first, through=first - 1)


def _taken_back(table: TableState) -> frames.TableChanges:
    return frames.TableChanges(through=table.revision, taken_back=True)


def _floor(first: int, floor: int) -> frames.TableChanges:
    return frames.TableChanges(first=first, through=first - 1, floor=floor)


def _from_memory(
    followed: _Followed, first: int, prev_above: int, *, prev: bool | None = None
) -> frames.TableChanges:
    """What is kept from first on, which is in it; at least one change. With the pairs before of
    revisions above prev_above. prev: whether that is all there will ever be to say of them; None: if any can be."""
    told = frames.TableChanges(first=first, prev=prev_above < REVISION_MAX if prev is None else prev)
    size_bytes = 0
    for change in followed.kept_from(first):
        size_bytes += _add(told.revisions.add(revision=change.revision), change, change.revision > prev_above)
        told.through = change.revision
        assert change.checksum is not None
        told.checksum = change.checksum
        if size_bytes >= PART_BYTES_MAX:
            break
    return told


def _from_log(
    connection: apsw.Connection, table_id: int, first: int, revision: int, *, prev: bool, exact: bool
) -> frames.TableChanges:
    """What the table's log says from first on. Raises TableNotFound."""
    with snapshot(connection):
        table = load_table(connection, table_id)
        if table is None:
            raise errors.TableNotFound
        if first < oldest(table, exact=exact):
            return _floor(first, table.floor)
        told = frames.TableChanges(first=first, prev=prev, compacted=max(0, table.compacted))
        size_bytes = 0
        for change in history(connection, table_id, first, previous=prev, exact=exact):
            if not told.revisions or told.revisions[-1].revision != change.revision:
                told.revisions.add(revision=change.revision)
            # As in etcd, where a pair before is read at the revision before: that must not be compacted.
            size_bytes += _add(told.revisions[-1], change, change.revision > table.floor)
            if size_bytes >= PART_BYTES_MAX and not change.more:
                told.through = change.revision
                return told
        told.through = max(table.revision, revision)
        if told.through == table.revision:
            told.checksum = table.checksum
        return told


def _add(told: frames.RevisionChanges, change: Change, with_prev: bool) -> int:
    for edit in change.edits:
        prev = edit.prev if with_prev else None
        told.keys.add(key=edit.key, kv=edit.kv or b"", prev=prev or b"")
    return _size_bytes(change)
