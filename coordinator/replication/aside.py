"""What a copy has and the leader cluster has not, kept in a file before a snapshot takes its place.

A cluster that led, and gave way without the new leader cluster having all of its tables, holds writes that were
acknowledged and are nowhere else. It is no use to keep them in the table, which has another past now; so the table,
with its whole past, goes into a file as `etcdctl snapshot save` makes them, in the folder of the node that replicates.
Of each table the last one is kept. A copy that could not be followed right after a snapshot holds nothing but that; it
is kept too, but does not take the place of one that may hold more."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from config.durable_files import sync_folder
from coordinator.api.credentials import SYSTEM
from coordinator.shards.shard_call import LEADER, ShardCall
from coordinator.shards.streams import PinnedStream
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from io import BufferedWriter
    from pathlib import Path

    from coordinator.shards.driver import Driver
    from proto.catalog import TableEntry

STEP_S: Final = 10.0
"""For each part."""
SUFFIX: Final = ".snapshot"
PARTIAL: Final = ".partial"
FRESH: Final = "-fresh"
FILE_NAME_BYTES_MAX: Final = 200

_NAME_END: Final = re.compile(
    rf"-(?P<table_id>\d+)-\d+(?:-[0-9a-f]{{16}})?(?P<fresh>(?:{FRESH})?){re.escape(SUFFIX)}\Z"
)

log = structlog.get_logger()


class Aside:
    """Of all copies."""

    def __init__(self, driver: Driver, folder: Path, *, free_bytes_min: int) -> None:
        """free_bytes_min: what must stay free on the folder's disk."""
        self._driver = driver
        self._folder = folder
        self._free_bytes_min = free_bytes_min
        self._under_way: set[Path] = set()

    async def keep(self, copy: TableEntry, status: frames.TableStatus, *, is_fresh: bool = False) -> None:
        """The copy, which stands there, is in a file when this returns; or was already. is_fresh: it is what the last
        snapshot brought, and no more. Raises ReplicationRefused if the file can't be written, and what a read may."""
        path = self._folder / _file_name(copy, status, is_fresh=is_fresh)
        try:
            if not path.exists():
                await self._write(copy, path)
                self._remove_older(path)
        except OSError as error:
            raise errors.ReplicationRefused(f"the copy can't be set aside in {path}: {error}") from None

    async def _write(self, copy: TableEntry, path: Path) -> None:
        """Raises OSError, and what a read may."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self._folder.parent)
        partial = path.with_suffix(PARTIAL)
        self._under_way.add(partial)
        try:
            self._remove_abandoned()
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                await self._fill(file, copy)
            partial.replace(path)
            sync_folder(self._folder)
        finally:
            self._under_way.discard(partial)
            partial.unlink(missing_ok=True)
        log.warning("what a copy alone has is set aside", table=copy.name, file=str(path))

    async def _fill(self, file: BufferedWriter, copy: TableEntry) -> None:
        digest = hashlib.sha256()
        has_room = False
        stream = await self._stream(copy)
        try:
            async for reply in stream.parts():
                part = frames.SnapshotPart.FromString(reply.body)
                if part.total_bytes and not has_room:
                    self._check_room(part.total_bytes)
                    has_room = True
                digest.update(part.data)
                await asyncio.to_thread(file.write, part.data)
        finally:
            stream.close()
        file.write(digest.digest())
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())

    def _check_room(self, size_bytes: int) -> None:
        """Raises OSError if a file of this size leaves too little to the node's replicas."""
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes - size_bytes < self._free_bytes_min:
            raise OSError(
                f"it takes {size_bytes} bytes, {free_bytes} are free, and {self._free_bytes_min} must stay free"
            )

    def _remove_abandoned(self) -> None:
        """What a process that died was about."""
        for partial in self._folder.glob(f"*{PARTIAL}"):
            if partial not in self._under_way:
                partial.unlink(missing_ok=True)

    def _remove_older(self, path: Path) -> None:
        """Of the same table and as good: what a snapshot has brought takes the place of nothing that was made here."""
        for older in self._folder.glob(f"*{SUFFIX}"):
            if older != path and _worth(older) == _worth(path):
                older.unlink(missing_ok=True)

    async def _stream(self, copy: TableEntry) -> PinnedStream:
        call = ShardCall(
            copy.shard,
            LEADER,
            Access.READ,
            frames.ETCD_SNAPSHOT,
            copy.id,
            frames.LeasesLeft().SerializeToString(),
            deadline=self._driver.time() + STEP_S,
            linearizable=True,
            who=SYSTEM,
        )
        reply = await self._driver.ask(call)
        assert call.node is not None
        return PinnedStream(self._driver, copy, call.node, reply, step_timeout_s=STEP_S)


def _file_name(copy: TableEntry, status: frames.TableStatus, *, is_fresh: bool) -> str:
    # With the checksum, since clusters that led one after the other count the same revisions for other things.
    place = f"{copy.id}-{status.revision}-{status.checksum:016x}{FRESH if is_fresh else ''}{SUFFIX}"
    # The name comes from another cluster, and may hold anything.
    name = f"{quote(copy.name, safe='')}-{place}"
    return name if len(name) <= FILE_NAME_BYTES_MAX else f"table-{place}"


def _worth(path: Path) -> tuple[str, str] | None:
    """The id of the table in a file, and FRESH if it is but a snapshot; None for a file of somebody else."""
    found = _NAME_END.search(path.name)
    return None if found is None else (found["table_id"], found["fresh"])
