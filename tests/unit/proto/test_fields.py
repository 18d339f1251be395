"""Every field number and enum value of the etcd API, and those of Regatta that leave holes.

A row is a message and its fields as name=number:type, with "*" for repeated, "?" for a presence bit and "/x" for a
member of oneof x. The rows were taken from the APIs' wire descriptions, not from the .proto files they check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.descriptor import FieldDescriptor

from proto.etcd import auth_pb2, election_pb2, kv_pb2, lock_pb2, rpc_pb2
from proto.regatta import early_pb2, maintenance_pb2, mvcc_pb2, regatta_pb2, replication_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor

ETCD_FILES = [m.DESCRIPTOR for m in (kv_pb2, auth_pb2, rpc_pb2, lock_pb2, election_pb2)]
REGATTA_FILES = [m.DESCRIPTOR for m in (mvcc_pb2, regatta_pb2, replication_pb2, maintenance_pb2, early_pb2)]

ETCD_MESSAGES = """
    etcdserverpb.HashRequest
    etcdserverpb.SnapshotRequest
    etcdserverpb.WatchProgressRequest
    etcdserverpb.LeaseLeasesRequest
    etcdserverpb.DefragmentRequest
    etcdserverpb.StatusRequest
    etcdserverpb.AuthEnableRequest
    etcdserverpb.AuthDisableRequest
    etcdserverpb.AuthStatusRequest
    etcdserverpb.AuthUserListRequest
    etcdserverpb.AuthRoleListRequest
    etcdserverpb.CompactionResponse  header=1:ResponseHeader
    etcdserverpb.LeaseRevokeResponse  header=1:ResponseHeader
    etcdserverpb.LeaseCheckpointResponse  header=1:ResponseHeader
    etcdserverpb.DefragmentResponse  header=1:ResponseHeader
    etcdserverpb.MoveLeaderResponse  header=1:ResponseHeader
    etcdserverpb.AuthEnableResponse  header=1:ResponseHeader
    etcdserverpb.AuthDisableResponse  header=1:ResponseHeader
    etcdserverpb.AuthUserAddResponse  header=1:ResponseHeader
    etcdserverpb.AuthUserDeleteResponse  header=1:ResponseHeader
    etcdserverpb.AuthUserChangePasswordResponse  header=1:ResponseHeader
    etcdserverpb.AuthUserGrantRoleResponse  header=1:ResponseHeader
    etcdserverpb.AuthUserRevokeRoleResponse  header=1:ResponseHeader
    etcdserverpb.AuthRoleAddResponse  header=1:ResponseHeader
    etcdserverpb.AuthRoleDeleteResponse  header=1:ResponseHeader
    etcdserverpb.AuthRoleGrantPermissionResponse  header=1:ResponseHeader
    etcdserverpb.AuthRoleRevokePermissionResponse  header=1:ResponseHeader
    v3lockpb.UnlockResponse  header=1:ResponseHeader
    v3electionpb.ResignResponse  header=1:ResponseHeader
    v3electionpb.ProclaimResponse  header=1:ResponseHeader
    etcdserverpb.ResponseHeader  cluster_id=1:uint64 member_id=2:uint64 revision=3:int64
        raft_term=4:uint64
    etcdserverpb.RangeRequest  key=1:bytes range_end=2:bytes limit=3:int64 revision=4:int64
        sort_order=5:SortOrder sort_target=6:SortTarget serializable=7:bool keys_only=8:bool
        count_only=9:bool min_mod_revision=10:int64 max_mod_revision=11:int64
        min_create_revision=12:int64 max_create_revision=13:int64
    etcdserverpb.RangeResponse  header=1:ResponseHeader kvs=2:KeyValue* more=3:bool count=4:int64
    etcdserverpb.RangeStreamResponse  range_response=1:RangeResponse
    etcdserverpb.PutRequest  key=1:bytes value=2:bytes lease=3:int64 prev_kv=4:bool ignore_value=5:bool
        ignore_lease=6:bool
    etcdserverpb.PutResponse  header=1:ResponseHeader prev_kv=2:KeyValue
    etcdserverpb.DeleteRangeRequest  key=1:bytes range_end=2:bytes prev_kv=3:bool
    etcdserverpb.DeleteRangeResponse  header=1:ResponseHeader deleted=2:int64 prev_kvs=3:KeyValue*
    etcdserverpb.RequestOp  request_range=1:RangeRequest/request request_put=2:PutRequest/request
        request_delete_range=3:DeleteRangeRequest/request request_txn=4:TxnRequest/request
    etcdserverpb.ResponseOp  response_range=1:RangeResponse/response response_put=2:PutResponse/response
        response_delete_range=3:DeleteRangeResponse/response response_txn=4:TxnResponse/response
    etcdserverpb.Compare  result=1:CompareResult target=2:CompareTarget key=3:bytes
        version=4:int64/target_union create_revision=5:int64/target_union
        mod_revision=6:int64/target_union value=7:bytes/target_union lease=8:int64/target_union
        range_end=64:bytes
    etcdserverpb.TxnRequest  compare=1:Compare* success=2:RequestOp* failure=3:RequestOp*
    etcdserverpb.TxnResponse  header=1:ResponseHeader succeeded=2:bool responses=3:ResponseOp*
    etcdserverpb.CompactionRequest  revision=1:int64 physical=2:bool
    etcdserverpb.HashKVRequest  revision=1:int64
    etcdserverpb.HashKVResponse  header=1:ResponseHeader hash=2:uint32 compact_revision=3:int64
    etcdserverpb.HashResponse  header=1:ResponseHeader hash=2:uint32
    etcdserverpb.SnapshotResponse  header=1:ResponseHeader remaining_bytes=2:uint64 blob=3:bytes
    etcdserverpb.WatchRequest  create_request=1:WatchCreateRequest/request_union
        cancel_request=2:WatchCancelRequest/request_union
        progress_request=3:WatchProgressRequest/request_union
    etcdserverpb.WatchCreateRequest  key=1:bytes range_end=2:bytes start_revision=3:int64
        progress_notify=4:bool filters=5:FilterType* prev_kv=6:bool watch_id=7:int64 fragment=8:bool
    etcdserverpb.WatchCancelRequest  watch_id=1:int64
    etcdserverpb.WatchResponse  header=1:ResponseHeader watch_id=2:int64 created=3:bool canceled=4:bool
        compact_revision=5:int64 cancel_reason=6:string fragment=7:bool events=11:Event*
    etcdserverpb.LeaseGrantRequest  TTL=1:int64 ID=2:int64
    etcdserverpb.LeaseGrantResponse  header=1:ResponseHeader ID=2:int64 TTL=3:int64 error=4:string
    etcdserverpb.LeaseRevokeRequest  ID=1:int64
    etcdserverpb.LeaseCheckpoint  ID=1:int64 remaining_TTL=2:int64
    etcdserverpb.LeaseCheckpointRequest  checkpoints=1:LeaseCheckpoint*
    etcdserverpb.LeaseKeepAliveRequest  ID=1:int64
    etcdserverpb.LeaseKeepAliveResponse  header=1:ResponseHeader ID=2:int64 TTL=3:int64
    etcdserverpb.LeaseTimeToLiveRequest  ID=1:int64 keys=2:bool
    etcdserverpb.LeaseTimeToLiveResponse  header=1:ResponseHeader ID=2:int64 TTL=3:int64
        grantedTTL=4:int64 keys=5:bytes*
    etcdserverpb.LeaseStatus  ID=1:int64
    etcdserverpb.LeaseLeasesResponse  header=1:ResponseHeader leases=2:LeaseStatus*
    etcdserverpb.Member  ID=1:uint64 name=2:string peerURLs=3:string* clientURLs=4:string*
        isLearner=5:bool
    etcdserverpb.MemberAddRequest  peerURLs=1:string* isLearner=2:bool
    etcdserverpb.MemberAddResponse  header=1:ResponseHeader member=2:Member members=3:Member*
    etcdserverpb.MemberRemoveRequest  ID=1:uint64
    etcdserverpb.MemberRemoveResponse  header=1:ResponseHeader members=2:Member*
    etcdserverpb.MemberUpdateRequest  ID=1:uint64 peerURLs=2:string*
    etcdserverpb.MemberUpdateResponse  header=1:ResponseHeader members=2:Member*
    etcdserverpb.MemberListRequest  linearizable=1:bool
    etcdserverpb.MemberListResponse  header=1:ResponseHeader members=2:Member*
    etcdserverpb.MemberPromoteRequest  ID=1:uint64
    etcdserverpb.MemberPromoteResponse  header=1:ResponseHeader members=2:Member*
    etcdserverpb.MoveLeaderRequest  targetID=1:uint64
    etcdserverpb.AlarmRequest  action=1:AlarmAction memberID=2:uint64 alarm=3:AlarmType
    etcdserverpb.AlarmMember  memberID=1:uint64 alarm=2:AlarmType
    etcdserverpb.AlarmResponse  header=1:ResponseHeader alarms=2:AlarmMember*
    etcdserverpb.DowngradeRequest  action=1:DowngradeAction version=2:string
    etcdserverpb.DowngradeResponse  header=1:ResponseHeader version=2:string
    etcdserverpb.StatusResponse  header=1:ResponseHeader version=2:string dbSize=3:int64 leader=4:uint64
        raftIndex=5:uint64 raftTerm=6:uint64 raftAppliedIndex=7:uint64 errors=8:string*
        dbSizeInUse=9:int64 isLearner=10:bool
    etcdserverpb.AuthenticateRequest  name=1:string password=2:string
    etcdserverpb.AuthUserAddRequest  name=1:string password=2:string options=3:UserAddOptions
        hashedPassword=4:string
    etcdserverpb.AuthUserGetRequest  name=1:string
    etcdserverpb.AuthUserDeleteRequest  name=1:string
    etcdserverpb.AuthUserChangePasswordRequest  name=1:string password=2:string hashedPassword=3:string
    etcdserverpb.AuthUserGrantRoleRequest  user=1:string role=2:string
    etcdserverpb.AuthUserRevokeRoleRequest  name=1:string role=2:string
    etcdserverpb.AuthRoleAddRequest  name=1:string
    etcdserverpb.AuthRoleGetRequest  role=1:string
    etcdserverpb.AuthRoleDeleteRequest  role=1:string
    etcdserverpb.AuthRoleGrantPermissionRequest  name=1:string perm=2:Permission
    etcdserverpb.AuthRoleRevokePermissionRequest  role=1:string key=2:bytes range_end=3:bytes
    etcdserverpb.AuthStatusResponse  header=1:ResponseHeader enabled=2:bool authRevision=3:uint64
    etcdserverpb.AuthenticateResponse  header=1:ResponseHeader token=2:string
    etcdserverpb.AuthUserGetResponse  header=1:ResponseHeader roles=2:string*
    etcdserverpb.AuthRoleGetResponse  header=1:ResponseHeader perm=2:Permission*
    etcdserverpb.AuthRoleListResponse  header=1:ResponseHeader roles=2:string*
    etcdserverpb.AuthUserListResponse  header=1:ResponseHeader users=2:string*
    mvccpb.KeyValue  key=1:bytes create_revision=2:int64 mod_revision=3:int64 version=4:int64
        value=5:bytes lease=6:int64
    mvccpb.Event  type=1:EventType kv=2:KeyValue prev_kv=3:KeyValue
    authpb.UserAddOptions  no_password=1:bool
    authpb.User  name=1:bytes password=2:bytes roles=3:string* options=4:UserAddOptions
    authpb.Permission  permType=1:Type key=2:bytes range_end=3:bytes
    authpb.Role  name=1:bytes keyPermission=2:Permission*
    v3lockpb.LockRequest  name=1:bytes lease=2:int64
    v3lockpb.LockResponse  header=1:ResponseHeader key=2:bytes
    v3lockpb.UnlockRequest  key=1:bytes
    v3electionpb.CampaignRequest  name=1:bytes lease=2:int64 value=3:bytes
    v3electionpb.CampaignResponse  header=1:ResponseHeader leader=2:LeaderKey
    v3electionpb.LeaderKey  name=1:bytes key=2:bytes rev=3:int64 lease=4:int64
    v3electionpb.LeaderRequest  name=1:bytes
    v3electionpb.LeaderResponse  header=1:ResponseHeader kv=2:KeyValue
    v3electionpb.ResignRequest  leader=1:LeaderKey
    v3electionpb.ProclaimRequest  leader=1:LeaderKey value=2:bytes
