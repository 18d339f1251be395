"""replication.v1: what a follower cluster asks of its leader cluster. The index on the wire is the table's revision.

A follower cluster of boathouse says so in its request, and is told of changes as the shard stored them. Its Replicate
then waits for what is to come, for STREAM_S, and asks again. Everybody else gets what Regatta's servers send.
"""

from __future__ import annotations

import contextlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from coordinator.backup.fillers import Fillers
from coordinator.catalog.identities import Meant
from coordinator.replication import regatta_form
from coordinator.replication.clock import LOOP_CLOCK, together
from coordinator.replication.leading import OldEpoch
from coordinator.replication.token_key import TOKEN_KEY
from coordinator.services.decoding import decode
from proto import errors
from proto.auth_version import is_enabled
from proto.catalog import Lead
from proto.internal import frames_pb2 as frames
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.changes import TableChanges
    from coordinator.catalog.identities import Identities
    from coordinator.catalog.source import TableSource
    from coordinator.replication.clock import Starter
    from coordinator.replication.gate import Gate
    from coordinator.replication.leading import Leading
    from proto.catalog import TableEntry

VERSION: Final = 1
"""Of the fields in replication.proto that are boathouse's own."""

MESSAGE_BYTES_MAX: Final = 4 << 20
"""Commands in one message of Replicate, as in Regatta. Its servers receive up to twice as much, and nobody's command is
larger but that of a deletion of many keys, which are told one by one: who would need that takes a snapshot."""
CHUNK_BYTES_MAX: Final = 1 << 20
"""Of a snapshot in Regatta's form."""

STREAM_S: Final = 5.0
"""A Replicate that waits ends after so long. Less than a coordinator that stops waits for its calls to end."""
NO_WAIT_S: Final = 0.001
"""Of the first look, which says of which version the table's users are."""
NO_USERS: Final = 2
"""auth_version of a table that never had any."""


_Request = replication.ReplicateRequest | replication.SnapshotRequest


