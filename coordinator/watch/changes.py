"""What changed in a table, as a coordinator hears it from a shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Change(NamedTuple):
    """One key was put or deleted."""

    key: bytes
    pair: bytes | None
    """As it is stored: a KeyValue behind the tag and length of field 2. None = deleted."""
    prev: bytes | None
    """The pair of the revision before, likewise; None if there was none, or it was compacted away."""


class Revised(NamedTuple):
    """All that one revision changed, in the order in which it did; never a part of it."""

    revision: int
    changes: Sequence[Change]


class Part(NamedTuple):
    """A piece of a table's history without a gap: everything that the revisions in [first, through] changed."""

    first: int
    through: int
    """first - 1 = nothing has happened since."""
    revised: Sequence[Revised]
    """In ascending order."""
    prev: bool = True
    """Whether it holds the pairs before; looking them up costs the replica, so it does if it is asked to."""
    auth_version: int = 0
    """Of the table after all that; see frames.TableChanges."""
    checksum: int | None = None
    """Of the table after `through`, if the replica knew it; see frames.TableChanges."""


class Gone(NamedTuple):
    """What was asked for can't be told any more."""

    floor: int
    """The oldest revision that can."""


class TakenBack(NamedTuple):
    """The table has not come from what was heard of it: it was taken back, and has gone another way since."""

    revision: int
    """Where it stands now, perhaps below what was heard."""


Told = Part | Gone | TakenBack
