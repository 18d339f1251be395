"""Watches, asked of etcd and of boathouse alike, each on a store at revision 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from tests.conformance.test_golden_probes import Probe
from tests.conformance.watching import WatchStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.conformance.keyspace import Keyspace

NOPUT = etcd.WatchCreateRequest.NOPUT
NODELETE = etcd.WatchCreateRequest.NODELETE
DUPLICATE = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY = "mvcc: watcher range is empty"

Seen = tuple[str, bytes, int, int, int, int]
"""PUT or DELETE, key, create and mod revision, version; revision of the pair before, 0 = none."""


def seen(events: Iterable[kv_pb2.Event]) -> list[Seen]:
    return [
        (
            "DELETE" if event.type == kv_pb2.Event.DELETE else "PUT",
            event.kv.key,
            event.kv.create_revision,
            event.kv.mod_revision,
            event.kv.version,
            event.prev_kv.mod_revision,
        )
        for event in events
    ]


def heard(response: etcd.WatchResponse) -> tuple[int, int, list[Seen]]:
    """Of a response with events: watch id, header's revision, events."""
    assert not response.created
    assert not response.canceled
    return response.watch_id, response.header.revision, seen(response.events)


def created(watch_id: int, revision: int) -> etcd.WatchResponse:
    return etcd.WatchResponse(header=etcd.ResponseHeader(revision=revision), watch_id=watch_id, created=True)


def refused(revision: int, reason: str) -> etcd.WatchResponse:
    return etcd.WatchResponse(
        header=etcd.ResponseHeader(revision=revision),
        watch_id=-1,
        created=True,
        canceled=True,
        cancel_reason=reason,
    )


def canceled(watch_id: int, revision: int) -> etcd.WatchResponse:
    return etcd.WatchResponse(header=etcd.ResponseHeader(revision=revision), watch_id=watch_id, canceled=True)


def put_op(key: bytes) -> etcd.RequestOp:
    return etcd.RequestOp(request_put=etcd.PutRequest(key=key))


def delete_op(key: bytes, end: bytes = b"") -> etcd.RequestOp:
    return etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest(key=key, range_end=end))


W0 = ("PUT", b"w0", 2, 2, 1, 0)
W1 = ("PUT", b"w1", 3, 3, 1, 0)
W2 = ("PUT", b"w2", 4, 4, 1, 0)
W1_AGAIN = ("PUT", b"w1", 3, 5, 2, 0)
W2_GONE = ("DELETE", b"w2", 0, 6, 0, 0)


