"""A lease of a three-node cluster whose workers die: kept alive it goes on, and let go it ends in time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.keyspace import Keyspace
from tests.conformance.test_lease import Leases
from tests.integration.cluster import Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SHARD: Final = 1
TTL_S: Final = 2
LATE_S_MAX: Final = 6.0
"""An election timeout if its leader is new, and a moment that a busy machine may take."""

pytestmark = pytest.mark.alone


def test_a_lease_outlives_the_leaders_that_keep_it(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=3, shards=1, replicas=3, tables={"default": {"shard": SHARD}}) as cluster:
        cluster.wait_leaders()
        with Keyspace(cluster.endpoint("n1")) as keyspace:
            probe = Leases(keyspace)
            lease = probe.grant(TTL_S).ID
            probe.put(b"leased", lease=lease)

            def keeps_on() -> bool:
                # Until the worker is back, which may take longer than the lease lives.
                assert probe.keep_alive([lease]) == [(lease, TTL_S)]
                return time.monotonic() > killed + 1.5 * TTL_S and cluster.restarted(name, pid) is not None

            name = cluster.leader(SHARD)
            killed = time.monotonic()
            pid = cluster.kill(name)
            wait_until(keeps_on, timeout_s=30, what="renewals", interval_s=TTL_S / 10)
            asked = time.monotonic()
            assert probe.keep_alive([lease]) == [(lease, TTL_S)]
            cluster.kill(cluster.leader(SHARD))
            wait_until(
                lambda: probe.keyspace.call(etcd.RangeRequest(key=b"leased")).message.count == 0,
                timeout_s=TTL_S + LATE_S_MAX + 10,
                what="the lease to end",
            )
            took_s = time.monotonic() - asked
            assert TTL_S <= took_s <= TTL_S + LATE_S_MAX
            assert probe.leases() == []
