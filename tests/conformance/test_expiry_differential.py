"""Leases that run out on two systems: the same keys go, those of a lease together, and the same is left.

Which of several leases goes first, and so at which revision, is nobody's to say."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest
from google.protobuf import text_format

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.keyspace import EVERYTHING, Keyspace
from tests.conformance.lengths import seeds
from tests.conformance.watching import WatchStream
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from tests.conformance.keyspace import Answer

LEASES: Final = range(1, 13)
KEPT: Final = range(100, 103)
KEYS: Final = 30
TTL_S: Final = 3
RENEWED_AFTER: Final = 5
"""Writes, which where much else is done take longer than a lease lives, but not so few of them."""
END_S: Final = 15.0


class Side:
    """A keyspace, and what was told of its changes."""

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        keyspace.begin()
        self._stream = WatchStream(keyspace)
        self._stream.create(EVERYTHING, EVERYTHING, prev_kv=True)
        self._heard: dict[int, list[str]] = {}

    def close(self) -> None:
        self._stream.close()

    def revision(self) -> int:
        answer = self.keyspace.call(etcd.RangeRequest(key=b"x", count_only=True))
        revision: int = answer.message.header.revision
        return revision

    def ended(self) -> bool:
        """Whether only the leases of a long life are left, and all is told of the ends of the others."""
        listed = self.keyspace.call(etcd.LeaseLeasesRequest()).message.leases
        if {lease.ID for lease in listed} != set(KEPT):
            return False
        for response in self._stream.pending():
            self.keyspace.make_relative(response)
            for event in response.events:
                events = self._heard.setdefault(event.kv.mod_revision, [])
                event.kv.mod_revision = 0
                events.append(text_format.MessageToString(event, as_one_line=True))
        return bool(self._heard) and max(self._heard) == self.revision()

    def heard(self, since: int) -> list[list[str]]:
        """What was told of after a revision, in an order that says nothing of when."""
        return sorted(events for revision, events in self._heard.items() if revision > since)


def requests(rng: random.Random) -> Iterator[Message]:
    """Grants, and writes by which keys come to leases, go from one to another, and lose theirs. Meanwhile none ends."""
    for lease in KEPT:
        yield etcd.LeaseGrantRequest(ID=lease, TTL=10_000)
    for lease in LEASES:
        yield etcd.LeaseGrantRequest(ID=lease, TTL=TTL_S)
    for number in range(60):
        if number % RENEWED_AFTER == 0:
            yield from (etcd.LeaseKeepAliveRequest(ID=lease) for lease in LEASES)
        key = b"k%02d" % rng.randrange(KEYS)
        match rng.randrange(12):
            case 0:
                yield etcd.DeleteRangeRequest(key=key)
            case 1:
                yield etcd.PutRequest(key=key, value=b"free")
            case 2:
                yield etcd.PutRequest(key=key, value=b"kept", ignore_lease=True)
            case 3:
                yield etcd.PutRequest(key=key, lease=rng.choice(KEPT))
            case _:
                yield etcd.PutRequest(key=key, value=b"v", lease=rng.choice(LEASES))


AFTERWARDS: Final = tuple(
    request
    for lease in (1, 2, 100)
    for request in (
        etcd.LeaseKeepAliveRequest(ID=lease),
        etcd.PutRequest(key=b"late", lease=lease),
        etcd.LeaseRevokeRequest(ID=lease),
        etcd.LeaseTimeToLiveRequest(ID=lease, keys=True),
    )
)


def pairs(side: Side) -> list[tuple[bytes, bytes, int]]:
    answer = side.keyspace.call(etcd.RangeRequest(key=EVERYTHING, range_end=EVERYTHING))
    return [(kv.key, kv.value, kv.lease) for kv in answer.message.kvs]


@pytest.fixture
def sides(etcd_endpoint: str, boathouse_endpoint: str) -> Iterator[tuple[Side, Side]]:
    with Keyspace(etcd_endpoint) as theirs, Keyspace(boathouse_endpoint) as ours:
        found = Side(theirs), Side(ours)
        try:
            yield found
        finally:
            for side in found:
                side.close()


@pytest.mark.parametrize("seed", seeds(1))
def test_the_same_keys_go(sides: tuple[Side, Side], seed: int) -> None:
    def both(request: Message) -> Answer:
        wanted, given = (side.keyspace.call(request) for side in sides)
        assert given == wanted, request
        return wanted

    for request in requests(random.Random(seed)):
        both(request)
    written = sides[0].revision()
    assert sides[1].revision() == written
    for side in sides:
        wait_until(side.ended, timeout_s=END_S, what="the short leases to end", interval_s=0.05)
    theirs, ours = sides
    assert ours.heard(written) == theirs.heard(written)
    assert len(theirs.heard(written)) >= 5
    assert ours.revision() == theirs.revision()
    assert pairs(ours) == pairs(theirs)
    for request in AFTERWARDS:
        both(request)
