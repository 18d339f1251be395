"""Every method of both public APIs, with its messages and its kind, against lists kept here by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto.etcd import election_pb2, lock_pb2, rpc_pb2
from proto.regatta import maintenance_pb2, regatta_pb2, replication_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

# ">" marks a streamed response, "<" a streamed request, "<>" both; no mark is unary.
ETCD = """
    etcdserverpb.KV/Range               RangeRequest                     RangeResponse
    etcdserverpb.KV/RangeStream         RangeRequest                     RangeStreamResponse               >
    etcdserverpb.KV/Put                 PutRequest                       PutResponse
    etcdserverpb.KV/DeleteRange         DeleteRangeRequest               DeleteRangeResponse
    etcdserverpb.KV/Txn                 TxnRequest                       TxnResponse
    etcdserverpb.KV/Compact             CompactionRequest                CompactionResponse
    etcdserverpb.Watch/Watch            WatchRequest                     WatchResponse                     <>
    etcdserverpb.Lease/LeaseGrant       LeaseGrantRequest                LeaseGrantResponse
    etcdserverpb.Lease/LeaseRevoke      LeaseRevokeRequest               LeaseRevokeResponse
    etcdserverpb.Lease/LeaseKeepAlive   LeaseKeepAliveRequest            LeaseKeepAliveResponse            <>
    etcdserverpb.Lease/LeaseTimeToLive  LeaseTimeToLiveRequest           LeaseTimeToLiveResponse
    etcdserverpb.Lease/LeaseLeases      LeaseLeasesRequest               LeaseLeasesResponse
    etcdserverpb.Cluster/MemberAdd      MemberAddRequest                 MemberAddResponse
    etcdserverpb.Cluster/MemberRemove   MemberRemoveRequest              MemberRemoveResponse
    etcdserverpb.Cluster/MemberUpdate   MemberUpdateRequest              MemberUpdateResponse
    etcdserverpb.Cluster/MemberList     MemberListRequest                MemberListResponse
    etcdserverpb.Cluster/MemberPromote  MemberPromoteRequest             MemberPromoteResponse
    etcdserverpb.Maintenance/Alarm      AlarmRequest                     AlarmResponse
    etcdserverpb.Maintenance/Status     StatusRequest                    StatusResponse
    etcdserverpb.Maintenance/Defragment DefragmentRequest                DefragmentResponse
    etcdserverpb.Maintenance/Hash       HashRequest                      HashResponse
    etcdserverpb.Maintenance/HashKV     HashKVRequest                    HashKVResponse
    etcdserverpb.Maintenance/Snapshot   SnapshotRequest                  SnapshotResponse                  >
    etcdserverpb.Maintenance/MoveLeader MoveLeaderRequest                MoveLeaderResponse
    etcdserverpb.Maintenance/Downgrade  DowngradeRequest                 DowngradeResponse
    etcdserverpb.Auth/AuthEnable        AuthEnableRequest                AuthEnableResponse
    etcdserverpb.Auth/AuthDisable       AuthDisableRequest               AuthDisableResponse
    etcdserverpb.Auth/AuthStatus        AuthStatusRequest                AuthStatusResponse
    etcdserverpb.Auth/Authenticate      AuthenticateRequest              AuthenticateResponse
    etcdserverpb.Auth/UserAdd           AuthUserAddRequest               AuthUserAddResponse
    etcdserverpb.Auth/UserGet           AuthUserGetRequest               AuthUserGetResponse
    etcdserverpb.Auth/UserList          AuthUserListRequest              AuthUserListResponse
    etcdserverpb.Auth/UserDelete        AuthUserDeleteRequest            AuthUserDeleteResponse
    etcdserverpb.Auth/UserChangePassword   AuthUserChangePasswordRequest    AuthUserChangePasswordResponse
    etcdserverpb.Auth/UserGrantRole        AuthUserGrantRoleRequest         AuthUserGrantRoleResponse
    etcdserverpb.Auth/UserRevokeRole       AuthUserRevokeRoleRequest        AuthUserRevokeRoleResponse
    etcdserverpb.Auth/RoleAdd              AuthRoleAddRequest               AuthRoleAddResponse
    etcdserverpb.Auth/RoleGet              AuthRoleGetRequest               AuthRoleGetResponse
    etcdserverpb.Auth/RoleList             AuthRoleListRequest              AuthRoleListResponse
    etcdserverpb.Auth/RoleDelete           AuthRoleDeleteRequest            AuthRoleDeleteResponse
    etcdserverpb.Auth/RoleGrantPermission  AuthRoleGrantPermissionRequest   AuthRoleGrantPermissionResponse
    etcdserverpb.Auth/RoleRevokePermission AuthRoleRevokePermissionRequest  AuthRoleRevokePermissionResponse
    v3lockpb.Lock/Lock                  LockRequest                      LockResponse
    v3lockpb.Lock/Unlock                UnlockRequest                    UnlockResponse
    v3electionpb.Election/Campaign      CampaignRequest                  CampaignResponse
    v3electionpb.Election/Proclaim      ProclaimRequest                  ProclaimResponse
    v3electionpb.Election/Leader        LeaderRequest                    LeaderResponse
    v3electionpb.Election/Observe       LeaderRequest                    LeaderResponse                    >
    v3electionpb.Election/Resign        ResignRequest                    ResignResponse
