"""A bug of ours, a bad disk."""

from __future__ import annotations

from proto.errors.base import BoathouseError, Retry


class InvariantBroken(BoathouseError):
    """boathouse has a bug; the worker stops rather than go on."""

    frame_code = 160
    definite = False


class Corrupt(BoathouseError):
    """Stored bytes fail their checksum or contradict each other, or another replica's; this one does not serve them."""

    frame_code = 161
    definite = False
    retry = Retry.OTHER_REPLICA


class CorruptAlarm(BoathouseError):
    """Somebody has raised the alarm CORRUPT for the table: it takes no writes until that is cleared."""

    frame_code = 243
