"""What a watcher was told, judged by etcd's guarantees, each by a checker of its own.

    ordered        events come in the order of their revisions
    unique         none comes twice
    reliable       none between the first and the last is missing
    atomic         all of one revision come in one response (or in fragments of one)
    resumable      a watcher that begins after a revision hears what one that never left hears from there on
    bookmarkable   after a progress notification nothing comes that it covers

and that the pairs before and the filters are right. The truth is what every revision changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from proto.etcd import kv_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proto.etcd import rpc_pb2 as etcd

    Truth = Mapping[int, Sequence[kv_pb2.Event]]
    """By revision, with the pairs before."""

OPEN_END: Final = b"\0"


class Broken(AssertionError):
    """A guarantee does not hold."""


@dataclass
class Watched:
    """What one watcher asked for, and the responses it got, in order."""

    key: bytes
    end: bytes = b""
    first: int = 1
    """The first revision that it has to hear of."""
    puts: bool = True
    deletes: bool = True
    prev_kv: bool = False
    compacted: int = 0
    """Of revisions up to this the pairs before may be gone: they are looked for a revision earlier."""
    responses: list[etcd.WatchResponse] = field(default_factory=list)

    @property
    def events(self) -> list[kv_pb2.Event]:
        return [event for response in self.responses for event in response.events]

    def wants(self, event: kv_pb2.Event) -> bool:
        key = event.kv.key
        within = self.key <= key and (self.end == OPEN_END or key < self.end) if self.end else key == self.key
        return within and (self.deletes if event.type == kv_pb2.Event.DELETE else self.puts)


def check(watched: Watched, truth: Truth, through: int | None = None) -> None:
    """Raises Broken unless everything holds and everything of the truth was heard, up to a revision or to its end."""
    check_ordered(watched)
    check_unique(watched)
    check_filtered(watched)
    check_reliable(watched, truth, through=max(truth, default=0) if through is None else through)
    check_atomic(watched)
    check_bookmarks(watched)
    check_pairs_before(watched, truth)


def check_ordered(watched: Watched) -> None:
    for before, after in pairwise(watched.events):
        if after.kv.mod_revision < before.kv.mod_revision:
            raise Broken(f"ordered: {after.kv.mod_revision} came after {before.kv.mod_revision}")


def check_unique(watched: Watched) -> None:
    """A transaction may change a key twice in one revision, by a delete and a put."""
    known: set[tuple[int, bytes, int]] = set()
    for event in watched.events:
        name = (event.kv.mod_revision, event.kv.key, event.type)
        if name in known:
            raise Broken(f"unique: {name} came twice")
        known.add(name)


def check_filtered(watched: Watched) -> None:
    for event in watched.events:
        if not watched.wants(event) or event.kv.mod_revision < watched.first:
            raise Broken(f"filters: nobody asked for {event.kv.key!r} of revision {event.kv.mod_revision}")


def check_reliable(watched: Watched, truth: Truth, *, through: int) -> None:
    """Everything up to this revision was heard, as it was."""
    wanted = [
        (revision, event.type, event.kv)
        for revision in range(watched.first, through + 1)
        for event in truth.get(revision, ())
        if watched.wants(event)
    ]
    heard = [(event.kv.mod_revision, event.type, event.kv) for event in watched.events]
    for want, got in zip(wanted, heard, strict=False):
        if want != got:
            raise Broken(f"reliable: {got[0]} {got[2].key!r} came in place of {want[0]} {want[2].key!r}")
    if len(heard) < len(wanted):
        raise Broken(f"reliable: nothing came of revision {wanted[len(heard)][0]}")


def check_atomic(watched: Watched) -> None:
    known: set[int] = set()
    fragmented = False
    for response in watched.responses:
        revisions = {event.kv.mod_revision for event in response.events}
        if known & revisions and not fragmented:
            raise Broken(f"atomic: revision {min(known & revisions)} came in two responses")
        known |= revisions
        fragmented = response.fragment


def check_resumed(whole: Watched, resumed: Watched) -> None:
    """Of two with the same wishes."""
    later = [event for event in whole.events if event.kv.mod_revision >= resumed.first]
    if later != resumed.events:
        raise Broken(
            f"resumable: from revision {resumed.first} on something else came than to who never left"
        )


def check_bookmarks(watched: Watched) -> None:
    bookmark = 0
    for response in watched.responses:
        for event in response.events:
            if event.kv.mod_revision <= bookmark:
                raise Broken(f"bookmarkable: {event.kv.mod_revision} came after the bookmark {bookmark}")
        if not (response.events or response.created or response.canceled):
            bookmark = response.header.revision


def check_pairs_before(watched: Watched, truth: Truth) -> None:
    wanted: dict[tuple[int, bytes, int], kv_pb2.KeyValue] = {
        (revision, event.kv.key, event.type): event.prev_kv
        for revision, events in truth.items()
        for event in events
    }
    for event in watched.events:
        name = (event.kv.mod_revision, event.kv.key, event.type)
        prev = wanted[name] if watched.prev_kv else kv_pb2.KeyValue()
        if name[0] <= watched.compacted and not event.HasField("prev_kv"):
            continue
        if event.prev_kv != prev:
            raise Broken(f"prev_kv: of {name} came {event.prev_kv.mod_revision}, not {prev.mod_revision}")


def truth_of(events: Iterable[kv_pb2.Event]) -> dict[int, list[kv_pb2.Event]]:
    """From all events of a table with their pairs before, in order. Raises Broken if they contradict each other."""
    truth: dict[int, list[kv_pb2.Event]] = {}
    live: dict[bytes, kv_pb2.KeyValue] = {}
    for event in events:
        pair, before = event.kv, live.pop(event.kv.key, kv_pb2.KeyValue())
        if event.prev_kv != before:
            raise Broken(f"prev_kv: {pair.key!r} had another pair before revision {pair.mod_revision}")
        if event.type == kv_pb2.Event.PUT:
            created = before.create_revision or pair.mod_revision
            if (pair.create_revision, pair.version) != (created, before.version + 1):
                raise Broken(
                    f"{pair.key!r} of revision {pair.mod_revision} does not follow from what was there"
                )
            live[pair.key] = pair
        truth.setdefault(pair.mod_revision, []).append(event)
    for before_, after in pairwise(truth):
        if after != before_ + 1:
            raise Broken(f"reliable: nothing came of revision {before_ + 1}")
    return truth