class RegattaReplication:
    """Metadata.Get, Log.Replicate, Snapshot.Stream."""

    def __init__(
        self,
        cluster: str,
        gate: Gate,
        changes: TableChanges,
        identities: Identities,
        source: TableSource,
        leading: Leading,
        authenticator: Authenticator,
        *,
        follows: bool = False,
        is_exposed: bool,
        starter: Starter = LOOP_CLOCK,
    ) -> None:
        """cluster: its name. follows: its file names another one, from which it copies unless it was promoted.
        is_exposed: others than this machine reach it, and its file does not say that this is fine."""
        self._is_exposed = is_exposed
        self._cluster = cluster
        self._leading = leading
        self._follows = follows
        self._gate = gate
        self._changes = changes
        self._identities = identities
        self._meant = Meant(identities, lambda: source.time())
        self._source = source
        self._authenticator = authenticator
        self._starter = starter

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/replication.v1.Metadata/Get": self.get,
            "/replication.v1.Log/Replicate": self.replicate,
            "/replication.v1.Snapshot/Stream": self.stream,
        }

    async def get(self, call: Call) -> bytes:
        """All tables that are to be copied, by name, as they are now: a follower cluster deletes all others.

        Raises what a linearizable read may."""
        self._gate.check(call)
        request = decode(replication.MetadataRequest.FromString, call.body)
        lead = await self._leading.now()
        follows = self._follows and lead.cluster != self._cluster
        if request.HasField("lead"):
            if not follows:
                await self._give_way(call, request.lead)
                lead = await self._leading.now()
            elif self._believes and (request.lead.epoch, request.lead.cluster) == (lead.epoch, lead.cluster):
                # It follows the one that calls, and whoever had it give way may have died at that.
                await self._leading.finish_giving_way(
                    request.lead.tables, lambda table: self._check_root(call, table)
                )
        contents = await self._changes.contents()
        if contents.unread:
            raise errors.TablesUnknown(
                f"the catalog's rows of {', '.join(contents.unread)} can't be read here"
            )
        response = replication.MetadataResponse(
            cluster=self._cluster,
            identity=await self._identities.own(),
            lead=replication.Lead(epoch=lead.epoch, cluster=lead.cluster),
            follows=self._follows and lead.cluster != self._cluster,
        )
        told = [
            (name, entry)
            for name, entry in sorted(contents.entries.items())
            if not entry.is_reserved and not entry.is_local
        ]
        positions: Sequence[replication.Position | None] = [None] * len(told)
        if request.positions:
            positions = await together(self._starter, (self._position(entry) for _, entry in told))
        for (name, entry), position in zip(told, positions, strict=True):
            response.tables.add(
                name=name,
                id=entry.id,
                history=entry.history,
                position=position,
                origin=self._leading.counterpart(entry, request.follower),
            )
        return response.SerializeToString()

    async def _position(self, table: TableEntry) -> replication.Position | None:
        try:
            status = await self._source.status(table)
        except errors.TableNotFound:
            return None  # it is being made or deleted just now
        auth_version = status.auth_version if self._gate.asks else 0
        return replication.Position(
            revision=status.revision, checksum=status.checksum, auth_version=auth_version
        )

    async def _give_way(self, call: Call, told: replication.Lead) -> None:
        """The cluster that calls was promoted. One that leads in a higher epoch, or has the same from elsewhere, stays
        as it is, and says so in its answer. Raises BadReplicationToken where anybody could say so."""
        if not self._believes:
            raise errors.BadReplicationToken(f"{TOKEN_KEY}, and has none to compare (replication.token_file)")

        with contextlib.suppress(OldEpoch):
            await self._leading.give_way(
                Lead(told.epoch, told.cluster), told.tables, lambda table: self._check_root(call, table)
            )

    @property
    def _believes(self) -> bool:
        """Whether not anybody can say which cluster leads."""
        return self._gate.asks or not self._is_exposed

    async def _check_identity(self, request: _Request) -> None:
        """A table's id says which one is meant, in its own cluster: one that was made anew gives the same ids. Raises
        OtherCluster."""
        if request.boathouse.identity:
            await self._meant.check(request.boathouse.identity)

    async def _check_may_copy(self, call: Call, table: TableEntry, request: _Request) -> None:
        """Who copies a table that has users sees all of it, past every permission: a follower cluster that has shown
        its token, which then goes by those users; and root, who is no such cluster. Raises BadReplicationToken for one
        that would have the table without its users, for everybody there, and what root is asked for."""
        if self._gate.asks:
            return
        if request.HasField("boathouse"):
            self._check_unguarded(table, (await self._source.status(table)).auth_version)
        else:
            await self._check_root(call, table)

    def _check_unguarded(self, table: TableEntry, auth_version: int) -> None:
        if is_enabled(auth_version):
            raise errors.BadReplicationToken(
                f"{TOKEN_KEY}, since table {table.name} has users, and has none to compare (replication.token_file)"
            )

    async def _check_root(self, call: Call, table: TableEntry) -> None:
        """Of whoever shows no token that is asked for."""
        if self._gate.asks:
            return
        who = self._authenticator.credentials(call, table)
        deadline = self._source.step_deadline(call)
        await self._authenticator.rights(who, table, deadline, need=frames.RightsRequest.ROOT)

    # ---- the log ----------------------------------------------------------------------------------------------------

    async def replicate(self, call: Call) -> None:
        """What the table has changed from an index on."""
        self._gate.check(call)
        request = decode(replication.ReplicateRequest.FromString, call.body)
        if request.leader_index == 0:
            raise errors.NoLeaderIndex
        await self._check_identity(request)
        table = await self._source.find(request.table, table_id=_table_id(request))
        call.table = table.name
        await self._check_may_copy(call, table, request)
        newest = await self._source.revision(table)
        if newest + 1 < request.leader_index:
            await call.send(_error(replication.LEADER_BEHIND))
        elif request.HasField("boathouse"):
            if request.boathouse.follower:
                follower, revision = request.boathouse.follower, request.leader_index - 1
                await self._source.note_position(table, follower, revision)
            await self._replicate_changes(call, table, request.leader_index, newest)
        else:
            await self._replicate_commands(call, table, request, newest)

    async def _replicate_changes(self, call: Call, table: TableEntry, first: int, newest: int) -> None:
        changes = self._source.changes(table, first, seen=newest)
        end = self._source.time() + STREAM_S
        users_version: int | None = None if self._gate.asks else NO_USERS
        while (left_s := end - self._source.time()) > 0:
            told = await changes.next(NO_WAIT_S if users_version is None else left_s)
            if not self._gate.asks:
                self._check_unguarded(table, told.changes.auth_version)
            elif told.changes.auth_version != (users_version or NO_USERS):
                # Ahead of what they may read.
                users = await self._source.users(table)
                await call.send(replication.ReplicateResponse(users=users).SerializeToString())
            users_version = told.changes.auth_version
            if told.changes.floor:
                await call.send(_error(replication.USE_SNAPSHOT, newest=told.newest))
                return
            message = replication.ReplicateResponse(changes=told.body, leader_index=told.newest)
            await call.send(message.SerializeToString())

    async def _replicate_commands(
        self, call: Call, table: TableEntry, request: replication.ReplicateRequest, newest: int
    ) -> None:
        batch = _Batch(call, newest)
        first = request.leader_index
        changes = self._source.changes(table, first, seen=newest)
        while first <= newest:
            told = await changes.next()
            if told.changes.floor:
                await batch.flush()
                await call.send(_error(replication.USE_SNAPSHOT))
                return
            if first == regatta_form.CREATION:
                await batch.add(regatta_form.creation(request.table))
            for command in regatta_form.commands(request.table, told.changes):
                if command.ByteSize() > MESSAGE_BYTES_MAX:
                    # The snapshot is ahead of it: it is not older than its call.
                    await batch.flush()
                    await call.send(_error(replication.USE_SNAPSHOT))
                    return
                await batch.add(command)
            first = told.changes.through + 1
        await batch.flush()
        end = replication.ReplicateResponse(leader_index=max(newest, first - 1))
        await call.send(end.SerializeToString())

    # ---- snapshots --------------------------------------------------------------------------------------------------

    async def stream(self, call: Call) -> None:
        """All pairs of one revision."""
        self._gate.check(call)
        request = decode(replication.SnapshotRequest.FromString, call.body)
        await self._check_identity(request)
        try:
            table = await self._source.find(request.table, table_id=_table_id(request))
        except errors.TableNotFound:
            name = request.table.decode(errors="replace")
            raise errors.SnapshotUnavailable(f"'{name}': table not found") from None
        call.table = table.name
        await self._check_may_copy(call, table, request)
        if request.HasField("boathouse"):
            async with aclosing(self._source.pairs(table, peer=call.peer)) as parts:
                async for part in parts:
                    if part or request.boathouse.waits:
                        await call.send(replication.SnapshotChunk(pairs=part).SerializeToString())
        else:
            await self._stream_records(call, table, request.table)

    async def _stream_records(self, call: Call, table: TableEntry, name: bytes) -> None:
        import cramjam  # here, since most clusters serve no followers of Regatta's own

        compressor, fillers = cramjam.snappy.Compressor(), Fillers(name)
        async with aclosing(self._source.pairs(table, peer=call.peer)) as parts:
            async for part in parts:
                if not part:
                    continue  # a replica of an earlier build is making it
                told = frames.TablePairs.FromString(part)
                compressor.compress(regatta_form.records(name, told, fillers))
                data = bytes(compressor.finish() if told.last else compressor.flush())
                for start in range(0, len(data), CHUNK_BYTES_MAX):
                    piece = data[start : start + CHUNK_BYTES_MAX]
                    await call.send(replication.SnapshotChunk(data=piece, len=len(piece)).SerializeToString())


