"""Tables: their names, where they are, and their way to another shard."""

from __future__ import annotations

from proto.errors.base import BoathouseError, Retry
from proto.errors.requests import Absent, InvalidRequest


class EmptyName(InvalidRequest):
    """A request of the Tables service names no table."""

    frame_code = 261


class TableExists(InvalidRequest):
    """There is a table of that name already."""

    frame_code = 262


class InvalidSettings(InvalidRequest):
    """A table can't be made that way: its name, its shard or another setting; `detail` says what is wrong."""

    frame_code = 263


class TableNotFound(Absent):
    """No table has this name, or this shard does not hold it."""

    frame_code = 31


class TableDeleted(TableNotFound):
    """The table that had this id was deleted: its shard refuses to make it again, for good."""

    frame_code = 260


class TableContradicted(BoathouseError):
    """The catalog says one thing of a table, and its shard another: whose data it is, is not known, and it is not
    served."""

    frame_code = 162


class TableAway(BoathouseError):
    """Base of why a shard does not serve a table that the cluster has; nobody remembers such an answer."""

    frame_code = 310


class TableElsewhere(TableAway):
    """Another shard serves the table, or is about to; `detail` is its number."""

    frame_code = 311
    retry = Retry.OTHER_SHARD


class TableArriving(TableAway):
    """The table is on its way to this shard, and is served in a moment."""

    frame_code = 312
    retry = Retry.SOON


class MoveRefused(InvalidRequest):
    """A step of a move that does not fit what the shard knows of it; `detail` says why."""

    frame_code = 313
