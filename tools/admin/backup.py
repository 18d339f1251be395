"""Saving tables of a running cluster into a folder, and putting them back; blocking.

What is said of how it goes, a `Progress` hears. Nothing is printed here."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

import grpc

from proto.regatta import maintenance_pb2 as maintenance
from proto.regatta import replication_pb2 as replication
from tools.admin import backup_folder
from tools.admin.backup_folder import Piece, SavedTable
from tools.admin.client import KEEPALIVE, leave_channels, open_channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from proto.catalog import TableEntry
    from tools.admin.reach import Connection

VERSION: Final = 1
"""Of boathouse's own fields in maintenance.proto."""
TRIES_MAX: Final = 3
"""Of one table, while coordinators or replicas go away under it; and each endpoint is tried once."""
TRY_PAUSE_S: Final = 1.0
UNKNOWN: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
)
"""After these a request may have taken effect."""
OUTDATED: Final = "the earlier backup is outdated: "
"""How a cluster begins to say that."""


class BackupFailed(Exception):
    """The cluster refused, or went away; the text says why."""


class Outdated(Exception):
    """What has changed since a table was saved last can't be told; the text says why."""


class Progress(Protocol):
    """Who shows how it goes."""

    def begin(self, table: str, total: int) -> None:
        """A table's turn, perhaps once more. total: of what done() counts, as far as it is known."""

    def done(self, count: int, size_bytes: int) -> None:
        """So far, of this table."""

    def end(self) -> None:
        """All of this table, whatever its total was thought to be."""


