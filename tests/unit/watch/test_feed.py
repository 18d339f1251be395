"""What a shard told, as watchers are to hear it."""

from __future__ import annotations

from coordinator.watch.changes import Gone, Part, TakenBack
from coordinator.watch.feed import told_by
from proto.internal import frames_pb2 as frames


def test_what_one_revision_changes_twice_has_the_pair_of_the_revision_before() -> None:
    """put b, delete b, in a transaction: the deletion's pair before is not the put's, which nobody could read."""
    told = frames.TableChanges(first=5, through=6, prev=True)
    revision = told.revisions.add(revision=5)
    revision.keys.add(key=b"a", kv=b"a5", prev=b"a3")
    revision.keys.add(key=b"b", kv=b"b5", prev=b"b4")
    revision.keys.add(key=b"new", kv=b"new5")
    revision.keys.add(key=b"b", prev=b"b5")
    revision.keys.add(key=b"new", prev=b"new5")
    revision.keys.add(key=b"b", kv=b"b5 anew")
    told.revisions.add(revision=6).keys.add(key=b"a", kv=b"a6", prev=b"a5")
    part = told_by(told)
    assert isinstance(part, Part)
    fifth, sixth = part.revised
    assert [(change.key, change.pair, change.prev) for change in fifth.changes] == [
        (b"a", b"a5", b"a3"),
        (b"b", b"b5", b"b4"),
        (b"new", b"new5", None),
        (b"b", None, b"b4"),
        (b"new", None, None),
        (b"b", b"b5 anew", None),
    ]
    assert [change.prev for change in sixth.changes] == [b"a5"]


def test_what_is_compacted_is_said() -> None:
    assert told_by(frames.TableChanges(floor=7)) == Gone(7)
    assert told_by(frames.TableChanges(through=4, taken_back=True)) == TakenBack(4)
