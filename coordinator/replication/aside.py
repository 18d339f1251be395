"""What a copy has and the leader cluster has not, kept in a file before a snapshot takes its place.

A cluster that led, and gave way without the new leader cluster having all of its tables, holds writes that were
acknowledged and are nowhere else. It is no use to keep them in the table, which has another past now; so the table,
with its whole past, goes into a file as `etcdctl snapshot save` makes them, in the folder of the node that replicates.
Of each table the last one is kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from coordinator.auth.credentials import SYSTEM
from coordinator.shards.router import LEADER, Call
from coordinator.shards.streams import PinnedStream
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.shards.driver import Driver
    from proto.catalog import TableEntry

STEP_S: Final = 10.0
"""For each part."""
SUFFIX: Final = ".snapshot"

log = structlog.get_logger()


class Aside:
    """Of all copies."""

    def __init__(self, driver: Driver, folder: Path) -> None:
        self._driver = driver
        self._folder = folder

    async def keep(self, copy: TableEntry, revision: int) -> None:
        """The copy, which stands at this revision, is in a file when this returns; or was already. Raises
        ReplicationRefused if the file can't be written, and what a read may."""
        # The name comes from another cluster, and may hold anything.
        name = quote(copy.name, safe="")
        path = self._folder / f"{name}-{copy.id}-{revision}{SUFFIX}"
        try:
            if not path.exists():
                await self._write(copy, path)
        except OSError as error:
            raise errors.ReplicationRefused(f"the copy can't be set aside in {path}: {error}") from None

    async def _write(self, copy: TableEntry, path: Path) -> None:
        """Raises OSError, and what a read may."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        partial = path.with_suffix(".partial")
        digest = hashlib.sha256()
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            stream = await self._stream(copy)
            try:
                async for reply in stream.parts():
                    data = frames.SnapshotPart.FromString(reply.body).data
                    digest.update(data)
                    await asyncio.to_thread(file.write, data)
            finally:
                stream.close()
            file.write(digest.digest())
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        partial.replace(path)
        for older in self._folder.glob(f"*{SUFFIX}"):
            if older != path and older.name.rsplit("-", 2)[0] == path.name.rsplit("-", 2)[0]:
                older.unlink()
        log.warning("what a copy alone has is set aside", table=copy.name, file=str(path))

    async def _stream(self, copy: TableEntry) -> PinnedStream:
        call = Call(
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
        assert call.replica is not None
        return PinnedStream(self._driver, copy, call.replica.node, reply, step_timeout_s=STEP_S)
