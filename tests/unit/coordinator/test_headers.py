from __future__ import annotations

import pytest

from coordinator.api.headers import EtcdHeaders, RegattaHeaders
from proto.etcd import rpc_pb2 as etcd
from proto.regatta import regatta_pb2 as regatta

NUMBERS = (0, 1, 127, 128, 300, 2**31, 2**63 - 1)


@pytest.mark.parametrize("revision", NUMBERS)
@pytest.mark.parametrize("term", NUMBERS)
def test_etcd_header_bytes_are_protobufs_own(revision: int, term: int) -> None:
    headers = EtcdHeaders(cluster_id=2**64 - 1, member_id=77)
    expected = etcd.PutResponse(
        header=etcd.ResponseHeader(cluster_id=2**64 - 1, member_id=77, revision=revision, raft_term=term)
    )
    assert headers.encode(revision=revision, term=term) == expected.SerializeToString()


@pytest.mark.parametrize("revision", NUMBERS)
def test_regatta_header_bytes_are_protobufs_own(revision: int) -> None:
    headers = RegattaHeaders(replica_id=3)
    expected = regatta.PutResponse(
        header=regatta.ResponseHeader(
            shard_id=2, replica_id=3, revision=revision, raft_term=300, raft_leader_id=1
        )
    )
    assert headers.encode(shard=2, revision=revision, term=300, leader=1) == expected.SerializeToString()


def test_a_header_in_front_of_a_body_is_one_message() -> None:
    body = etcd.RangeResponse(count=4, more=True).SerializeToString()
    whole = etcd.RangeResponse.FromString(
        EtcdHeaders(cluster_id=1, member_id=2).encode(revision=3, term=4) + body
    )
    assert (whole.header.member_id, whole.header.revision, whole.count, whole.more) == (2, 3, 4, True)
