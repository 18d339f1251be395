"""What a table's shard tells whoever copies the table: its changes in order, and its pairs at one revision.

Each question says from where on, and any replica answers it. The shard is told how far a follower cluster is, and so
keeps for a while what that cluster does not have yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from coordinator.auth.credentials import SYSTEM
from coordinator.shards.changes import ask_for_changes
from coordinator.shards.own_calls import OwnCalls
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coordinator.api import call as api
    from coordinator.shards.driver import Driver
    from coordinator.shards.request_ids import RequestIds
    from coordinator.shards.table_calls import TableCalls
    from proto.catalog import TableEntry


NOTE_S: Final = 2.0

log = structlog.get_logger()


class Told(NamedTuple):
    """A piece of a table's history without a gap."""

    body: bytes
    """As the replica sent it."""
    changes: frames.TableChanges
    newest: int
    """Where that replica's table stands."""


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

    async def users(self, table: TableEntry) -> bytes:
        """A frames.TableUsers, encoded. Raises TableNotFound, and what else a linearizable read may."""
        deadline = self._calls.step_deadline(float("inf"))
        answer = await self._calls.read(
            table, frames.TABLE_USERS, b"", deadline, linearizable=True, who=SYSTEM
        )
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

    async def changes(self, table: TableEntry, first: int, *, wait_s: float) -> Told:
        """Everything that changed from this revision on, or its beginning; waits for so long while there is nothing.

        If it can't be told any more, `changes.floor` is set. Raises TableNotFound, and what else a read may."""
        request = frames.ChangesRequest(from_revision=first, wait_ms=max(1, int(wait_s * 1000)), exact=True)
        reply, _ = await ask_for_changes(self._driver, table, request)
        return Told(reply.body, frames.TableChanges.FromString(reply.body), reply.revision)

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
            if part:  # else it is being made
                yield frames.BackupPart.FromString(part)

    async def reset(self, copy: TableEntry) -> None:
        """The copy of the leader cluster's table is to be replaced by a snapshot. Raises what a write may."""
        body = frames.CopyReset(origin=copy.origin).SerializeToString()
        deadline = self._calls.step_deadline(float("inf"))
        await self._calls.write_copy(copy, frames.COPY_RESET, body, deadline)

    async def pairs(self, table: TableEntry, *, peer: str) -> AsyncGenerator[bytes]:
        """The parts of a snapshot (frames.TablePairs, encoded), not older than this call."""
        async for part in self._parts(table, frames.TABLE_PAIRS, b"", peer=peer):
            yield part

    async def _parts(
        self, table: TableEntry, method: frames.Method.ValueType, body: bytes, *, peer: str
    ) -> AsyncGenerator[bytes]:
        deadline = self._calls.step_deadline(float("inf"))
        stream = await self._calls.start(
            table, method, body, deadline, linearizable=True, peer=peer, who=SYSTEM
        )
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