"""

ETCD_ENUMS = """
    etcdserverpb.AlarmType  NONE=0 NOSPACE=1 CORRUPT=2
    etcdserverpb.RangeRequest.SortOrder  NONE=0 ASCEND=1 DESCEND=2
    etcdserverpb.RangeRequest.SortTarget  KEY=0 VERSION=1 CREATE=2 MOD=3 VALUE=4
    etcdserverpb.Compare.CompareResult  EQUAL=0 GREATER=1 LESS=2 NOT_EQUAL=3
    etcdserverpb.Compare.CompareTarget  VERSION=0 CREATE=1 MOD=2 VALUE=3 LEASE=4
    etcdserverpb.WatchCreateRequest.FilterType  NOPUT=0 NODELETE=1
    etcdserverpb.AlarmRequest.AlarmAction  GET=0 ACTIVATE=1 DEACTIVATE=2
    etcdserverpb.DowngradeRequest.DowngradeAction  VALIDATE=0 ENABLE=1 CANCEL=2
    mvccpb.Event.EventType  PUT=0 DELETE=1
    authpb.Permission.Type  READ=0 WRITE=1 READWRITE=2
"""

REGATTA_MESSAGES = """
    mvcc.v1.Command  table=1:bytes type=2:CommandType kv=3:KeyValue leader_index=5:uint64? batch=6:KeyValue*
        txn=7:Txn? range_end=8:bytes? prev_kvs=9:bool sequence=10:Command* count=11:bool
    mvcc.v1.Compare  result=1:CompareResult target=2:CompareTarget key=3:bytes value=4:bytes/target_union
        range_end=64:bytes
    mvcc.v1.RequestOp.DeleteRange  key=1:bytes range_end=2:bytes prev_kv=4:bool count=5:bool
    mvcc.v1.ResponseOp.Range  kvs=1:KeyValue* more=2:bool count=3:int64
    regatta.v1.RangeResponse  header=1:ResponseHeader kvs=3:KeyValue* more=4:bool count=5:int64
    regatta.v1.MemberListRequest  linearizable=1:bool
    regatta.v1.MemberListResponse  cluster=1:string members=2:Member*
    boathouse.regatta_early.MemberListResponse  header=1:ResponseHeader members=2:Member*
    regatta.v1.TableStatus  logSize=2:int64 dbSize=3:int64 leader=4:string raftIndex=5:uint64
        raftTerm=6:uint64 raftAppliedIndex=7:uint64
    boathouse.regatta_early.TableStatus  logSize=2:int64 dbSize=3:int64 leader=4:uint64 raftIndex=5:uint64
        raftTerm=6:uint64 raftAppliedIndex=7:uint64
    regatta.v1.StatusRequest  config=4:bool
    regatta.v1.StatusResponse  id=1:string version=2:string info=3:string tables=4:TablesEntry*
        config=5:Struct errors=8:string*
    boathouse.regatta_early.StatusResponse  id=1:string version=2:string info=3:string
        tables=4:TablesEntry* config=5:Struct errors=8:string*
    regatta.v1.CreateTableRequest  name=1:string config=5:Struct
    regatta.v1.CreateTableResponse  id=1:string
    regatta.v1.DeleteTableRequest  name=1:string
    regatta.v1.TableInfo  name=1:string id=2:string config=5:Struct
    replication.v1.SnapshotChunk  data=1:bytes len=2:uint64 index=3:uint64 pairs=90:bytes
        facts=170:bytes records=171:uint64 sha256=172:bytes
    mvcc.v1.KeyValue  key=1:bytes create_revision=2:int64 mod_revision=3:int64 value=4:bytes
        version=170:int64 lease=171:int64 id=172:fixed64
    maintenance.v1.BackupRequest  table=1:bytes boathouse=170:BackupOptions
    maintenance.v1.RestoreMessage  info=1:RestoreInfo/data chunk=2:SnapshotChunk/data
    maintenance.v1.RestoreInfo  table=1:bytes boathouse=170:Facts
    maintenance.v1.RestoreResponse  revision=170:int64 keys=171:uint64
    maintenance.v1.ResetRequest  table=1:bytes reset_all=2:bool
    maintenance.v1.ResetResponse
    replication.v1.ReplicateResponse  commands_response=1:ReplicateCommandsResponse/response
        error_response=2:ReplicateErrResponse/response leader_index=8:uint64 changes=90:bytes users=91:bytes
    replication.v1.Boathouse  version=1:uint32 table_id=2:uint64 follower=3:string identity=4:string waits=5:bool
