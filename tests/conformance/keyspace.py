"""A keyspace behind an endpoint, asked raw over gRPC, with answers that can be compared between systems.

Two systems never have the same cluster id, and rarely the same revisions. So everything here speaks of
revisions relative to a base, the keyspace's revision when a program starts: ORIGIN stands for the base,
ORIGIN + 1 for the first change after it. Numbers below ORIGIN / 2 (zero, negative, tiny) mean themselves."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import grpc
from google.protobuf import text_format

from proto.etcd import election_pb2 as election
from proto.etcd import lock_pb2 as lock
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from types import TracebackType

    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")

ORIGIN: Final = 1_000_000
"""The base revision, in relative numbers. Far above what a program adds, far below what a shifted bound
reaches."""

PAST_MAX: Final = 20
"""Programs ask for no revision further back than this: a keyspace begins above it, so that none is negative."""

REVISIONS: Final = {
    "revision",
    "create_revision",
    "mod_revision",
    "min_mod_revision",
    "max_mod_revision",
    "min_create_revision",
    "max_create_revision",
    "rev",
    "start_revision",
    "compact_revision",
}
CALL_TIMEOUT_S: Final = 15.0

METHODS: Final[dict[type[Message], tuple[str, type[Message]]]] = {
    etcd.RangeRequest: ("/etcdserverpb.KV/Range", etcd.RangeResponse),
    etcd.PutRequest: ("/etcdserverpb.KV/Put", etcd.PutResponse),
    etcd.DeleteRangeRequest: ("/etcdserverpb.KV/DeleteRange", etcd.DeleteRangeResponse),
    etcd.TxnRequest: ("/etcdserverpb.KV/Txn", etcd.TxnResponse),
    etcd.CompactionRequest: ("/etcdserverpb.KV/Compact", etcd.CompactionResponse),
    etcd.LeaseGrantRequest: ("/etcdserverpb.Lease/LeaseGrant", etcd.LeaseGrantResponse),
    etcd.LeaseRevokeRequest: ("/etcdserverpb.Lease/LeaseRevoke", etcd.LeaseRevokeResponse),
    etcd.LeaseTimeToLiveRequest: ("/etcdserverpb.Lease/LeaseTimeToLive", etcd.LeaseTimeToLiveResponse),
    etcd.LeaseLeasesRequest: ("/etcdserverpb.Lease/LeaseLeases", etcd.LeaseLeasesResponse),
    etcd.LeaseKeepAliveRequest: ("/etcdserverpb.Lease/LeaseKeepAlive", etcd.LeaseKeepAliveResponse),
    etcd.AlarmRequest: ("/etcdserverpb.Maintenance/Alarm", etcd.AlarmResponse),
    etcd.HashKVRequest: ("/etcdserverpb.Maintenance/HashKV", etcd.HashKVResponse),
    etcd.StatusRequest: ("/etcdserverpb.Maintenance/Status", etcd.StatusResponse),
    etcd.AuthEnableRequest: ("/etcdserverpb.Auth/AuthEnable", etcd.AuthEnableResponse),
    etcd.AuthDisableRequest: ("/etcdserverpb.Auth/AuthDisable", etcd.AuthDisableResponse),
    etcd.AuthStatusRequest: ("/etcdserverpb.Auth/AuthStatus", etcd.AuthStatusResponse),
    etcd.AuthenticateRequest: ("/etcdserverpb.Auth/Authenticate", etcd.AuthenticateResponse),
    etcd.AuthUserAddRequest: ("/etcdserverpb.Auth/UserAdd", etcd.AuthUserAddResponse),
    etcd.AuthUserGetRequest: ("/etcdserverpb.Auth/UserGet", etcd.AuthUserGetResponse),
    etcd.AuthUserListRequest: ("/etcdserverpb.Auth/UserList", etcd.AuthUserListResponse),
    etcd.AuthUserDeleteRequest: ("/etcdserverpb.Auth/UserDelete", etcd.AuthUserDeleteResponse),
    etcd.AuthUserChangePasswordRequest: (
        "/etcdserverpb.Auth/UserChangePassword", etcd.AuthUserChangePasswordResponse,
    ),
    etcd.AuthUserGrantRoleRequest: ("/etcdserverpb.Auth/UserGrantRole", etcd.AuthUserGrantRoleResponse),
    etcd.AuthUserRevokeRoleRequest: ("/etcdserverpb.Auth/UserRevokeRole", etcd.AuthUserRevokeRoleResponse),
    etcd.AuthRoleAddRequest: ("/etcdserverpb.Auth/RoleAdd", etcd.AuthRoleAddResponse),
    etcd.AuthRoleGetRequest: ("/etcdserverpb.Auth/RoleGet", etcd.AuthRoleGetResponse),
    etcd.AuthRoleListRequest: ("/etcdserverpb.Auth/RoleList", etcd.AuthRoleListResponse),
    etcd.AuthRoleDeleteRequest: ("/etcdserverpb.Auth/RoleDelete", etcd.AuthRoleDeleteResponse),
    etcd.AuthRoleGrantPermissionRequest: (
        "/etcdserverpb.Auth/RoleGrantPermission", etcd.AuthRoleGrantPermissionResponse,
    ),
    etcd.AuthRoleRevokePermissionRequest: (
        "/etcdserverpb.Auth/RoleRevokePermission", etcd.AuthRoleRevokePermissionResponse,
    ),
    lock.LockRequest: ("/v3lockpb.Lock/Lock", lock.LockResponse),
    lock.UnlockRequest: ("/v3lockpb.Lock/Unlock", lock.UnlockResponse),
    election.CampaignRequest: ("/v3electionpb.Election/Campaign", election.CampaignResponse),
    election.ProclaimRequest: ("/v3electionpb.Election/Proclaim", election.ProclaimResponse),
    election.LeaderRequest: ("/v3electionpb.Election/Leader", election.LeaderResponse),
    election.ResignRequest: ("/v3electionpb.Election/Resign", election.ResignResponse),
}  # fmt: skip

EVERYTHING: Final = b"\0"
MEMBER: Final = 1
"""Stands for the member that is asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response in relative revisions and without ids, or an error's code and text."""

    code: str
    text: str
    message: Any = None

    def __str__(self) -> str:
        if self.message is None:
            return f"{self.code}: {self.text}"
        return text_format.MessageToString(self.message, as_one_line=True)


