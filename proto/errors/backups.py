"""Backups, and what is restored from them."""

from __future__ import annotations

from proto.errors.base import BoathouseError
from proto.errors.requests import InvalidRequest


class RestoreRefused(InvalidRequest):
    """What should be restored no table can have held, or its backup says otherwise; the table is as it was."""

    frame_code = 370


class RestoreInterrupted(BoathouseError):
    """What came is not the rest of what is being restored; the table is as it was, and has to be restored anew."""

    frame_code = 371


class BackupOutdated(BoathouseError):
    """What has changed since an earlier backup can't be told any more; `detail` says why. A full one can be made."""

    frame_code = 372


class NoRestoreInfo(InvalidRequest):
    """A restore began with something else than the name of its table."""

    frame_code = 373


class NoRestoreChunk(InvalidRequest):
    """Something else than a piece of the backup came in the middle of it."""

    frame_code = 374
