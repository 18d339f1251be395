"""How changes of a table are put to who follows it, wherever they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from shardworker.machine import Change
    from shardworker.machine.tables import TableState

PART_BYTES_MAX: Final = 1 << 20
"""An answer ends with the revision that reaches this."""


def nothing(first: int) -> frames.TableChanges:
    """There is nothing yet from this revision on."""
    return frames.TableChanges(first=first, through=first - 1)


def compacted(first: int, floor: int) -> frames.TableChanges:
    """What was asked for is gone; from floor on it is here."""
    return frames.TableChanges(first=first, through=first - 1, floor=floor)


def taken_back(table: TableState) -> frames.TableChanges:
    """What who asks has heard of did not lead to the table as it is."""
    return frames.TableChanges(through=table.revision, taken_back=True)


def add(told: frames.RevisionChanges, change: Change, *, with_prev: bool) -> None:
    """Tell a change, or a part of one, and the pairs before if they may be told."""
    for key, kv, prev in change.edits:
        told.keys.add(key=key, kv=kv or b"", prev=(prev or b"") if with_prev else b"")
