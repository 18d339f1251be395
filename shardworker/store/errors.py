"""What the store refuses, as types. None of these crosses a process boundary: the replica loop turns DiskFull
into `proto.errors.NoSpace` and stops on the others. Bytes that fail their checksum are
`proto.errors.Corrupt`."""

from __future__ import annotations

import errno

import apsw

from proto.errors import Corrupt


class StoreError(Exception):
    """Base of the store's own errors; the message is one sentence for the operator."""


class SqliteTooOld(StoreError):
    """The SQLite under apsw has a known defect that can corrupt a database of ours."""


class IdentityMismatch(StoreError):
    """The folder holds a replica of another cluster, node, shard or format; nothing was changed in it."""


class DataMissing(StoreError):
    """The folder lacks what this replica once had, or has something else in its place; nothing was changed in it."""


class StoreInUse(StoreError):
    """Another process has this replica's folder open."""


class DiskFull(StoreError):
    """The disk is full. The transaction was rolled back: nothing changed, the next one may succeed."""


class StorageFailed(StoreError):
    """The disk failed a read, a write or a sync.

    After a failed sync nobody knows which pages reached the disk, and the kernel may report the next sync as
    good although it dropped them. So the store refuses every further turn; the process must stop and recover
    from what the disk holds."""


class SnapshotRejected(StoreError):
    """A received snapshot is incomplete, fails its checksum, or is not what its sender announced."""


def translated(error: Exception, doing: str) -> Exception:
    """The store's error for what SQLite or the system raised while `doing`; others come back as they are."""
    if isinstance(error, apsw.FullError):
        return DiskFull(f"the disk is full, while {doing}")
    if isinstance(error, apsw.IOError) and _extended_code(error) == apsw.SQLITE_IOERR_SHMSIZE:
        # The WAL index (a file that holds nothing durable) could not grow: a full disk says so in these
        # words.
        return DiskFull(f"the disk is full, while {doing}")
    if isinstance(error, OSError) and not isinstance(error, apsw.Error):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(f"the disk is full, while {doing}")
        return StorageFailed(f"the disk failed while {doing}: {error}")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return Corrupt(f"SQLite found a damaged database while {doing}: {error}")
    if isinstance(error, apsw.IOError | apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError):
        return StorageFailed(f"the disk failed while {doing}: {error}")
    return error


def _extended_code(error: apsw.Error) -> int:
    # apsw sets it on every error that came from SQLite; its type hints do not know.
    return int(getattr(error, "extendedresult", 0))
