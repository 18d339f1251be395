"""Regatta messages byte for byte: what its clients and servers put on the wire, in hex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.struct_pb2 import Struct

from proto.regatta.early_pb2 import MemberListResponse as EarlyMemberListResponse
from proto.regatta.early_pb2 import TableStatus as EarlyTableStatus
from proto.regatta.maintenance_pb2 import ResetRequest, RestoreInfo, RestoreMessage
from proto.regatta.mvcc_pb2 import Command, CommandResult, Compare, KeyValue, RequestOp, ResponseOp
from proto.regatta.regatta_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    ListTablesResponse,
    Member,
    MemberListResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    ResponseHeader,
    StatusRequest,
    StatusResponse,
    TableInfo,
    TableStatus,
    TxnRequest,
    TxnResponse,
)
from proto.regatta.replication_pb2 import (
    LEADER_BEHIND,
    USE_SNAPSHOT,
    MetadataResponse,
    ReplicateCommand,
    ReplicateCommandsResponse,
    ReplicateErrResponse,
    ReplicateRequest,
    ReplicateResponse,
    SnapshotChunk,
    Table,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

CONFIG = Struct()
CONFIG.update({"a.b": 1})

VECTORS: list[tuple[str, Message, str]] = [
    (
        "range request",
        RangeRequest(
            table=b"t",
            key=b"a",
            range_end=b"b",
            limit=5,
            linearizable=True,
            keys_only=True,
            count_only=True,
            min_mod_revision=1,
            max_mod_revision=2,
            min_create_revision=3,
            max_create_revision=4,
        ),
        "0a01741201611a016220052801300138014001480250035804",
    ),
    (
        "range response",
        RangeResponse(
            header=ResponseHeader(shard_id=10001, replica_id=1, revision=3, raft_term=2, raft_leader_id=1),
            kvs=[KeyValue(key=b"a", value=b"1")],
            more=True,
            count=1,
        ),
        "0a0b08914e10011803200228011a060a016122013120012801",
    ),
    ("put request", PutRequest(table=b"t", key=b"k", value=b"v", prev_kv=True), "0a017412016b1a01762001"),
    (
        "put response",
        PutResponse(header=ResponseHeader(revision=3), prev_kv=KeyValue(key=b"k", value=b"v")),
        "0a02180312060a016b220176",
    ),
    (
        "delete request",
        DeleteRangeRequest(table=b"t", key=b"a", range_end=b"\0", prev_kv=True, count=True),
        "0a01741201611a010020012801",
    ),
    (
        "delete response",
        DeleteRangeResponse(header=ResponseHeader(revision=4), deleted=1, prev_kvs=[KeyValue(key=b"a")]),
        "0a02180410011a030a0161",
    ),
    (
        "txn request",
        TxnRequest(
            table=b"t",
            compare=[Compare(result=Compare.GREATER, key=b"k", value=b"", range_end=b"\0")],
            success=[RequestOp(request_put=RequestOp.Put(key=b"k", value=b"v", prev_kv=True))],
            failure=[
                RequestOp(
                    request_delete_range=RequestOp.DeleteRange(
                        key=b"k", range_end=b"l", prev_kv=True, count=True
                    )
                ),
                RequestOp(request_range=RequestOp.Range(key=b"k", limit=1, keys_only=True)),
            ],
        ),
        (
            "0a0174120b08011a016b2200820401001a0a12080a016b1201761801220c1a0a0a016b12016c200128"
            "0122090a070a016b18012001"
        ),
    ),
    (
        "txn response",
        TxnResponse(
            header=ResponseHeader(revision=5),
            succeeded=True,
            responses=[
                ResponseOp(response_put=ResponseOp.Put()),
                ResponseOp(response_range=ResponseOp.Range(count=2, more=True)),
                ResponseOp(response_delete_range=ResponseOp.DeleteRange(deleted=2)),
            ],
        ),
        "0a02180510011a0212001a060a04100118021a041a020802",
    ),
    ("compare: existence", Compare(key=b"k"), "1a016b"),
    ("compare: equal to empty", Compare(key=b"k", value=b""), "1a016b2200"),
    (
        "command: reset, leader index 0 kept",
        Command(table=b"t", type=Command.DUMMY, leader_index=0),
        "0a017410022800",
    ),
    (
        "command: delete of a range",
        Command(table=b"t", type=Command.DELETE, kv=KeyValue(key=b"\0"), range_end=b"\0", count=True),
        "0a017410011a030a01004201005801",
    ),
    (
        "command: sequence",
        Command(
            type=Command.SEQUENCE,
            leader_index=9,
            sequence=[
                Command(table=b"t", type=Command.PUT, kv=KeyValue(key=b"k", value=b"v"), leader_index=8),
                Command(type=Command.DUMMY, leader_index=9),
            ],
        ),
        "10062809520d0a01741a060a016b2201762808520410022809",
    ),
    (
        "command result",
        CommandResult(responses=[ResponseOp(response_put=ResponseOp.Put())], revision=7),
        "0a0212001007",
    ),
    ("replicate request", ReplicateRequest(table=b"t", leader_index=1), "0a01741001"),
    (
        "replicate response: commands",
        ReplicateResponse(
            commands_response=ReplicateCommandsResponse(
                commands=[
                    ReplicateCommand(
                        leader_index=3,
                        command=Command(table=b"t", type=Command.PUT, kv=KeyValue(key=b"k"), leader_index=3),
                    )
                ]
            ),
            leader_index=300,
        ),
        "0a100a0e0803120a0a01741a030a016b280340ac02",
    ),
    (
        "replicate response: use snapshot",
        ReplicateResponse(error_response=ReplicateErrResponse(error=USE_SNAPSHOT)),
        "1200",
    ),
    (
        "replicate response: leader behind",
        ReplicateResponse(error_response=ReplicateErrResponse(error=LEADER_BEHIND)),
        "12020801",
    ),
    ("replicate response: end of stream", ReplicateResponse(leader_index=300), "40ac02"),
    (
        "metadata response",
        MetadataResponse(tables=[Table(name="t", type=Table.REPLICATED), Table(name="u", type=Table.LOCAL)]),
        "0a030a01740a050a01751001",
    ),
    ("snapshot chunk", SnapshotChunk(data=b"ab", len=2), "0a0261621002"),
    ("restore message: info", RestoreMessage(info=RestoreInfo(table=b"t")), "0a030a0174"),
    ("restore message: empty chunk", RestoreMessage(chunk=SnapshotChunk()), "1200"),
    ("reset request", ResetRequest(table=b"t", reset_all=True), "0a01741001"),
    (
        "member list response",
        MemberListResponse(
            cluster="c",
            members=[Member(id="1", name="n", peerURLs=["p:1"], clientURLs=["http://c:1"])],
        ),
        "0a016312170a013112016e1a03703a31220a687474703a2f2f633a31",
    ),
    (
        "table status",
        TableStatus(leader="1", raftIndex=5, raftTerm=2, raftAppliedIndex=5),
        "220131280530023805",
    ),
    ("status request", StatusRequest(config=True), "2001"),
    (
        "status response",
        StatusResponse(
            id="1",
            version="0.5.2",
            info="i",
            tables={"t": TableStatus(leader="1")},
            config=CONFIG,
            errors=["e"],
        ),
        "0a01311205302e352e321a016922080a017412032201312a120a100a03612e62120911000000000000f03f420165",
    ),
    (
        "list tables response",
        ListTablesResponse(tables=[TableInfo(name="t", id="10001")]),
        "0a0a0a017412053130303031",
    ),
]


@pytest.mark.parametrize(("message", "expected"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS])
def test_wire_vector(message: Message, expected: str) -> None:
    wire = bytes.fromhex(expected)
    assert message.SerializeToString(deterministic=True).hex() == expected
    assert type(message).FromString(wire) == message


def test_early_member_list_carries_a_header_where_the_current_one_has_a_name() -> None:
    early = EarlyMemberListResponse(header=ResponseHeader(shard_id=1), members=[Member(id="1")])
    assert early.SerializeToString().hex() == "0a020801" + "12030a0131"


def test_member_list_without_field_1_reads_the_same_in_both_forms() -> None:
    wire = MemberListResponse(members=[Member(id="1", name="n")]).SerializeToString()
    assert EarlyMemberListResponse.FromString(wire).SerializeToString() == wire


def test_early_table_status_numbers_the_leader() -> None:
    assert EarlyTableStatus(leader=1, raftTerm=2).SerializeToString().hex() == "20013002"
    # A reader of the current form skips it instead of failing.
    assert TableStatus.FromString(bytes.fromhex("20013002")).raftTerm == 2
