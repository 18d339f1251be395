"""maintenance.v1: a table's backup, putting one in the place of what a table holds, and copying a table anew.

Regatta's own tool gets what Regatta's servers send. Who asks as boathouse does is told the table's facts first, gets
records with revisions, versions and leases, and may ask for no more than what has changed since an earlier backup.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import structlog

from config.checks import table_name_problem
from config.values import QUOTA_WORDS, quota_of
from coordinator.api.credentials import NOBODY
from coordinator.backup import changed
from coordinator.backup.fillers import Fillers
from coordinator.backup.records import Compressor, RecordReader, puts
from coordinator.backup.restoring import Restoring
from coordinator.catalog.table_calls import Asked
from coordinator.services.decoding import decode
from proto import errors
from proto.catalog import TableSettings
from proto.internal import frames_pb2 as frames
from proto.regatta import maintenance_pb2 as maintenance
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.changes import TableChanges
    from coordinator.catalog.source import TableSource
    from coordinator.catalog.table_calls import TableCalls
    from proto.catalog import TableEntry

VERSION: Final = 1
"""Of the fields in maintenance.proto that are boathouse's own."""
CHUNK_BYTES_MAX: Final = 1 << 20

log = structlog.get_logger()


class RegattaMaintenance:
    """Backup, Restore, Reset."""

    def __init__(
        self,
        cluster: str,
        calls: TableCalls,
        source: TableSource,
        changes: TableChanges,
        authenticator: Authenticator,
        *,
        follows: bool,
        is_guarded: bool,
    ) -> None:
        """cluster: its name. follows: whether it copies tables of another one. is_guarded: whoever calls has shown the
        token of who runs the cluster, and so may do everything in every table."""
        self._cluster = cluster
        self._calls = calls
        self._source = source
        self._changes = changes
        self._authenticator = authenticator
        self._follows = follows
        self._is_guarded = is_guarded

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/maintenance.v1.Maintenance/Backup": self.backup,
            "/maintenance.v1.Maintenance/Restore": self.restore,
            "/maintenance.v1.Maintenance/Reset": self.reset,
        }

    async def _check_root(self, call: Call, table: TableEntry) -> None:
        if not self._is_guarded:
            who = self._authenticator.credentials(call, table)
            deadline = self._source.step_deadline(call)
            await self._authenticator.rights(who, table, deadline, need=frames.RightsRequest.ROOT)

    # ---- backup -----------------------------------------------------------------------------------------------------

    async def backup(self, call: Call) -> None:
        """All pairs of a table at one revision; or what has changed since another one, up to one."""
        request = decode(maintenance.BackupRequest.FromString, call.body)
        table = await self._source.find(request.table)
        await self._check_root(call, table)
        if not request.HasField("boathouse"):
            await self._send_pairs(call, table, request.table, full=False)
            return
        options = request.boathouse
        if options.version != VERSION:
            raise errors.InvalidRequest(
                f"this cluster speaks version {VERSION} of boathouse's backups, and was asked for version"
                f" {options.version}"
            )
        if options.HasField("since"):
            await self._send_changes(call, table, request.table, options.since)
        else:
            await self._send_pairs(call, table, request.table, full=True)

    async def _send_pairs(self, call: Call, table: TableEntry, name: bytes, *, full: bool) -> None:
        out, fillers = _Sending(call, is_checked=full), Fillers(name)
        async with aclosing(self._source.backup(table, peer=call.peer)) as parts:
            async for part in parts:
                if part.HasField("pairs"):
                    await out.send(puts(name, part.pairs, fillers, full=full), records=len(part.pairs.ids))
                elif full:
                    await self._send_facts(call, table, part.facts)
        await out.finish()

    async def _send_changes(
        self, call: Call, table: TableEntry, name: bytes, since: maintenance.Facts
    ) -> None:
        if (since.cluster, since.table_id) != (self._cluster, table.id):
            raise errors.BackupOutdated(
                f"it is of table id {since.table_id} of cluster {since.cluster}, and this is table id {table.id} of"
                f" cluster {self._cluster}"
            )
        facts = await self._source.facts(table, peer=call.peer)
        await self._send_facts(call, table, facts)
        out = _Sending(call, is_checked=True)
        async with aclosing(changed.records(self._source, table, name, since, facts)) as pieces:
            async for piece, count in pieces:
                await out.send(piece, records=count)
        await out.finish()

    async def _send_facts(self, call: Call, table: TableEntry, told: frames.TableFacts) -> None:
        facts = maintenance.Facts(
            cluster=self._cluster,
            table_id=table.id,
            revision=told.revision,
            checksum=told.checksum,
            keys=told.keys,
            history=table.history,
            local=table.is_local,
            owner=table.owner,
            extras=told.extras.SerializeToString(),
            quota=table.quota,
        )
        await call.send(replication.SnapshotChunk(facts=facts.SerializeToString()).SerializeToString())

    # ---- restore ----------------------------------------------------------------------------------------------------

    async def restore(self, call: Call) -> bytes:
        """What the table holds, which is made if there is none, is replaced as a whole once everything has come."""
        messages = call.messages()
        info = await _info(messages)
        name, table, is_new = await self._table_to_fill(call, info)
        try:
            done = await self._fill(table, info, messages)
        except BaseException:
            if is_new:
                await _in_any_case(lambda: self._delete(name, table))
            raise
        log.info("restored a table", table=name, revision=done.revision, keys=done.keys)
        if not info.HasField("boathouse"):
            return maintenance.RestoreResponse().SerializeToString()
        return maintenance.RestoreResponse(revision=done.revision, keys=done.keys).SerializeToString()

    async def _table_to_fill(self, call: Call, info: maintenance.RestoreInfo) -> tuple[str, TableEntry, bool]:
        """Its name, the table, and whether it was made for this."""
        if not info.table:
            raise errors.EmptyTable
        try:
            table = await self._source.find(info.table)
        except errors.TableNotFound:
            name = info.table.decode(errors="replace")
            problem = table_name_problem(name)
            if problem:
                raise errors.InvalidSettings(problem) from None
            return name, await self._changes.create(name, _settings(info)), True
        if table.origin:
            raise errors.MethodNotServed("method Restore not implemented")
        await self._check_root(call, table)
        return table.name, table, False

    async def _fill(
        self, table: TableEntry, info: maintenance.RestoreInfo, messages: AsyncIterator[bytes]
    ) -> frames.RestoredTable:
        async def take(part: bytes, time_s: float) -> bytes:
            deadline = asyncio.get_running_loop().time() + time_s
            _, reply = await self._calls.write(Asked(table, frames.TABLE_RESTORE, part, deadline, NOBODY))
            return reply.body

        restoring = Restoring(take, newest=await self._source.revision(table))
        await restoring.begin()
        try:
            reader = RecordReader()
            async for message in messages:
                chunk = decode(maintenance.RestoreMessage.FromString, message)
                if not chunk.HasField("chunk"):
                    raise errors.NoRestoreChunk
                await restoring.add(reader.feed(chunk.chunk.data))
            reader.end()
            return await restoring.end(_expected(info))
        except BaseException:
            await _in_any_case(restoring.give_up)
            raise

    async def _delete(self, name: str, table: TableEntry) -> None:
        """The table that was made for what did not come."""

        async def is_still_ours(found: TableEntry) -> None:
            if found.id != table.id:
                raise errors.TableNotFound(f"another table is called {name} now")

        await self._changes.delete(name, is_still_ours)

    # ---- reset ------------------------------------------------------------------------------------------------------

    async def reset(self, call: Call) -> bytes:
        """Copies of the leader cluster's tables are made anew; what they hold is read until then."""
        request = decode(maintenance.ResetRequest.FromString, call.body)
        if not self._follows:
            raise errors.MethodNotServed("method Reset not implemented")
        if not request.reset_all and not request.table:
            raise errors.EmptyTable
        if request.reset_all:
            tables = [table for table in await self._changes.newest() if table.origin]
        else:
            tables = [await self._source.find(request.table)]
            if not tables[0].origin:
                raise errors.InvalidRequest(f"table {tables[0].name} copies no table of the leader cluster")
        for table in tables:
            await self._check_root(call, table)
        for table in tables:
            await self._source.reset(table)
        return maintenance.ResetResponse().SerializeToString()


