"""What has changed in a table since an earlier backup, in records, held against the table's rolling checksum.

The earlier backup says where the table stood: at which revision, and with which checksum over every change up to
there. Rolled on over the changes told here it has to come to the checksum that the table has now; else that backup is
of another past than this one, and what was changed since then would not fit it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from coordinator.backup.records import SUB_BITS, edits
from proto import errors
from proto.checksums import rolled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coordinator.catalog.source import TableSource
    from proto.catalog import TableEntry
    from proto.internal import frames_pb2 as frames
    from proto.regatta import maintenance_pb2 as maintenance


async def records(
    source: TableSource,
    table: TableEntry,
    name: bytes,
    since: maintenance.Facts,
    now: frames.TableFacts,
) -> AsyncGenerator[tuple[bytes, int]]:
    """Every change from `since` to `now`, and how many. Raises BackupOutdated, in the end at the latest."""
    checksum, first = since.checksum, since.revision + 1
    if since.revision > now.revision:
        raise errors.BackupOutdated(f"it is of revision {since.revision}, and the table is at {now.revision}")
    changes = source.changes(table, first, seen=now.revision)
    while first <= now.revision:
        told = (await changes.next()).changes
        if told.floor:
            raise errors.BackupOutdated(
                f"it is of revision {since.revision}, and what changed before {told.floor} is no longer known"
            )
        revisions = [each for each in told.revisions if each.revision <= now.revision]
        for revision in revisions:
            for place, change in enumerate(revision.keys):
                id_ = (revision.revision << SUB_BITS) + place
                checksum = rolled(checksum, id_, crc32(change.kv or change.key))
        yield edits(name, revisions), sum(len(revision.keys) for revision in revisions)
        first = told.through + 1
    if checksum != now.checksum:
        raise errors.BackupOutdated(
            f"it is not of this table's past: its changes come to the checksum {checksum:016x}, and not to"
            f" {now.checksum:016x}"
        )
