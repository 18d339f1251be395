"""Too busy, too full."""

from __future__ import annotations

from proto.errors.base import BoathouseError, Retry


class QueueFull(BoathouseError):
    """A bounded queue is full; nothing was proposed."""

    frame_code = 120
    retry = Retry.CALLER


class TooManyLogins(QueueFull):
    """More passwords are to be checked than there is time for; nothing was proposed."""

    frame_code = 125
    retry = Retry.CALLER


class NoSpace(BoathouseError):
    """The replica's disk is full; writes are refused, reads go on."""

    frame_code = 121
    retry = Retry.CALLER


class QuotaExceeded(NoSpace):
    """The table holds as much as it may; what makes it grow is refused until something is deleted and compacted."""

    frame_code = 242
    retry = Retry.CALLER


class TooManyCursors(BoathouseError):
    """All read cursors of the replica are in use."""

    frame_code = 122
    retry = Retry.CALLER


class ShardBusy(BoathouseError):
    """The requests that are to be applied together would keep the shard from answering; this one changed nothing."""

    frame_code = 123
    retry = Retry.CALLER