"""

REGATTA = """
    regatta.v1.KV/Range                 RangeRequest                     RangeResponse
    regatta.v1.KV/IterateRange          RangeRequest                     RangeResponse                     >
    regatta.v1.KV/Put                   PutRequest                       PutResponse
    regatta.v1.KV/DeleteRange           DeleteRangeRequest               DeleteRangeResponse
    regatta.v1.KV/Txn                   TxnRequest                       TxnResponse
    regatta.v1.Cluster/MemberList       MemberListRequest                MemberListResponse
    regatta.v1.Cluster/Status           StatusRequest                    StatusResponse
    regatta.v1.Tables/Create            CreateTableRequest               CreateTableResponse
    regatta.v1.Tables/Delete            DeleteTableRequest               DeleteTableResponse
    regatta.v1.Tables/List              ListTablesRequest                ListTablesResponse
    maintenance.v1.Maintenance/Backup   BackupRequest                    SnapshotChunk                     >
    maintenance.v1.Maintenance/Restore  RestoreMessage                   RestoreResponse                   <
    maintenance.v1.Maintenance/Reset    ResetRequest                     ResetResponse
    replication.v1.Metadata/Get         MetadataRequest                  MetadataResponse
    replication.v1.Snapshot/Stream      SnapshotRequest                  SnapshotChunk                     >
    replication.v1.Log/Replicate        ReplicateRequest                 ReplicateResponse                 >
"""


@pytest.mark.parametrize(
    ("expected", "files"),
    [
        (ETCD, [rpc_pb2.DESCRIPTOR, lock_pb2.DESCRIPTOR, election_pb2.DESCRIPTOR]),
        (REGATTA, [regatta_pb2.DESCRIPTOR, maintenance_pb2.DESCRIPTOR, replication_pb2.DESCRIPTOR]),
    ],
    ids=["etcd", "regatta"],
)
def test_methods(expected: str, files: list[FileDescriptor]) -> None:
    served = {
        as_row(method)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert served == {tuple(line.split()) for line in expected.strip().splitlines()}


def test_etcd_has_48_methods_and_one_of_a_later_version() -> None:
    assert len(ETCD.strip().splitlines()) == 48 + 1


def as_row(method: MethodDescriptor) -> tuple[str, ...]:
    kind = "<" * method.client_streaming + ">" * method.server_streaming
    path = f"{method.containing_service.full_name}/{method.name}"
    return (path, method.input_type.name, method.output_type.name, *([kind] if kind else []))
