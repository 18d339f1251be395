"""What a table's shard tells whoever copies the table: its changes in order, and its pairs at one revision.

Each question says from where on, and any replica answers it. The shard is told how far a follower cluster is, and so
keeps for a while what that cluster does not have yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from coordinator.api.credentials import NOBODY, SYSTEM
from coordinator.catalog.table_calls import Asked
from coordinator.shards.changes import ask_for_changes
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.shard_call import LEADER, NEAREST
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coordinator.api import call as api
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.shards.driver import Driver
    from coordinator.shards.request_ids import RequestIds
    from proto.catalog import TableEntry


LAGS_S: Final = 1.0
"""For the nearest replica to have what was seen elsewhere, before another one is asked."""
CATCH_UP_S: Final = 7.0
"""For that one."""
NOTE_S: Final = 2.0
STATUS_S: Final = 5.0

log = structlog.get_logger()


class Told(NamedTuple):
    """A piece of a table's history without a gap."""

    body: bytes
    """As the replica sent it."""
    changes: frames.TableChanges
    newest: int
    """Where the table stands, as far as is known."""


class Changes:
    """Of one table, in order and without a gap, from whichever replica has them.

    The nearest one is asked; but one that goes on answering and does not come further, as with a full disk, must not
    have anybody believe that there is nothing new. Once it lags behind what was seen, the shard's leader is asked."""

    def __init__(self, driver: Driver, table: TableEntry, first: int, seen: int) -> None:
        self._driver = driver
        self._table = table
        self._first = first
        self._seen = seen
        self._target = NEAREST

    async def next(self, wait_s: float = LAGS_S) -> Told:
        """The next ones; waits for so long while there are none. If they can't be told any more, `changes.floor` is
        set.

        Raises TableNotFound, ReadTimedOut if nobody has what was seen, and what else a read may."""
        told = await self._ask(wait_s)
        if self._first > self._seen or told.changes.floor or wait_s < LAGS_S or not _is_empty(told):
            return told
        self._target = LEADER
        told = await self._ask(CATCH_UP_S)
        if _is_empty(told) and not told.changes.floor:
            raise errors.ReadTimedOut("the shard lags too far behind")
        return told

    async def _ask(self, wait_s: float) -> Told:
        if self._first <= self._seen and self._target is NEAREST:
            wait_s = min(wait_s, LAGS_S)
        wait_ms = max(1, int(wait_s * 1000))
        request = frames.ChangesRequest(from_revision=self._first, wait_ms=wait_ms, exact=True)
        reply, _ = await ask_for_changes(self._driver, self._table, request, target=self._target)
        told = Told(reply.body, frames.TableChanges.FromString(reply.body), max(reply.revision, self._seen))
        self._first = max(self._first, told.changes.through + 1)
        return told


def _is_empty(told: Told) -> bool:
    return told.changes.through < told.changes.first


