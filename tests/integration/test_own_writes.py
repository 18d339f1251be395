"""Who writes through a node and reads there serializably finds what he has written, though another node leads."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from config.process.names import ProcessName
from proto.etcd import rpc_pb2 as rpc
from shardworker.replica.reads import CATCH_UP_MS
from tests.integration.cluster import Cluster, send_signal

if TYPE_CHECKING:
    from pathlib import Path

WRITES = 200
LEFT_ALONE_EVERY = 20
"""Writes after which the other nodes' replicas stop at once, as in the tests of a client library for Python: the leader
had no time to tell anybody that it has answered."""


def test_own_writes_are_read_through_a_node_that_does_not_lead(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=3, shards=1, tables={"default": {"shard": 1}}) as cluster:
        leader = cluster.wait_leaders()[1]
        near = next(node for node in ("n1", "n2", "n3") if node != leader.node)
        others = [cluster.pid(ProcessName.replica(node, 1)) for node in ("n1", "n2", "n3") if node != near]
        stale, longest_s = [], 0.0
        with cluster.client(near) as client:
            for number in range(WRITES):
                value = b"%d" % number
                client.put(rpc.PutRequest(key=b"k", value=value))
                stopped = others if number % LEFT_ALONE_EVERY == 0 else []
                for pid in stopped:
                    send_signal(pid, signal.SIGSTOP)
                asked_s = time.monotonic()
                try:
                    answer = client.range(rpc.RangeRequest(key=b"k", serializable=True))
                finally:
                    for pid in stopped:
                        cluster.resume(pid)
                longest_s = max(longest_s, time.monotonic() - asked_s)
                found = [kv.value for kv in answer.kvs]
                if found != [value]:
                    stale.append((value, found))
        assert stale == []
        assert longest_s < CATCH_UP_MS / 1_000, "nobody had to wait for those who were away"
