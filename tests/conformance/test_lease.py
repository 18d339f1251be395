"""Leases, asked of etcd and of boathouse alike, each on a store at revision 1."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, TypeVar

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.test_golden_probes import LEASE_NOT_FOUND, Probe
from tests.conformance.test_watch import heard
from tests.conformance.watching import WatchStream
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.message import Message

    from tests.conformance.keyspace import Keyspace

M = TypeVar("M")

TTL_TOO_LARGE = ("OUT_OF_RANGE", "etcdserver: too large lease TTL")
LEASE_EXISTS = ("FAILED_PRECONDITION", "etcdserver: lease already exists")


class Leases(Probe):
    """The calls of Lease on a keyspace."""

    def grant(self, ttl_s: int, lease_id: int = 0) -> etcd.LeaseGrantResponse:
        return self.answered(etcd.LeaseGrantRequest(TTL=ttl_s, ID=lease_id), etcd.LeaseGrantResponse)

    def revoke(self, lease_id: int) -> int:
        """The revision in the header."""
        return self.answered(etcd.LeaseRevokeRequest(ID=lease_id), etcd.LeaseRevokeResponse).header.revision

    def time_to_live(self, lease_id: int, *, keys: bool = False) -> etcd.LeaseTimeToLiveResponse:
        return self.answered(
            etcd.LeaseTimeToLiveRequest(ID=lease_id, keys=keys), etcd.LeaseTimeToLiveResponse
        )

    def keys(self, lease_id: int) -> list[bytes]:
        return sorted(self.time_to_live(lease_id, keys=True).keys)

    def leases(self) -> list[int]:
        found = self.answered(etcd.LeaseLeasesRequest(), etcd.LeaseLeasesResponse).leases
        return [lease.ID for lease in found]

    def keep_alive(self, lease_ids: Iterable[int]) -> list[tuple[int, int]]:
        """Ids and times to live of the answers to a stream of these requests, which then ends."""
        stub = self.keyspace.channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            etcd.LeaseKeepAliveRequest.SerializeToString,
            etcd.LeaseKeepAliveResponse.FromString,
        )
        requests = (etcd.LeaseKeepAliveRequest(ID=lease_id) for lease_id in lease_ids)
        answers = list(stub(requests, metadata=self.keyspace.metadata, timeout=15))
        assert all(answer.header.revision for answer in answers)
        return [(answer.ID, answer.TTL) for answer in answers]

    def answered(self, request: Message, kind: type[M]) -> M:
        answer = self.keyspace.call(request)
        assert isinstance(answer.message, kind), answer
        return answer.message


def lease_of(probe: Probe, key: bytes) -> int:
    return probe.range(key).kvs[0].lease


def test_leases(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-lease") as keyspace:
        probe = Leases(keyspace)
        grants(probe)
        attachment(probe)
        revocation(probe, keyspace)
        renewal(probe)
        expiry(probe, keyspace)


def grants(probe: Leases) -> None:
    assert [probe.grant(ttl).TTL for ttl in (-5, 0, 1, 2, 3)] == [2, 2, 2, 2, 3]
    picked = probe.grant(60)
    assert picked.ID > 0
    assert (picked.TTL, picked.header.revision, picked.error) == (60, 1, "")
    probe.revoke(picked.ID)
    assert (probe.grant(60, -9).ID, probe.grant(60, 1 << 62).ID) == (-9, 1 << 62)
    assert probe.error(etcd.LeaseGrantRequest(ID=-9, TTL=60)) == LEASE_EXISTS
    assert probe.error(etcd.LeaseGrantRequest(ID=-9, TTL=9_000_000_001)) == TTL_TOO_LARGE
    assert probe.grant(9_000_000_000, 11).TTL == 9_000_000_000
    for lease_id in (404, 0):
        assert probe.error(etcd.LeaseRevokeRequest(ID=lease_id)) == LEASE_NOT_FOUND
        unknown = probe.time_to_live(lease_id, keys=True)
        assert (unknown.ID, unknown.TTL, unknown.grantedTTL, list(unknown.keys)) == (lease_id, -1, 0, [])
    known = probe.time_to_live(-9)
    assert (known.ID, known.grantedTTL) == (-9, 60)
    assert known.TTL in (58, 59)
    probe.grant(30, 30)
    assert probe.leases()[-4:] == [30, -9, 1 << 62, 11]
    for lease_id in (11, -9, 1 << 62, 30):
        assert probe.revoke(lease_id) == 1


def attachment(probe: Leases) -> None:
    probe.grant(50, 50)
    probe.grant(51, 51)
    assert probe.error(etcd.PutRequest(key=b"k", lease=404)) == LEASE_NOT_FOUND
    assert probe.error(etcd.PutRequest(key=b"k", lease=404, ignore_value=True)) == LEASE_NOT_FOUND
    probe.put(b"kb", lease=50)
    probe.put(b"ka", lease=50)
    assert (probe.keys(50), lease_of(probe, b"ka")) == ([b"ka", b"kb"], 50)
    probe.put(b"kb")
    assert (probe.keys(50), lease_of(probe, b"kb")) == ([b"ka"], 0)
    probe.put(b"kb", ignore_value=True, lease=50)
    probe.put(b"kb", b"7", ignore_lease=True)
    assert (probe.keys(50), lease_of(probe, b"kb")) == ([b"ka", b"kb"], 50)
    probe.put(b"ka", lease=51)
    assert (probe.keys(50), probe.keys(51)) == ([b"kb"], [b"ka"])
    put = etcd.RequestOp(request_put=etcd.PutRequest(key=b"kc", lease=50))
    unknown = etcd.RequestOp(request_put=etcd.PutRequest(key=b"kc", lease=404))
    assert probe.txn_error(put, unknown)[0] == "INVALID_ARGUMENT", "one key twice"
    assert probe.txn_error(unknown) == LEASE_NOT_FOUND
    assert probe.txn(put, failure=[unknown]).succeeded
    assert probe.keys(50) == [b"kb", b"kc"]
    for lease, succeeds in ((50, True), (51, False), (0, False)):
        compare = etcd.Compare(key=b"kc", target=etcd.Compare.LEASE, lease=lease)
        assert probe.txn(compare=[compare]).succeeded is succeeds
    compare = etcd.Compare(key=b"none", target=etcd.Compare.LEASE, lease=0)
    assert probe.txn(compare=[compare]).succeeded
    probe.delete(b"kc")
    assert probe.keys(50) == [b"kb"]
    probe.put(b"kc", lease=50)
    probe.put(b"ka", lease=50)


def revocation(probe: Leases, keyspace: Keyspace) -> None:
    revision = probe.range(b"ka").header.revision
    with WatchStream(keyspace) as stream:
        stream.create(b"k", b"l", prev_kv=True)
        assert probe.revoke(51) == revision, "it has no keys left"
        assert probe.revoke(50) == revision + 1
        response = stream.hear()
        watch_id, header_revision, events = heard(response)
        assert (watch_id, header_revision) == (0, revision + 1)
        assert [event[:2] for event in events] == [("DELETE", b"ka"), ("DELETE", b"kb"), ("DELETE", b"kc")]
        assert {event.prev_kv.lease for event in response.events} == {50}
        assert {event.kv.lease for event in response.events} == {0}
    assert probe.error(etcd.LeaseRevokeRequest(ID=50)) == LEASE_NOT_FOUND


def renewal(probe: Leases) -> None:
    probe.grant(100, 60)
    assert probe.keep_alive([60, 404, 0, 60]) == [(60, 100), (404, 0), (0, 0), (60, 100)]
    assert probe.keep_alive([]) == []
    revision = probe.range(b"k").header.revision
    probe.keep_alive([60] * 300)
    assert probe.revoke(60) == revision


def expiry(probe: Leases, keyspace: Keyspace) -> None:
    with WatchStream(keyspace) as stream:
        stream.create(b"e", b"f")
        kept = probe.grant(2).ID
        lost = probe.grant(2).ID
        probe.put(b"e/kept", lease=kept)
        probe.put(b"e/lost", lease=lost)
        stream.hear()
        stream.hear()
        for _ in range(3):
            assert probe.keep_alive([kept]) == [(kept, 2)]
            try:
                gone = heard(stream.hear(timeout_s=1))
            except queue.Empty:
                continue
            break
        assert [event[:2] for event in gone[2]] == [("DELETE", b"e/lost")]
        assert probe.keep_alive([lost, kept]) == [(lost, 0), (kept, 2)]
        assert probe.time_to_live(lost).TTL == -1
        assert [event[:2] for event in heard(stream.hear(timeout_s=5))[2]] == [("DELETE", b"e/kept")]
    wait_until(lambda: not probe.leases(), timeout_s=5, what="every lease to be gone")
