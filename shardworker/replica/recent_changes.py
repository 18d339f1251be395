"""What happened lately to one table, in memory and within bounds: everything after a revision, or nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames
from shardworker.machine.tables import REVISION_MAX
from shardworker.replica import telling

if TYPE_CHECKING:
    from shardworker.machine import Change

KEPT_BYTES_MAX: Final = 8 << 20
"""Of one table's latest changes."""


@dataclass(slots=True)
class RecentChanges:
    """One change for each revision, so that whoever keeps up does not have to be led past what he has heard."""

    since: int
    """Everything after this revision is kept ..."""
    since_checksum: int | None = None
    """The table's at that revision, if it is known."""
    prev_since: int = REVISION_MAX
    """... and the pairs before of everything after this one; nobody looks for them before they are asked for."""
    kept: deque[Change] = field(default_factory=deque)
    size_bytes: int = 0

    @property
    def with_prev(self) -> bool:
        """Whether pairs before are kept of what comes next."""
        return self.prev_since < REVISION_MAX

    def told_from(self, *, prev: bool) -> int:
        """The revision after which everything can be told from here."""
        return max(self.since, self.prev_since) if prev else self.since

    def reaches(self, first: int, *, prev: bool) -> bool:
        """Whether there is something from this revision on, and nothing of it is missing here."""
        return bool(self.kept) and self.told_from(prev=prev) < first <= self.kept[-1].revision

    def checksum_at(self, revision: int) -> int | None:
        """The table's at this revision, if it is known still."""
        number = revision - self.since - 1
        if number == -1:
            return self.since_checksum
        return self.kept[number].checksum if 0 <= number < len(self.kept) else None

    def tell(self, first: int, prev_above: int, *, prev: bool | None = None) -> frames.TableChanges:
        """What is kept from first on, which is in it; at least one change. With the pairs before of revisions above
        prev_above. prev: whether that is all there will ever be to say of them; None: if any can be."""
        told = frames.TableChanges(first=first, prev=prev_above < REVISION_MAX if prev is None else prev)
        size_bytes = 0
        for number in range(first - self.since - 1, len(self.kept)):
            change = self.kept[number]
            revision = change.revision
            telling.add(told.revisions.add(revision=revision), change, with_prev=revision > prev_above)
            size_bytes += change.size_bytes
            told.through = revision
            assert change.checksum is not None
            told.checksum = change.checksum
            if size_bytes >= telling.PART_BYTES_MAX:
                break
        return told

    def keep(self, change: Change, size_bytes_max: int) -> None:
        """Go on with the next change, at the cost of the oldest ones: within this bound and KEPT_BYTES_MAX."""
        if change.missing:
            self.forget(change.revision, change.checksum)
            return
        assert change.revision == self.since + len(self.kept) + 1
        self.kept.append(change)
        self.size_bytes += change.size_bytes
        while self.kept and self.size_bytes > min(KEPT_BYTES_MAX, size_bytes_max):
            oldest = self.kept.popleft()
            self.size_bytes -= oldest.size_bytes
            self.since, self.since_checksum = oldest.revision, oldest.checksum

    def forget(self, since: int, checksum: int | None) -> None:
        """Begin anew at this revision."""
        self.kept.clear()
        self.size_bytes = 0
        self.since = since
        self.since_checksum = checksum
        if self.with_prev:
            self.prev_since = since
