"""Every error that crosses a process boundary, defined once.

A class says three things that its reader needs to act: `frame_code`, its number in a Reply (never renumbered);
`definite`, whether the request certainly changed nothing (the question of Jepsen's error registry); and `retry`,
who may try again. The gRPC code and the exact text are each API's own and live in the coordinator's status tables.

A module of this package holds those that concern one thing, and this one names them all: others say `errors.Compacted`.
"""

# ruff: noqa: F403 - the modules hold nothing but errors

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.errors.auth import *
from proto.errors.backups import *
from proto.errors.base import BoathouseError as BoathouseError
from proto.errors.base import Retry as Retry
from proto.errors.concurrency import *
from proto.errors.damage import *
from proto.errors.damage import InvariantBroken as InvariantBroken
from proto.errors.fate import *
from proto.errors.leases import *
from proto.errors.replication import *
from proto.errors.requests import *
from proto.errors.room import *
from proto.errors.shards import *
from proto.errors.tables import *
from proto.errors.versions import *

if TYPE_CHECKING:
    from collections.abc import Iterator


def _below(base: type[BoathouseError]) -> Iterator[type[BoathouseError]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)


BY_FRAME_CODE: dict[int, type[BoathouseError]] = {cls.frame_code: cls for cls in _below(BoathouseError)}
"""All error classes by the number that a Reply carries."""


def from_frame(frame_code: int, detail: str) -> BoathouseError:
    """The error that a Reply with this code and detail stands for.

    Raises InvariantBroken for a number that this version does not know."""
    try:
        return BY_FRAME_CODE[frame_code](detail)
    except KeyError:
        raise InvariantBroken(f"a reply carries the unknown error code {frame_code}: {detail}") from None