class TableSource:
    """The tables of this cluster, for those who copy them."""

    def __init__(self, driver: Driver, calls: TableCalls, ids: RequestIds) -> None:
        self._driver = driver
        self._calls = calls
        self._shards = OwnCalls(driver, ids)
        self._positions: dict[tuple[str, str], tuple[int, int]] = {}
        """As last told to the shard: by table and follower cluster, the table's id and the revision."""

    async def find(self, name: bytes, *, table_id: int = 0) -> TableEntry:
        """The table of that name, and if table_id is not 0 that very table. Raises TableNotFound."""
        try:
            decoded = name.decode()
        except UnicodeDecodeError:
            raise errors.TableNotFound(repr(name)) from None
        table = await self._calls.find_table(
            decoded, self._calls.step_deadline(float("inf")), body_bytes=len(name)
        )
        if table.is_reserved or table_id not in (0, table.id):
            raise errors.TableNotFound(f"{table.name} with id {table_id}")
        return table

    def step_deadline(self, call: api.Call) -> float:
        """For one question in the name of a call, which may last."""
        return self._calls.step_deadline(call.deadline)

    async def revision(self, table: TableEntry) -> int:
        """Where the table stands, by a linearizable read. Raises TableNotFound, NoLeader, ReadTimedOut."""
        return await self._calls.revision(table, who=SYSTEM)

    async def status(self, table: TableEntry) -> frames.TableStatus:
        """Where the table stands, and more, by a linearizable read. Raises what that may."""
        reply = await self._shards.ask(Access.READ, frames.TABLE_STATUS, table, b"", STATUS_S)
        return frames.TableStatus.FromString(reply.body)

    async def users(self, table: TableEntry) -> bytes:
        """A frames.TableUsers, encoded. Raises TableNotFound, and what else a linearizable read may."""
        deadline = self._calls.step_deadline(float("inf"))
        asked = Asked(table, frames.TABLE_USERS, b"", deadline, SYSTEM)
        answer = await self._calls.read(asked, linearizable=True)
        if answer.table.id != table.id:
            raise errors.TableNotFound(f"another table is called {table.name} now")
        return answer.reply.body

    async def note_position(self, table: TableEntry, follower: str, revision: int) -> None:
        """Have what comes after this revision kept for that cluster. It is no harm if that fails: the cluster says it
        again, and if it comes too late it takes a snapshot. Raises InvalidRequest."""
        if self._positions.get((table.name, follower)) == (table.id, revision):
            return
        position = frames.FollowerPosition(table_id=table.id, follower=follower, revision=revision)
        body = position.SerializeToString()
        try:
            await self._shards.ask(Access.WRITE, frames.FOLLOWER_POSITION, table, body, NOTE_S)
        except errors.InvalidRequest:
            raise
        except errors.BoathouseError as error:
            log.warning(
                "the position of a follower cluster was not noted",
                table=table.name,
                follower=follower,
                reason=f"{type(error).__name__}: {error.detail}",
            )
        else:
            self._positions[table.name, follower] = table.id, revision

    def changes(self, table: TableEntry, first: int, *, seen: int) -> Changes:
        """All from this revision on. seen: where a linearizable read has seen the table."""
        return Changes(self._driver, table, first, seen)

    async def backup(self, table: TableEntry, *, peer: str) -> AsyncGenerator[frames.BackupPart]:
        """The parts of a backup, not older than this call: the facts, then pairs."""
        async for part in self._backup(table, peer=peer, facts_only=False):
            yield part

    async def facts(self, table: TableEntry, *, peer: str) -> frames.TableFacts:
        """What a backup of now would begin with."""
        async for part in self._backup(table, peer=peer, facts_only=True):
            return part.facts
        raise errors.InvariantBroken("a backup has no facts")

    async def _backup(
        self, table: TableEntry, *, peer: str, facts_only: bool
    ) -> AsyncGenerator[frames.BackupPart]:
        asked = frames.BackupAsked(left=await self._calls.leases_left(table), facts_only=facts_only)
        body = asked.SerializeToString()
        async for part in self._parts(table, frames.TABLE_BACKUP, body, peer=peer):
            if part:
                yield frames.BackupPart.FromString(part)

    async def reset(self, copy: TableEntry) -> None:
        """The copy of the leader cluster's table is to be replaced by a snapshot. Raises what a write may."""
        body = frames.CopyReset(origin=copy.origin).SerializeToString()
        deadline = self._calls.step_deadline(float("inf"))
        await self._calls.write_copy(Asked(copy, frames.COPY_RESET, body, deadline, NOBODY))

    async def pairs(self, table: TableEntry, *, peer: str) -> AsyncGenerator[bytes]:
        """The parts of a snapshot (frames.TablePairs, encoded), not older than this call; empty ones while a replica
        of an earlier build makes it."""
        async for part in self._parts(table, frames.TABLE_PAIRS, b"", peer=peer):
            yield part

    async def _parts(
        self, table: TableEntry, method: frames.Method.ValueType, body: bytes, *, peer: str
    ) -> AsyncGenerator[bytes]:
        deadline = self._calls.step_deadline(float("inf"))
        asked = Asked(table, method, body, deadline, SYSTEM, peer=peer)
        stream = await self._calls.start(asked, linearizable=True)
        try:
            if stream.table.id != table.id:
                raise errors.TableNotFound(f"another table is called {table.name} now")
            async for reply in stream.parts():
                yield reply.body
        finally:
            stream.close()

    def time(self) -> float:
        """The clock of deadlines."""
        return self._driver.time()
