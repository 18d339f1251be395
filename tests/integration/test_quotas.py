"""A table that is full, on a running cluster: it alone grows no more, and goes on by itself once there is space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.etcd import rpc_pb2 as etcd
from proto.regatta import regatta_pb2 as regatta
from tests.conformance.keyspace import Keyspace
from tests.integration.cluster import Cluster
from tests.stubs import stub
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.keyspace import Answer

QUOTA: Final = 1 << 20
VALUE: Final = bytes(QUOTA // 16)
NO_SPACE: Final = ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")
EVERYTHING: Final = etcd.DeleteRangeRequest(key=b"\0", range_end=b"\0")


def put(keyspace: Keyspace, key: bytes) -> tuple[str, str]:
    answer = keyspace.call(etcd.PutRequest(key=key, value=VALUE))
    return answer.code, answer.text


def alarms(keyspace: Keyspace) -> list[int]:
    return [alarm.alarm for alarm in keyspace.call(etcd.AlarmRequest()).message.alarms]


def told(answer: Answer) -> tuple[str, str]:
    return answer.code, answer.text


def test_a_full_table_alone_grows_no_more_until_there_is_space(tmp_path: Path) -> None:
    tables = {"full": {"quota": QUOTA}, "free": {}}
    with Cluster(tmp_path, nodes=1, shards=1, tables=tables) as cluster:
        cluster.wait_leaders()
        endpoint = cluster.endpoint("n1")
        with Keyspace(endpoint, "full") as full, Keyspace(endpoint, "free") as free:
            lease = full.call(etcd.LeaseGrantRequest(TTL=60)).message.ID
            # It holds from the first write on.
            count = next(number for number in range(20) if put(full, b"%02d" % number) == NO_SPACE)
            assert count < QUOTA // len(VALUE)
            assert alarms(full) == [etcd.NOSPACE]

            # All that would make it larger, by either API.
            growing = etcd.TxnRequest(success=[etcd.RequestOp(request_put=etcd.PutRequest(key=b"a"))])
            assert told(full.call(growing)) == NO_SPACE
            assert told(full.call(etcd.LeaseGrantRequest(TTL=60))) == NO_SPACE
            through_regatta = stub(full.channel, regatta, "KV").Put.future(
                regatta.PutRequest(table=b"full", key=b"a", value=VALUE)
            )
            assert through_regatta.code().name == "RESOURCE_EXHAUSTED"

            # Its neighbour in the same file grows beyond what this one may hold.
            for number in range(count + 5):
                assert put(free, b"%02d" % number) == ("OK", "")
            assert alarms(free) == []

            # What does not make it larger goes on, and gives the space back.
            assert full.call(etcd.RangeRequest(key=b"00")).message.count == 1
            assert full.call(etcd.LeaseKeepAliveRequest(ID=lease)).message.TTL == 60
            emptied = full.call(EVERYTHING).message
            assert emptied.deleted == count
            compaction = etcd.CompactionRequest(revision=emptied.header.revision)
            assert told(full.call(compaction)) == ("OK", "")
            wait_until(lambda: alarms(full) == [], timeout_s=20, what="the alarm to end by itself")
            assert put(full, b"again") == ("OK", "")