"""

REGATTA_ENUMS = """
    mvcc.v1.Command.CommandType  PUT=0 DELETE=1 DUMMY=2 PUT_BATCH=3 DELETE_BATCH=4 TXN=5 SEQUENCE=6
    mvcc.v1.Compare.CompareResult  EQUAL=0 GREATER=1 LESS=2 NOT_EQUAL=3
    mvcc.v1.Compare.CompareTarget  VALUE=0
    replication.v1.Table.Type  REPLICATED=0 LOCAL=1
    replication.v1.ReplicateError  USE_SNAPSHOT=0 LEADER_BEHIND=1
"""

SCALARS = {
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_FIXED64: "fixed64",
}


def rows(table: str) -> dict[str, list[str]]:
    """The table's rows by name; an indented row continues the one before."""
    parsed: dict[str, list[str]] = {}
    for line in table.strip("\n").splitlines():
        words = line.split()
        if line.startswith(" " * 8):
            parsed[next(reversed(parsed))] += words
        else:
            parsed[words[0]] = words[1:]
    return parsed


def messages(files: list[FileDescriptor]) -> dict[str, list[str]]:
    """What the generated code declares, in the form of rows()."""

    def walk(message: Descriptor) -> Iterator[Descriptor]:
        if not message.GetOptions().map_entry:
            yield message
            for nested in message.nested_types:
                yield from walk(nested)

    return {
        message.full_name: [as_word(field) for field in message.fields]
        for file in files
        for top in file.message_types_by_name.values()
        for message in walk(top)
    }


