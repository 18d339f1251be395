"""Locks and elections, asked of etcd and of boathouse alike, each on a store at revision 1."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from proto.etcd import election_pb2 as election
from proto.etcd import lock_pb2 as lock
from proto.etcd import rpc_pb2 as etcd
from tests.conformance.test_lease import Leases
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.keyspace import Keyspace

NO_KEY = ("UNKNOWN", "etcdserver: key is not provided")
NO_LEASE = ("UNKNOWN", "etcdserver: requested lease not found")
NOT_LEADER = ("UNKNOWN", "election: not leader")
NO_LEADER = ("UNKNOWN", "election: no leader")
EXPIRED = ("UNKNOWN", "mutex: session is expired")
LATE = "DEADLINE_EXCEEDED"
LATE_BY_ETCD = ("UNKNOWN", "context deadline exceeded")
"""Where etcd's clock goes off before that of its client."""


def test_locks(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-lock") as keyspace:
        probe = Leases(keyspace)
        granted = probe.answered(lock.LockRequest(name=b"L"), lock.LockResponse)
        (lease,) = probe.leases()
        assert granted.key == b"L/%x" % lease
        assert granted.header.revision == 2
        assert probe.time_to_live(lease).grantedTTL == 60
        one_holder_at_a_time(probe)
        who_gives_up_leaves_nothing(probe)
        a_waiter_whose_lease_ends_is_told(probe)
        assert probe.answered(lock.UnlockRequest(key=b"missing"), lock.UnlockResponse)
        assert probe.error(lock.UnlockRequest()) == NO_KEY
        assert probe.error(lock.LockRequest(name=b"L", lease=404)) == NO_LEASE


def one_holder_at_a_time(probe: Leases) -> None:
    for lease in (1, 2, 3):
        probe.grant(60, lease)
    first = probe.answered(lock.LockRequest(name=b"M", lease=1), lock.LockResponse)
    again = probe.answered(lock.LockRequest(name=b"M", lease=1), lock.LockResponse)
    assert (first.key, first.header.revision) == (again.key, again.header.revision) == (b"M/1", 3)
    with ThreadPoolExecutor() as threads:
        second = threads.submit(probe.answered, lock.LockRequest(name=b"M", lease=2), lock.LockResponse)
        waits_under(probe, b"M/", 2)
        third = threads.submit(probe.answered, lock.LockRequest(name=b"M", lease=3), lock.LockResponse)
        waits_under(probe, b"M/", 3)
        probe.answered(lock.UnlockRequest(key=b"M/1"), lock.UnlockResponse)
        assert second.result(10).key == b"M/2"
        assert not third.done()
        probe.revoke(2)
        assert third.result(10).key == b"M/3"
    probe.revoke(3)
    probe.revoke(1)


def who_gives_up_leaves_nothing(probe: Leases) -> None:
    for lease in (1, 2):
        probe.grant(60, lease)
    probe.answered(lock.LockRequest(name=b"M", lease=1), lock.LockResponse)
    given_up = probe.keyspace.call(lock.LockRequest(name=b"M", lease=2), timeout_s=1)
    assert given_up.code == LATE or (given_up.code, given_up.text) == LATE_BY_ETCD
    wait_until(
        lambda: [kv.key for kv in probe.range(b"M/", b"M0").kvs] == [b"M/1"],
        timeout_s=5,
        what="the waiter's key to be gone",
    )
    probe.revoke(1)
    probe.revoke(2)


def a_waiter_whose_lease_ends_is_told(probe: Leases) -> None:
    for lease in (1, 2):
        probe.grant(60, lease)
    probe.answered(lock.LockRequest(name=b"M", lease=1), lock.LockResponse)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(probe.error, lock.LockRequest(name=b"M", lease=2))
        waits_under(probe, b"M/", 2)
        probe.revoke(2)
        probe.answered(lock.UnlockRequest(key=b"M/1"), lock.UnlockResponse)
        assert waiting.result(10) == EXPIRED


def waits_under(probe: Leases, prefix: bytes, count: int) -> None:
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    wait_until(
        lambda: probe.range(prefix, end, count_only=True).count == count,
        timeout_s=5,
        what=f"{count} keys under {prefix!r}",
    )


def test_elections(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-election") as keyspace:
        probe = Leases(keyspace)
        probe.grant(60, 10)
        probe.grant(60, 11)
        assert probe.error(election.LeaderRequest(name=b"E")) == NO_LEADER
        first = campaign(probe, 10, b"v1")
        assert first.leader == election.LeaderKey(name=b"E", key=b"E/a", rev=2, lease=10)
        assert first.header.revision == 2
        second = campaign(probe, 10, b"v2")
        assert (second.leader, second.header.revision) == (first.leader, 2)
        assert leads(probe) == (b"E/a", b"v2", 2)
        proclaims(probe, first.leader)
        succession(probe, first.leader)
        probe.revoke(10)
        probe.grant(60, 10)
        a_proclamation_without_a_lease_gets_one(probe)
        unknown = election.CampaignRequest(name=b"E", lease=404, value=b"v")
        assert probe.error(unknown) == NO_LEASE


def campaign(probe: Leases, lease: int, value: bytes) -> election.CampaignResponse:
    request = election.CampaignRequest(name=b"E", lease=lease, value=value)
    return probe.answered(request, election.CampaignResponse)


def leads(probe: Leases) -> tuple[bytes, bytes, int]:
    kv = probe.answered(election.LeaderRequest(name=b"E"), election.LeaderResponse).kv
    return kv.key, kv.value, kv.version


def proclaims(probe: Leases, leader: election.LeaderKey) -> None:
    probe.answered(election.ProclaimRequest(leader=leader, value=b"v3"), election.ProclaimResponse)
    assert leads(probe) == (b"E/a", b"v3", 3)
    wrong = election.LeaderKey(name=b"E", key=leader.key, rev=leader.rev + 1, lease=leader.lease)
    assert probe.error(election.ProclaimRequest(leader=wrong, value=b"v4")) == NOT_LEADER
    probe.answered(election.ResignRequest(leader=wrong), election.ResignResponse)
    assert leads(probe) == (b"E/a", b"v3", 3)


def a_proclamation_without_a_lease_gets_one(probe: Leases) -> None:
    leader = campaign(probe, 10, b"v1").leader
    leader.lease = 0
    probe.answered(election.ProclaimRequest(leader=leader, value=b"v2"), election.ProclaimResponse)
    (key,) = probe.range(leader.key).kvs
    assert key.value == b"v2"
    assert key.lease not in (0, 10)
    assert probe.time_to_live(key.lease).grantedTTL == 60
    probe.revoke(key.lease)
    assert probe.error(election.LeaderRequest(name=b"E")) == NO_LEADER


def succession(probe: Leases, leader: election.LeaderKey) -> None:
    stub = probe.keyspace.channel.unary_stream(
        "/v3electionpb.Election/Observe",
        election.LeaderRequest.SerializeToString,
        election.LeaderResponse.FromString,
    )
    observed: Any = stub(election.LeaderRequest(name=b"E"), metadata=probe.keyspace.metadata, timeout=20)
    assert next(observed).kv.value == b"v3"
    with ThreadPoolExecutor() as threads:
        second = threads.submit(campaign, probe, 11, b"w1")
        waits_under(probe, b"E/", 2)
        assert not second.done()
        probe.answered(election.ResignRequest(leader=leader), election.ResignResponse)
        assert second.result(10).leader.key == b"E/b"
    assert next(observed).kv.value == b"w1"
    proclaim = election.ProclaimRequest(leader=second.result().leader, value=b"w2")
    probe.answered(proclaim, election.ProclaimResponse)
    assert next(observed).kv.value == b"w2"
    probe.revoke(11)
    assert probe.error(election.LeaderRequest(name=b"E")) == NO_LEADER
    campaign(probe, 10, b"v5")
    assert next(observed).kv.value == b"v5"
    observed.cancel()
    assert [kv.key for kv in probe.range(b"E/", b"E0").kvs] == [b"E/a"]
    gone = etcd.PutRequest(key=b"x", lease=11)
    assert probe.error(gone) == ("NOT_FOUND", NO_LEASE[1])
