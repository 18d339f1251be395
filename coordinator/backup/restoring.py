"""Bringing the records of a backup to a table's shard, in parts of bounded size, some of them at a time.

Which of a table's shards' nodes lead, and how often a part has to be sent, is the router's business: a part has one
request id, and is taken once. What is built up beside a table (shardworker/machine/backup/restoring.py) is given up
when the client goes, or what it brings is unsound."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final
from zlib import crc32

from coordinator.backup.records import SUB_BITS
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.pairs import encode_pair
from proto.regatta import mvcc_pb2 as mvcc
from proto.varint import varint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

PART_BYTES: Final = 512 << 10
"""Of pairs in one part, about. Below what a log entry holds beside others."""
PART_PAIRS: Final = 4_096
"""In one part, which is applied between two heartbeats."""
EDITS: Final = 1_000
"""In one part; each costs a few statements."""
UNDER_WAY_MAX: Final = 4
"""Parts on their way at a time."""
WRITE_S: Final = 30.0
END_S: Final = 120.0
"""What the table held is let go of, however much that is."""

FRESH_GAP: Final = 1 << 20
"""Revisions left free ahead of those that a table goes on with, for what is written to it meanwhile: no revision may
mean two things, and who watches and has heard all of that is to find the next one compacted."""


class Restoring:
    """One attempt on one table: begin(), add() of all records, end(); or give_up()."""

    def __init__(self, take: Callable[[bytes, float], Awaitable[bytes]], *, newest: int) -> None:
        """take: has the table's shard take a frames.RestoredPart within so many seconds, which answers a
        frames.RestoredTable. newest: the table's revision."""
        self._take = take
        self._attempt = int.from_bytes(secrets.token_bytes(8))
        self._loop = asyncio.get_running_loop()
        self._fresh_from = newest + 1 + (FRESH_GAP if newest > 1 else 0)
        self._next_fresh_id = self._fresh_from << SUB_BITS
        self._is_fresh: bool | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._parts = 0
        self._last_key = b""
        self._edits: list[frames.StoredChange] | None = None
        self._ids: list[int] = []
        self._pairs: list[bytes] = []
        self._size_bytes = 0

    async def begin(self) -> None:
        """Raises what a write may."""
        await self._write(frames.RestoredPart(attempt=self._attempt, begin=True), WRITE_S)

    async def add(self, commands: Iterable[mvcc.Command]) -> None:
        """The next records. Raises RestoreRefused, and what a write may."""
        for command in commands:
            kv = command.kv
            key = kv.key
            is_put = command.type == mvcc.Command.PUT
            if is_put and self._edits is None and key > self._last_key:
                id_ = self._id(kv)
                stored = _stored(kv, id_)
                self._last_key = key
                self._ids.append(id_)
                self._pairs.append(stored)
                self._size_bytes += len(stored)
                if self._size_bytes >= PART_BYTES or len(self._pairs) >= PART_PAIRS:
                    await self._send_pairs()
            elif command.type == mvcc.Command.DUMMY or not key:
                pass  # Regatta's own restore leaves a pair without key behind, its snapshots end with a DUMMY
            elif is_put or (command.type == mvcc.Command.DELETE and not command.HasField("range_end")):
                await self._add_edit(kv, is_put=is_put)
            else:
                name = mvcc.Command.CommandType.Name(command.type)
                raise errors.RestoreRefused(f"a backup has no record of type {name}")

    async def _add_edit(self, kv: mvcc.KeyValue, *, is_put: bool) -> None:
        """What is out of order changes what came before, so that has to have come."""
        if self._edits is None:
            await self._send_pairs()
            await self._wait_for_all()
            self._edits = []
        id_ = self._id(kv)
        edit = frames.StoredChange(id=id_, key=kv.key, kv=_stored(kv, id_) if is_put else b"")
        self._edits.append(edit)
        self._size_bytes += edit.ByteSize()
        if self._size_bytes >= PART_BYTES or len(self._edits) >= EDITS:
            await self._send_edits()

    def _id(self, kv: mvcc.KeyValue) -> int:
        id_ = kv.id
        if self._is_fresh is None:
            self._is_fresh = not id_
        if self._is_fresh != (not id_):
            raise errors.RestoreRefused("some records have revisions, and others have none")
        if id_:
            return id_
        self._next_fresh_id += 1
        return self._next_fresh_id

    async def _send_pairs(self) -> None:
        if not self._pairs:
            return
        pairs = b"".join(self._pairs)
        part = frames.RestoredPart(attempt=self._attempt, pairs=pairs, ids=self._ids, crc=crc32(pairs))
        self._ids, self._pairs, self._size_bytes = [], [], 0
        self._parts += 1
        if len(self._under_way) >= UNDER_WAY_MAX:
            await self._wait_for_one()
        self._under_way.add(self._loop.create_task(self._write_part(part)))

    async def _send_edits(self) -> None:
        if self._edits:
            part = frames.RestoredPart(attempt=self._attempt, edits=self._edits)
            self._edits, self._size_bytes = [], 0
            self._parts += 1
            await self._write_part(part)

    async def _wait_for_one(self) -> None:
        done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        self._under_way -= done
        for task in done:
            task.result()

    async def _wait_for_all(self) -> None:
        while self._under_way:
            await self._wait_for_one()

    async def end(self, end: frames.RestoredEnd) -> frames.RestoredTable:
        """All records have come: the table holds them, when this returns, and nothing else.

        Raises RestoreRefused, RestoreInterrupted, and what a write may."""
        await self._send_pairs()
        await self._wait_for_all()
        await self._send_edits()
        end.parts = self._parts
        if self._is_fresh:
            end.fresh_revision = self._fresh_from
        else:
            end.revision = max(end.revision, self._fresh_from)
        return await self._write(frames.RestoredPart(attempt=self._attempt, end=end), END_S)

    async def give_up(self) -> None:
        """Let go of what was built; what can't be reached now is replaced by the next attempt."""
        self.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._write(frames.RestoredPart(attempt=self._attempt, give_up=True), WRITE_S)

    def cancel(self) -> None:
        """Wait for nothing that is under way; some of it may still be taken."""
        for task in self._under_way:
            task.cancel()

    async def _write_part(self, part: frames.RestoredPart) -> None:
        await self._write(part, WRITE_S)

    async def _write(self, part: frames.RestoredPart, time_s: float) -> frames.RestoredTable:
        return frames.RestoredTable.FromString(await self._take(part.SerializeToString(), time_s))


def _stored(kv: mvcc.KeyValue, id_: int) -> bytes:
    """The pair as a shard stores it."""
    revision = varint(id_ >> SUB_BITS)
    created = varint(kv.create_revision) if kv.create_revision else revision
    return encode_pair(kv.key, created, revision, kv.version or 1, kv.value, kv.lease)