class _Batch:
    """Commands on their way into messages of bounded size."""

    def __init__(self, call: Call, newest: int) -> None:
        self._call = call
        self._newest = newest
        self._message = self._empty()
        self._size_bytes = 0

    def _empty(self) -> replication.ReplicateResponse:
        return replication.ReplicateResponse(leader_index=self._newest)

    async def add(self, command: replication.ReplicateCommand) -> None:
        """In order; the command that would cross the bound opens the next message."""
        size_bytes = command.ByteSize()
        if self._size_bytes + size_bytes > MESSAGE_BYTES_MAX:
            await self.flush()
        self._message.commands_response.commands.append(command)
        self._size_bytes += size_bytes

    async def flush(self) -> None:
        """Send what there is."""
        if self._size_bytes:
            await self._call.send(self._message.SerializeToString())
            self._message, self._size_bytes = self._empty(), 0


def _table_id(request: _Request) -> int:
    """The table that a follower cluster of boathouse means; 0 = whatever has the name. Raises InvalidRequest."""
    if not request.HasField("boathouse"):
        return 0
    if request.boathouse.version != VERSION or not request.boathouse.table_id:
        raise errors.InvalidRequest(
            f"this leader cluster speaks version {VERSION} of boathouse's replication, and was asked for version"
            f" {request.boathouse.version} of table id {request.boathouse.table_id}"
        )
    return request.boathouse.table_id


def _error(error: replication.ReplicateError.ValueType, *, newest: int = 0) -> bytes:
    """newest: where the table stands, for a follower cluster of boathouse, which wants to know its lag."""
    refusal = replication.ReplicateErrResponse(error=error)
    return replication.ReplicateResponse(error_response=refusal, leader_index=newest).SerializeToString()