def _refusal(error: grpc.RpcError) -> Answer:
    call = cast("grpc.Call", error)
    return Answer(call.code().name, call.details() or "")


class Keyspace:
    """One table of one endpoint."""

    def __init__(self, endpoint: str, table: str = "default") -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        self.channel = grpc.insecure_channel(endpoint, options=options)
        self.metadata = (("table", table),)
        self.base = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def begin(self) -> None:
        """Make the keyspace empty, with its whole history compacted, and put the base here."""
        self.base = ORIGIN
        for alarm in self.call(etcd.AlarmRequest()).message.alarms:
            deactivate = etcd.AlarmRequest.DEACTIVATE
            self.call(etcd.AlarmRequest(action=deactivate, memberID=alarm.memberID, alarm=alarm.alarm))
        for lease in self.call(etcd.LeaseLeasesRequest()).message.leases:
            self.call(etcd.LeaseRevokeRequest(ID=lease.ID))
        self.call(etcd.DeleteRangeRequest(key=EVERYTHING, range_end=EVERYTHING))
        revision = 0
        while revision < PAST_MAX:
            self.call(etcd.PutRequest(key=b"reset"))
            emptied = self.call(etcd.DeleteRangeRequest(key=EVERYTHING, range_end=EVERYTHING))
            revision = emptied.message.header.revision
        self.call(etcd.CompactionRequest(revision=revision))
        self.base = revision

    def absolute(self, request: M) -> M:
        """The request with the revisions of this keyspace."""
        absolute = type(request).FromString(request.SerializeToString())
        self._shift(absolute, out=True)
        return absolute

    def make_relative(self, message: Message) -> None:
        """Take the revisions of this keyspace out of a response."""
        self._shift(message, out=False)

    def call(self, request: Message, *, timeout_s: float = CALL_TIMEOUT_S, token: str = "") -> Answer:
        """Send a request that speaks of relative revisions; the answer does so too."""
        path, response = METHODS[type(request)]
        metadata = (*self.metadata, ("token", token)) if token else self.metadata
        try:
            body = self._ask(
                path, self._to_member(self.absolute(request)), timeout=timeout_s, metadata=metadata
            )
        except grpc.RpcError as error:
            return _refusal(error)
        return Answer("OK", "", self._comparable(response.FromString(body)))

    def stream(self, request: etcd.RangeRequest) -> Answer:
        """Send a request of RangeStream; the answer is that of Range, put together from its parts."""
        stub = self.channel.unary_stream(
            "/etcdserverpb.KV/RangeStream",
            etcd.RangeRequest.SerializeToString,
            etcd.RangeStreamResponse.FromString,
        )
        merged = etcd.RangeResponse()
        try:
            for part in stub(self.absolute(request), timeout=CALL_TIMEOUT_S, metadata=self.metadata):
                merged.MergeFrom(part.range_response)
        except grpc.RpcError as error:
            return _refusal(error)
        return Answer("OK", "", self._comparable(merged))

    def _ask(self, path: str, request: Message, **call: Any) -> bytes:
        body = request.SerializeToString()
        if isinstance(request, etcd.LeaseKeepAliveRequest):
            (answer,) = self.channel.stream_stream(path, None, None)(iter([body]), **call)
            return cast("bytes", answer)
        return cast("bytes", self.channel.unary_unary(path, None, None)(body, **call))

    def _to_member(self, request: M) -> M:
        if isinstance(request, etcd.AlarmRequest) and request.memberID == MEMBER:
            request.memberID = self._member_id
        return request

    @functools.cached_property
    def _member_id(self) -> int:
        path, response = METHODS[etcd.StatusRequest]
        body = self._ask(path, etcd.StatusRequest(), timeout=CALL_TIMEOUT_S, metadata=self.metadata)
        return cast("etcd.StatusResponse", response.FromString(body)).header.member_id

    def _comparable(self, message: M) -> M:
        """The answer in relative revisions, without ids and what etcd defines no order of."""
        message.header.cluster_id = message.header.member_id = message.header.raft_term = 0  # type: ignore[attr-defined]
        self.make_relative(message)
        match message:
            case etcd.LeaseTimeToLiveResponse():
                message.keys.sort()
            case etcd.AlarmResponse():
                for alarm in message.alarms:
                    if alarm.memberID == self._member_id:
                        alarm.memberID = MEMBER
                message.alarms.sort(key=lambda alarm: alarm.alarm)
            case etcd.HashKVResponse():
                message.hash = 0  # of other revisions than the other's
                message.DiscardUnknownFields()  # SAYS_WHICH_REVISION_WAS_HASHED
        return message

    def _shift(self, message: Message, *, out: bool) -> None:
        """Turn revisions from relative to absolute (out) or back, in the message and all below it."""
        for field, value in message.ListFields():
            if field.message_type is not None:
                for part in [value] if hasattr(value, "ListFields") else value:
                    self._shift(part, out=out)
            elif field.name in REVISIONS:
                setattr(message, field.name, self._shifted(value, out=out))

    def _shifted(self, revision: int, *, out: bool) -> int:
        if out:
            return revision - ORIGIN + self.base if revision > ORIGIN // 2 else revision
        return revision - self.base + ORIGIN