class _Sending:
    """Records on their way to a client, compressed."""

    def __init__(self, call: Call, *, is_checked: bool) -> None:
        """is_checked: the client is told how many records he has got, and in the end what all data come to."""
        self._call = call
        self._stream = Compressor()
        self._digest = hashlib.sha256() if is_checked else None
        self._records = 0

    async def send(self, records_bytes: bytes, *, records: int) -> None:
        self._records += records
        await self._send(self._stream.feed(records_bytes))

    async def finish(self) -> None:
        await self._send(self._stream.finish())
        if self._digest is not None:
            last = replication.SnapshotChunk(records=self._records, sha256=self._digest.digest())
            await self._call.send(last.SerializeToString())

    async def _send(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK_BYTES_MAX):
            piece = data[start : start + CHUNK_BYTES_MAX]
            chunk = replication.SnapshotChunk(data=piece, len=len(piece))
            if self._digest is not None:
                self._digest.update(piece)
                chunk.records = self._records
            await self._call.send(chunk.SerializeToString())


async def _info(messages: AsyncIterator[bytes]) -> maintenance.RestoreInfo:
    """The first message. Raises NoRestoreInfo."""
    async for message in messages:
        first = decode(maintenance.RestoreMessage.FromString, message)
        if first.HasField("info"):
            return first.info
        break
    raise errors.NoRestoreInfo


def _settings(info: maintenance.RestoreInfo) -> TableSettings:
    """Of the table that is made for what comes. Raises InvalidSettings."""
    if not info.HasField("boathouse"):
        return TableSettings()
    facts = info.boathouse
    quota = facts.quota if facts.HasField("quota") else None
    if quota is not None and quota_of(quota) is None:
        raise errors.InvalidSettings(f"quota {quota} must be {QUOTA_WORDS}")
    return TableSettings(history=facts.history, is_local=facts.local, owner=facts.owner, quota=quota)


def _expected(info: maintenance.RestoreInfo) -> frames.RestoredEnd:
    if not info.HasField("boathouse"):
        return frames.RestoredEnd()
    facts = info.boathouse
    extras = decode(frames.TableExtras.FromString, facts.extras)
    return frames.RestoredEnd(keys=facts.keys, revision=facts.revision, extras=extras)


async def _in_any_case(undo: Callable[[], Awaitable[None]]) -> None:
    """Also where the call was cancelled, and without hiding why it ends."""
    with contextlib.suppress(errors.BoathouseError):
        await asyncio.shield(asyncio.ensure_future(undo()))
