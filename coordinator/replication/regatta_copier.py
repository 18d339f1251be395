"""Keeping the copy of one table level with its origin in a cluster that speaks no replication but Regatta's.

Its log is asked for from where the copy is, again and again, for it does not wait: a stream ends with what there is.
The copy's shard carries the commands out, at revisions of the copy's own (shardworker/machine/replication/followed.py),
and remembers the index that it has come to. A snapshot is what a backup holds, and is brought as a restore is.

An index says nothing of which log it is of: that of a table that was made anew soon goes beyond where the copy of the
old one is. So the shard whose log a copy follows is noted beside the lease (prefixes.py), before its first command and
behind each snapshot, and asked for again behind whatever came of the log: it never is again what it was before."""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

import structlog

from coordinator.backup.records import RecordReader
from coordinator.backup.restoring import Restoring
from coordinator.replication.copier import Copier
from coordinator.replication.leader import LeaderFailed
from coordinator.replication.regatta_form import CREATION
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coordinator.replication.tail import TakeSnapshot

POLL_S: Final = 0.2
"""Before a log that had nothing new is asked again. Each question costs the leader cluster a linearizable read."""
BATCH_BYTES: Final = 256 << 10
"""Of commands that are carried out in one entry, as Regatta's own follower clusters group them; one larger command
still goes."""

ANOTHER_LOG: Final = "the table was made anew or restored there, or which log the copy follows is not known"

_TOO_MUCH: Final = (errors.TooManyRows, errors.TooManyOps, errors.RequestTooLarge, errors.MalformedRequest)
"""What no repetition mends."""

log = structlog.get_logger()


class RegattaCopier(Copier):
    """As Copier. Nothing but commands of the log that is noted ever changes such a copy while its index is known, so it
    holds what is nowhere else only if either is not known, or the leader cluster's table has another log."""

    def _does(self) -> str:
        return f"{super()._does()} (Regatta's protocol)"

    async def _follow(self) -> None:
        """One stream of commands, from where the copy is."""
        tail, copy = self.tail, self._copy
        status = await self._copies.status(copy)
        index = status.leader_index
        tail.stands(index)
        if not index and status.revision > CREATION:
            tail.cannot_follow("how far the copy has come is not known", loses=True)
            return
        table = await self._table()
        if not index:
            await self._note_prefix(table)
        elif not await self._is_prefix(table):
            tail.cannot_follow(ANOTHER_LOG, loses=True)
            return
        is_idle = True
        async with aclosing(self._leader.log(copy.name, index + 1)) as stream:
            async for message in stream:
                if self._is_refused(message):
                    return
                if message.commands_response.commands and await self._table() != table:
                    tail.cannot_follow(ANOTHER_LOG, loses=True)
                    return
                behind = [told for told in message.commands_response.commands if told.leader_index > index]
                if any(_compares_no_key(told.command) for told in behind):
                    tail.cannot_follow("a transaction compares the pair without a key, which no copy holds")
                    return
                for batch in _batches(message.commands_response.commands, behind=index):
                    is_idle = False
                    reached = await self._carry_out(batch, index)
                    if not reached:
                        return
                    index = reached
                tail.heard(index, message.leader_index, self._loop.time())
        if is_idle:
            await self._loop.sleep(POLL_S)

    async def _carry_out(self, commands: Sequence[replication.ReplicateCommand], index: int) -> int:
        """The index of the last one; 0 if only a snapshot leads on."""
        while left := [command for command in commands if command.leader_index > index]:
            told = replication.ReplicateCommandsResponse(commands=left).SerializeToString()
            try:
                index = await self._copies.follow(self._copy, told, after=index)
            except _TOO_MUCH as error:
                self.tail.cannot_follow(error.detail)
                return 0
            if not index:
                self.tail.cannot_follow("a sequence of commands could not be carried out as a whole")
                return 0
        return index

    async def _take_snapshot(self, step: TakeSnapshot) -> None:
        """All of it; the end puts it in place."""
        copy, tail = self._copy, self.tail
        log.warning("a copy is replaced by a snapshot", table=copy.name, index=tail.revision, reason=step.why)
        status = await self._copies.status(copy)
        if step.loses and status.revision > CREATION:
            await self._aside.keep(copy, status, is_fresh=step.of_fresh)
        if step.loses:
            await self._forget_prefix()
        table = await self._table()
        index = 0

        async def take(part: bytes, time_s: float) -> bytes:
            return await self._copies.take_followed(copy, part, time_s, leader_index=index)

        restoring = Restoring(take, newest=status.revision)
        await restoring.begin()
        try:
            reader = RecordReader()
            async with aclosing(self._leader.pairs(copy.name)) as stream:
                async for chunk in stream:
                    commands = list(reader.feed(chunk.data))
                    index = max([index, *(each.leader_index for each in commands if _is_end(each))])
                    await restoring.add(commands)
                    tail.part_taken(self._loop.time())
            reader.end()
            if not index:
                raise LeaderFailed("DATA_LOSS", "its snapshot does not say at which index it was made")
            if await self._table() != table:
                raise LeaderFailed("ABORTED", "the table was made anew or restored while its snapshot came")
            done = await restoring.end(frames.RestoredEnd())
        except (errors.BoathouseError, LeaderFailed):
            with suppress(errors.BoathouseError):
                await restoring.give_up()
            raise
        finally:
            restoring.cancel()
        tail.replaced(index, self._loop.time())
        log.info("a copy was replaced by a snapshot", table=copy.name, revision=done.revision, index=index)
        await self._note_prefix(table)

    async def _table(self) -> bytes:
        """As Leader.table(): the name of a table with one log."""
        return b"regatta/%d" % await self._leader.shard(self._copy.name)


def _is_end(command: mvcc.Command) -> bool:
    return command.type == mvcc.Command.DUMMY


def _compares_no_key(command: mvcc.Command) -> bool:
    """Whether that there is a pair without a key may decide what it does: nobody but a transaction can ask."""
    if command.type == mvcc.Command.SEQUENCE:
        return any(map(_compares_no_key, command.sequence))
    return any(not compare.key for compare in command.txn.compare)


def _batches(
    commands: Sequence[replication.ReplicateCommand], *, behind: int
) -> Iterator[Sequence[replication.ReplicateCommand]]:
    """Those behind an index, in parts of bounded size."""
    batch: list[replication.ReplicateCommand] = []
    size_bytes = 0
    for command in commands:
        if command.leader_index <= behind:
            continue
        command_bytes = command.ByteSize()
        if batch and size_bytes + command_bytes > BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
        batch.append(command)
        size_bytes += command_bytes
    if batch:
        yield batch