class Rate:
    """Keeps to so many bytes a second on average, 0 = as fast as it goes."""

    def __init__(self, bytes_per_s: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._began = clock()
        self._bytes = 0

    def wait_s(self, size_bytes: int) -> float:
        """So many more have gone: how long to wait before the next."""
        if not self._bytes_per_s:
            return 0.0
        self._bytes += size_bytes
        return max(0.0, self._began + self._bytes / self._bytes_per_s - self._clock())


@dataclass(frozen=True, slots=True)
class Saved:
    """What came of one table."""

    table: str
    is_full: bool
    why_full: str
    """Of one that could have been incremental: why it is not."""
    records: int
    size_bytes: int
    seconds: float
    facts: maintenance.Facts


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of one table."""

    table: str
    revision: int | None
    """None: a backup of Regatta's, which is not told."""
    keys: int | None
    size_bytes: int
    seconds: float


class _Target(NamedTuple):
    """Where a table goes, and who is told of it."""

    folder: Path
    table: TableEntry
    taken: frozenset[str]
    """Names of files that are in use."""
    rate: Rate
    progress: Progress


class BackupClient:
    """Use as a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._channels = [
            open_channel(address, connection.credentials, KEEPALIVE) for address in connection.addresses
        ]
        self._tries_max = max(TRIES_MAX, len(self._channels))
        self._metadata = (("authorization", f"Bearer {connection.token}"),) if connection.token else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None = None, *_: object) -> None:
        leave_channels(self._channels, failure)

    # ---- backup -----------------------------------------------------------------------------------------------------

    def save(
        self,
        folder: Path,
        table: TableEntry,
        earlier: SavedTable | None,
        *,
        taken: frozenset[str],
        rate: Rate,
        progress: Progress,
    ) -> tuple[SavedTable, Saved]:
        """The table in a file of the folder; or behind the files that `earlier` has of it, one with what has changed
        since, if that can be told. taken: names of files that are in use. Raises BackupFailed, OSError."""
        target = _Target(folder, table, taken, rate, progress)
        why_full = ""
        if earlier is not None:
            try:
                return self._save(target, earlier)
            except Outdated as error:
                why_full = str(error)
        saved, said = self._save(target, None)
        return saved, replace(said, why_full=why_full)

    def _save(self, target: _Target, earlier: SavedTable | None) -> tuple[SavedTable, Saved]:
        if earlier is not None and earlier.facts is None:
            raise Outdated("Regatta's own tool has made it")
        tries = 0
        while True:
            channel = self._channels[tries % len(self._channels)]
            tries += 1
            try:
                return _receive(self._chunks(channel, target.table, earlier), target, earlier)
            except grpc.RpcError as error:
                details = error.details() or ""
                if error.code() is grpc.StatusCode.UNAVAILABLE and tries < self._tries_max:
                    time.sleep(TRY_PAUSE_S)
                elif details.startswith(OUTDATED):
                    raise Outdated(details.removeprefix(OUTDATED)) from None
                else:
                    raise _failed(target.table.name, error) from None

    def _chunks(
        self, channel: grpc.Channel, table: TableEntry, earlier: SavedTable | None
    ) -> Iterator[replication.SnapshotChunk]:
        options = maintenance.BackupOptions(version=VERSION)
        if earlier is not None:
            assert earlier.facts is not None
            options.since.CopyFrom(earlier.facts)
            options.since.ClearField("extras")
        request = maintenance.BackupRequest(table=table.name.encode(), boathouse=options)
        method: grpc.UnaryStreamMultiCallable[maintenance.BackupRequest, replication.SnapshotChunk] = (
            channel.unary_stream(
                "/maintenance.v1.Maintenance/Backup",
                maintenance.BackupRequest.SerializeToString,
                replication.SnapshotChunk.FromString,
            )
        )
        yield from method(request, metadata=self._metadata)

    # ---- restore ----------------------------------------------------------------------------------------------------

    def restore(
        self, folder: Path, table: SavedTable, name: str, *, rate: Rate, progress: Progress
    ) -> Restored:
        """Put a table's files, which were checked, in the place of what the table of this name holds. Begins anew at
        the next endpoint if one goes away on the way. Raises BackupFailed, OSError."""
        size_bytes = backup_folder.size_bytes(folder, table)
        began = time.monotonic()
        tries = 0
        while True:
            channel = self._channels[tries % len(self._channels)]
            tries += 1
            progress.begin(name, size_bytes)
            sending = _Sending(backup_folder.read_pieces(folder, table), table, name, rate, progress)
            try:
                answer = self._send(channel, sending)
            except grpc.RpcError as error:
                if sending.failure is not None:
                    raise sending.failure from None
                if sending.is_all and error.code() in UNKNOWN:
                    # Once more would replace what was written to a table that holds the backup already.
                    raise BackupFailed(
                        f"table {name}: all of it was sent, and nobody said whether it has taken the table's place:"
                        f" {error.details()} ({error.code().name}); look at the table before you restore it again"
                    ) from None
                if error.code() is not grpc.StatusCode.UNAVAILABLE or tries >= self._tries_max:
                    raise _failed(name, error) from None
                time.sleep(TRY_PAUSE_S)
            else:
                break
        progress.end()
        is_told = table.facts is not None
        return Restored(
            name,
            answer.revision if is_told else None,
            answer.keys if is_told else None,
            size_bytes,
            time.monotonic() - began,
        )

    def _send(self, channel: grpc.Channel, sending: _Sending) -> maintenance.RestoreResponse:
        """Raises RpcError."""
        method: grpc.StreamUnaryMultiCallable[maintenance.RestoreMessage, maintenance.RestoreResponse] = (
            channel.stream_unary(
                "/maintenance.v1.Maintenance/Restore",
                maintenance.RestoreMessage.SerializeToString,
                maintenance.RestoreResponse.FromString,
            )
        )
        return method(sending, metadata=self._metadata)


def _receive(
    chunks: Iterator[replication.SnapshotChunk], target: _Target, earlier: SavedTable | None
) -> tuple[SavedTable, Saved]:
    """A file of what a cluster sends. Raises RpcError, BackupFailed for what came short, OSError."""
    began = time.monotonic()
    first = next(chunks, None)
    if first is None:
        raise BackupFailed(f"table {target.table.name}: the cluster has sent nothing of it")
    facts = maintenance.Facts.FromString(first.facts)
    since = 0 if earlier is None or earlier.facts is None else earlier.facts.revision
    target.progress.begin(target.table.name, facts.revision - since if since else facts.keys)
    name = _free_name(target, f"{facts.revision}.inc" if since else "bak")
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    records = size_bytes = 0
    promised = b""
    with backup_folder.writing(target.folder, name) as write:
        for chunk in chunks:
            write(chunk.data)
            md5.update(chunk.data)
            sha256.update(chunk.data)
            size_bytes += len(chunk.data)
            records, promised = chunk.records, chunk.sha256
            target.progress.done(records, size_bytes)
            time.sleep(target.rate.wait_s(len(chunk.data)))
        if promised != sha256.digest():
            raise BackupFailed(f"table {target.table.name}: what came is not what was sent")
    target.progress.end()
    piece = Piece(name, md5.hexdigest(), sha256.hexdigest(), facts)
    seconds = time.monotonic() - began
    said = Saved(target.table.name, earlier is None, "", records, size_bytes, seconds, facts)
    return SavedTable(target.table.name, [*(earlier.pieces if earlier else ()), piece]), said


def _free_name(target: _Target, ending: str) -> str:
    name = backup_folder.file_name(target.table.name, target.table.id, ending)
    number = 1
    while name in target.taken:
        number += 1
        name = backup_folder.file_name(target.table.name, target.table.id, f"{number}.{ending}")
    return name


class _Sending:
    """The messages of a restore. What goes wrong on this side is put down: grpc would hide it."""

    def __init__(
        self, pieces: Iterator[bytes], table: SavedTable, name: str, rate: Rate, progress: Progress
    ) -> None:
        self._pieces = pieces
        self._info = maintenance.RestoreInfo(table=name.encode())
        if table.facts is not None:
            self._info.boathouse.CopyFrom(table.facts)
        self._is_begun = False
        self._rate = rate
        self._progress = progress
        self._size_bytes = 0
        self.failure: OSError | None = None
        self.is_all = False
        """Everything was handed on: the cluster may have put it in place."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> maintenance.RestoreMessage:
        if not self._is_begun:
            self._is_begun = True
            return maintenance.RestoreMessage(info=self._info)
        try:
            data = next(self._pieces)
        except StopIteration:
            self.is_all = True
            raise
        except OSError as error:
            self.failure = error
            raise
        self._size_bytes += len(data)
        self._progress.done(self._size_bytes, self._size_bytes)
        time.sleep(self._rate.wait_s(len(data)))
        chunk = replication.SnapshotChunk(data=data, len=len(data))
        return maintenance.RestoreMessage(chunk=chunk)


def _failed(table: str, error: grpc.RpcError) -> BackupFailed:
    return BackupFailed(f"table {table}: {error.details()} ({error.code().name})")