def test_the_past_the_present_and_every_refusal(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-watch") as keyspace, WatchStream(keyspace) as stream:
        probe = Probe(keyspace)
        for key in (b"w0", b"w1", b"w2", b"w1"):
            probe.put(key)
        probe.delete(b"w2")

        # The past of one key, and of a range with the pairs before.
        assert stream.create(b"w1", start_revision=1) == created(0, 6)
        assert heard(stream.hear()) == (0, 6, [W1, W1_AGAIN])
        assert stream.create(b"w", b"x", start_revision=1, prev_kv=True) == created(1, 6)
        assert heard(stream.hear()) == (
            1, 6, [W0, W1, W2, (*W1_AGAIN[:5], 3), (*W2_GONE[:5], 4)],
        )  # fmt: skip

        # Filters.
        assert stream.create(b"w", b"x", start_revision=1, filters=[NOPUT]) == created(2, 6)
        assert heard(stream.hear()) == (2, 6, [W2_GONE])
        assert stream.create(b"w", b"x", start_revision=1, filters=[NOPUT, NODELETE]) == created(3, 6)

        # Ids and ranges.
        assert stream.create(b"w0", watch_id=1) == refused(6, DUPLICATE)
        assert stream.create(b"v", watch_id=42) == created(42, 6)
        assert stream.create(b"v", watch_id=-7) == created(-7, 6)
        assert stream.create(b"z", b"a") == refused(6, EMPTY)
        assert stream.create(b"z", b"z") == refused(6, EMPTY)
        assert stream.create(b"") == created(4, 6)

        # Cancellation: of nobody, of somebody, of nobody any more.
        stream.cancel(999)
        stream.cancel(1)
        assert stream.hear() == canceled(1, 6)
        stream.cancel(1)
        stream.say(etcd.WatchRequest())

        # One transaction, one response for each watcher.
        probe.txn(put_op(b"w1"), put_op(b"w0"), delete_op(b"w9"), put_op(b"w5"))
        assert heard(stream.hear()) == (0, 7, [("PUT", b"w1", 3, 7, 3, 0)])
        assert stream.create(b"\0", b"\0", prev_kv=True) == created(5, 7)
        stream.cancel(0)
        assert stream.hear() == canceled(0, 7)
        stream.cancel(2)
        assert stream.hear() == canceled(2, 7)
        stream.cancel(3)  # told of nothing all the time
        assert stream.hear() == canceled(3, 7)
        probe.txn(delete_op(b"w", b"\0"), put_op(b"x1"))
        assert heard(stream.hear()) == (
            5, 8,
            [
                ("DELETE", b"w0", 0, 8, 0, 7), ("DELETE", b"w1", 0, 8, 0, 7), ("DELETE", b"w5", 0, 8, 0, 7),
                ("PUT", b"x1", 8, 8, 1, 0),
            ],
        )  # fmt: skip

        # What is compacted.
        probe.put(b"x1")
        assert heard(stream.hear()) == (5, 9, [("PUT", b"x1", 8, 9, 2, 8)])
        keyspace.call(etcd.CompactionRequest(revision=9))
        assert stream.create(b"x1", start_revision=8) == created(6, 9)
        assert stream.hear() == etcd.WatchResponse(
            header=etcd.ResponseHeader(), watch_id=6, canceled=True, compact_revision=9
        )
        assert stream.create(b"x1", start_revision=9, prev_kv=True) == created(7, 9)
        assert heard(stream.hear()) == (7, 9, [("PUT", b"x1", 8, 9, 2, 0)])

        # A client that has no more to say.
        stream.cancel(7)
        assert stream.hear() == canceled(7, 9)
        stream.half_close()
        probe.delete(b"x1")
        assert heard(stream.hear()) == (5, 10, [("DELETE", b"x1", 0, 10, 0, 9)])


def test_the_future_and_progress(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-future") as keyspace, WatchStream(keyspace, ("hasleader", "true")) as stream:
        probe = Probe(keyspace)
        probe.put(b"a")
        assert stream.create(b"a", start_revision=5) == created(0, 2)
        assert stream.create(b"b") == created(1, 2)
        for _ in range(4):
            probe.put(b"a")
        assert heard(stream.hear()) == (0, 5, [("PUT", b"a", 2, 5, 4, 0)])
        assert heard(stream.hear()) == (0, 6, [("PUT", b"a", 2, 6, 5, 0)])
        # Progress also counts what no watcher of the stream was told of.
        probe.put(b"c")
        stream.ask_progress()
        assert stream.hear() == etcd.WatchResponse(header=etcd.ResponseHeader(revision=7), watch_id=-1)


def test_fragments_of_one_revision(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-fragment") as keyspace, WatchStream(keyspace) as stream:
        probe = Probe(keyspace)
        value = bytes(400_000)
        for number in range(14):
            probe.put(b"%02d" % number, value)
        assert stream.create(b"\0", b"\0", prev_kv=True, fragment=True) == created(0, 15)
        assert stream.create(b"\0", b"\0", prev_kv=True) == created(1, 15)
        probe.delete(b"\0", b"\0")
        parts: dict[int, list[etcd.WatchResponse]] = {0: [], 1: []}
        while not all(heard and not heard[-1].fragment for heard in parts.values()):
            response = stream.hear()
            parts[response.watch_id].append(response)
        assert [(len(part.events), part.fragment) for part in parts[0]] == [(5, True), (5, True), (4, False)]
        assert {part.header.revision for part in parts[0]} == {16}
        (whole,) = parts[1]
        assert list(whole.events) == [event for part in parts[0] for event in part.events]
        assert [event.prev_kv.mod_revision for event in whole.events] == list(range(2, 16))
