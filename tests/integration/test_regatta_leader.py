"""A follower cluster of a cluster of Regatta's own: real processes, and a stand-in for that cluster."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from config.process.names import REPLICATOR, ProcessName
from proto.etcd import rpc_pb2 as etcd
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from tests.integration.cluster import Cluster
from tests.integration.test_replication import contents, said
from tests.regatta_stand_in import StandIn, Table
from tests.stubs import stub
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long

Kind = mvcc.Command


def put(key: bytes, value: bytes) -> mvcc.Command:
    return Kind(type=Kind.PUT, kv=mvcc.KeyValue(key=key, value=value))


def test_a_cluster_of_regattas_is_followed_through_all_that_happens(tmp_path: Path) -> None:
    there = StandIn()
    there.tables["t"] = Table()
    there.write("t", Kind(type=Kind.DUMMY), *(put(b"k%d" % number, b"1") for number in range(50)))
    with ExitStack() as stack:
        endpoint = stack.enter_context(there.serving())
        settings = {"cluster": "island", "follows": {"cluster": "harbour", "endpoints": [endpoint]}}
        island = stack.enter_context(Cluster(tmp_path, nodes=1, tables={}, settings=settings))

        def is_level(name: str) -> bool:
            listed = b'"%s"' % name.encode() in island.cli("table", "list", "-o", "json").stdout
            return listed and {kv.key: kv.value for kv in contents(island, name)} == there.tables[name].pairs

        def wait_level(name: str) -> None:
            wait_until(lambda: is_level(name), timeout_s=20, what=f"{name} to be level\n{said(island)}")

        wait_level("t")
        assert "Regatta's protocol" in said(island)

        with grpc.insecure_channel(island.endpoint("n1")) as channel:
            kv: Any = stub(channel, regatta, "KV")
            passed_on = regatta.PutRequest(table=b"t", key=b"through", value=b"here")
            kv.Put(passed_on, timeout=10)
            read = kv.Range(regatta.RangeRequest(table=b"t", key=b"through"), timeout=10)
            assert [pair.value for pair in read.kvs] == [b"here"], "who writes here reads it here"
            etcd_kv: Any = stub(channel, etcd, "KV")
            with pytest.raises(grpc.RpcError, match="Regatta's API alone"):
                etcd_kv.Put(etcd.PutRequest(key=b"k"), metadata=[("table", "t")], timeout=10)

        island.kill(ProcessName("n1", REPLICATOR))
        there.write(
            "t", put(b"k1", b"2"), Kind(type=Kind.DELETE, kv=mvcc.KeyValue(key=b"k3"), range_end=b"k5")
        )
        wait_level("t")
        assert there.snapshots == 0

        island.kill(ProcessName("n1", REPLICATOR))
        there.write("t", put(b"k1", b"3"))
        there.tables["t"].compacted = there.tables["t"].index
        wait_level("t")

        there.tables["new"] = Table()
        there.write("new", put(b"a", b"1"))
        wait_level("new")
        del there.tables["new"]
        wait_until(
            lambda: b'"new"' not in island.cli("table", "list", "-o", "json").stdout,
            timeout_s=10,
            what="the table to be gone",
        )