def as_word(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    word = f"{field.name}={field.number}:{kind.name if kind else SCALARS[field.type]}"
    if field.is_repeated:
        return word + "*"
    oneof = field.containing_oneof
    if oneof is None:
        return word
    # A presence bit is a oneof of its own, named after the field.
    return word + ("?" if oneof.name == f"_{field.name}" else f"/{oneof.name}")


def enums(files: list[FileDescriptor]) -> dict[str, list[str]]:
    def values(enum: EnumDescriptor) -> list[str]:
        return [f"{value.name}={value.number}" for value in enum.values]

    found = {enum.full_name: values(enum) for file in files for enum in file.enum_types_by_name.values()}
    for file in files:
        for message in file.message_types_by_name.values():
            found |= {enum.full_name: values(enum) for enum in message.enum_types}
    return found


def test_etcd_messages_are_all_listed() -> None:
    assert messages(ETCD_FILES).keys() == rows(ETCD_MESSAGES).keys()


@pytest.mark.parametrize(("name", "fields"), rows(ETCD_MESSAGES).items(), ids=rows(ETCD_MESSAGES))
def test_etcd_fields(name: str, fields: list[str]) -> None:
    assert messages(ETCD_FILES)[name] == fields


def test_etcd_enums() -> None:
    assert enums(ETCD_FILES) == rows(ETCD_ENUMS)


@pytest.mark.parametrize(("name", "fields"), rows(REGATTA_MESSAGES).items(), ids=rows(REGATTA_MESSAGES))
def test_regatta_fields(name: str, fields: list[str]) -> None:
    assert messages(REGATTA_FILES)[name] == fields


def test_regatta_enums() -> None:
    assert enums(REGATTA_FILES) == rows(REGATTA_ENUMS)


def test_etcd_and_regatta_headers_are_field_1() -> None:
    """A coordinator puts the encoded header in front of a body, which works only where it is the first field."""
    for file in (*ETCD_FILES, *REGATTA_FILES):
        for message in file.message_types_by_name.values():
            if "header" in message.fields_by_name:
                assert message.fields_by_name["header"].number == 1, message.full_name
