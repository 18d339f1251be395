"""Every method in one place: what a client may call, and which command a worker gets to see of it.

A new gRPC method is one entry in METHODS and one function in a service; a new command of the state machine is one entry
in COMMANDS and one function in the machine. Nobody else keeps a list.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

LEVEL: Final = 3
"""The newest machine level that this build can apply.

A shard's *machine level* is a number in its replicated state. It says which commands may be proposed (since_level), and
rises when every voter's process has said that it can apply the next (shardworker/replica/levels.py). Whatever changes
the outcome of a command, a limit for example, needs a new level just as a new command does."""

REQUEST_ID_BYTES: Final = 16
"""Every write carries an id of this length; the state machine applies each id once."""


class Kind(enum.Enum):
    """How many messages go each way."""

    UNARY = "unary"
    SERVER_STREAM = "server stream"
    CLIENT_STREAM = "client stream"
    BIDI_STREAM = "bidirectional stream"


class ApiName(enum.Enum):
    """Whose words an answer speaks: limits and error texts go by API."""

    ETCD = "etcd"
    ETCD_CONCURRENCY = "etcd's Lock and Election"
    ETCD_ADMIN = "what etcd's server looks at its user for without a translation of what it finds"
    REGATTA = "regatta"
    REGATTA_TABLES = "the changes of Regatta's Tables"
    BOATHOUSE = "boathouse"
    """What belongs to neither API; told in etcd's words."""
    GRPC = "grpc"
    """gRPC's own services: health and reflection."""


class Access(enum.Enum):
    """What a request is to the shard that serves it."""

    WRITE = "write"
    """Goes through the log; applied exactly once."""
    READ = "read"
    """Answered from the tables: by the leader once it has proved that it leads, else by any replica."""
    LEADER = "leader"
    """Answered by the leader beside the log: it concerns leadership itself."""
    PROVEN_LEADER = "proven leader"
    """Answered by the leader beside the log, once it has proved that it leads, as for a linearizable read."""
    REPLICA = "replica"
    """Answered by the very replica that was asked, whatever its role."""
    INTERNAL = "internal"
    """Goes through the log; proposed by the leader for itself, and never taken from a request."""
    COORDINATOR = "coordinator"
    """Needs no shard, or asks several."""


class Permission(enum.Enum):
    """What a user needs once a table has authentication enabled."""

    NONE = "none"
    KEYS = "keys"
    """The request's own keys decide, for reading or writing."""
    USER = "user"
    """Any user who has proved who he is; of some methods, for some answers, he may need more."""
    ROOT = "root"
    CLUSTER = "cluster"
    """It reaches beyond the table that it names, so it is for who runs the cluster (coordinator/services/guard.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a Request or a log entry carries."""

    access: Access
    since_level: int = 1
    """The machine level that knows it. It is not proposed before every voter of the shard has said that it does."""
    may_only_read: bool = False
    """Of a write: sent without a request id it changes nothing, and is answered as a read."""
    frees_space: bool = False
    """Of a write: it is taken while the disk is nearly full, since it is the way out of that."""


COMMANDS: Final[dict[int, Command]] = {
    frames.ETCD_RANGE: Command(access=Access.READ),
    frames.ETCD_PUT: Command(access=Access.WRITE),
    frames.ETCD_DELETE_RANGE: Command(access=Access.WRITE, frees_space=True),
    frames.ETCD_TXN: Command(access=Access.WRITE, may_only_read=True),
    frames.ETCD_COMPACT: Command(access=Access.WRITE, frees_space=True),
    frames.REGATTA_RANGE: Command(access=Access.READ),
    frames.REGATTA_PUT: Command(access=Access.WRITE),
    frames.REGATTA_DELETE_RANGE: Command(access=Access.WRITE, frees_space=True),
    frames.REGATTA_TXN: Command(access=Access.WRITE, may_only_read=True),
    frames.REGATTA_ITERATE: Command(access=Access.READ),
    frames.TABLE_CREATE: Command(access=Access.WRITE),
    frames.TABLE_DELETE: Command(access=Access.WRITE, since_level=1, frees_space=True),
    frames.TABLE_STATUS: Command(access=Access.READ),
    frames.REPLICA_STATUS: Command(access=Access.REPLICA),
    frames.CURSOR_NEXT: Command(access=Access.REPLICA),
    frames.CURSOR_CLOSE: Command(access=Access.REPLICA),
    frames.TRANSFER_LEADER: Command(access=Access.LEADER),
    frames.CHANGE_MEMBERSHIP: Command(access=Access.LEADER),
    frames.RAISE_LEVEL: Command(access=Access.INTERNAL),
    frames.TABLE_CHANGES: Command(access=Access.REPLICA),
    frames.AUTH_ENABLE: Command(access=Access.WRITE),
    frames.AUTH_DISABLE: Command(access=Access.WRITE, frees_space=True),
    frames.AUTH_STATUS: Command(access=Access.READ),
    frames.AUTH_USER_ADD: Command(access=Access.WRITE),
    frames.AUTH_USER_GET: Command(access=Access.READ),
    frames.AUTH_USER_LIST: Command(access=Access.READ),
    frames.AUTH_USER_DELETE: Command(access=Access.WRITE, frees_space=True),
    frames.AUTH_USER_CHANGE_PASSWORD: Command(access=Access.WRITE),
    frames.AUTH_USER_GRANT_ROLE: Command(access=Access.WRITE),
    frames.AUTH_USER_REVOKE_ROLE: Command(access=Access.WRITE, frees_space=True),
    frames.AUTH_ROLE_ADD: Command(access=Access.WRITE),
    frames.AUTH_ROLE_GET: Command(access=Access.READ),
    frames.AUTH_ROLE_LIST: Command(access=Access.READ),
    frames.AUTH_ROLE_DELETE: Command(access=Access.WRITE, frees_space=True),
    frames.AUTH_ROLE_GRANT_PERMISSION: Command(access=Access.WRITE),
    frames.AUTH_ROLE_REVOKE_PERMISSION: Command(access=Access.WRITE, frees_space=True),
    frames.AUTH_LOOK_UP: Command(access=Access.READ),
    # Who deletes because the disk is full has to log in first.
    frames.AUTH_LOG_IN: Command(access=Access.WRITE, frees_space=True),
    frames.AUTH_RIGHTS: Command(access=Access.READ),
    frames.AUTH_DROP_TOKENS: Command(access=Access.INTERNAL),
    frames.LEASE_GRANT: Command(access=Access.WRITE),
    frames.LEASE_REVOKE: Command(access=Access.WRITE, frees_space=True),
    frames.LEASE_EXPIRE: Command(access=Access.INTERNAL),
    frames.LEASE_CHECKPOINT: Command(access=Access.INTERNAL),
    frames.LEASE_KEEP_ALIVE: Command(access=Access.PROVEN_LEADER),
    frames.LEASE_TIME_TO_LIVE: Command(access=Access.PROVEN_LEADER),
    frames.LEASE_LEASES: Command(access=Access.PROVEN_LEADER),
    frames.ETCD_ALARM: Command(access=Access.WRITE, frees_space=True),
    frames.TABLE_QUOTA: Command(access=Access.INTERNAL),
    frames.TABLE_FREED: Command(access=Access.INTERNAL),
    frames.ETCD_HASH_KV: Command(access=Access.READ),
    frames.ETCD_SNAPSHOT: Command(access=Access.READ),
    frames.ETCD_RANGE_STREAM: Command(access=Access.READ),
    frames.TABLE_LOAD: Command(access=Access.WRITE),
    frames.DEFRAGMENT: Command(access=Access.REPLICA),
    frames.REPLICATE_CHANGES: Command(access=Access.WRITE),
    frames.REPLICATE_SNAPSHOT: Command(access=Access.WRITE),
    frames.TABLE_PAIRS: Command(access=Access.READ),
    frames.FOLLOWER_POSITION: Command(access=Access.WRITE),
    frames.TABLE_BACKUP: Command(access=Access.READ),
    frames.LEASES_LEFT: Command(access=Access.PROVEN_LEADER),
    frames.TABLE_RESTORE: Command(access=Access.WRITE),
    frames.COPY_RESET: Command(access=Access.WRITE),
    frames.TABLE_ORIGIN: Command(access=Access.WRITE),
    frames.TABLE_USERS: Command(access=Access.READ),
    frames.REPLICATE_USERS: Command(access=Access.WRITE),
    frames.FOLLOW_COMMANDS: Command(access=Access.WRITE, since_level=3),
    frames.FOLLOW_SNAPSHOT: Command(access=Access.WRITE, since_level=3),
    frames.TABLE_MOVE: Command(access=Access.WRITE, frees_space=True),
    frames.TABLE_EXPORT: Command(access=Access.READ),
    frames.TABLE_IMPORT: Command(access=Access.WRITE),
}


def access_of(request: frames.Request) -> Access | None:
    """What this request is to its shard; None for a method that this build does not know."""
    command = COMMANDS.get(request.method)
    if command is None:
        return None
    if command.may_only_read and not request.request_id:
        return Access.READ
    return command.access


def frees_space(request: frames.Request) -> bool:
    """Whether this request is taken while the disk is nearly full, because it ends with less stored than before: by its
    method, or as a transaction that deletes and puts nothing."""
    parse = _TXN.get(request.method)
    if parse is None:
        return COMMANDS[request.method].frees_space
    try:
        return _only_deletes(parse(request.body))
    except DecodeError:
        return False


_Txn = rpc_pb2.TxnRequest | regatta_pb2.TxnRequest

_TXN: Final[dict[int, Callable[[bytes], _Txn]]] = {
    frames.ETCD_TXN: rpc_pb2.TxnRequest.FromString,
    frames.REGATTA_TXN: regatta_pb2.TxnRequest.FromString,
}


def _only_deletes(txn: _Txn) -> bool:
    deletes = False
    for op in (*txn.success, *txn.failure):
        kind = op.WhichOneof("request")
        if kind == "request_txn":
            assert isinstance(op, rpc_pb2.RequestOp)
            if not _only_deletes(op.request_txn):
                return False
            deletes = True
        elif kind == "request_delete_range":
            deletes = True
        elif kind != "request_range":
            return False
    return deletes


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One gRPC method."""

    api: ApiName
    access: Access
    kind: Kind = Kind.UNARY
    permission: Permission = Permission.KEYS
    http: tuple[str, ...] = ()
    """Paths of the JSON gateway, each a POST."""
    waits: bool = False
    """Whether it may take as long as it likes, waiting for other clients or at work: only its own client sets an end to
    that."""
    lasts: bool = False
    """Whether it goes on until its client or another one does something. A coordinator that stops ends it at once, so
    that its client goes on elsewhere; others get the time to end."""


_E, _A, _C, _G = ApiName.ETCD, ApiName.ETCD_ADMIN, ApiName.ETCD_CONCURRENCY, ApiName.GRPC
_R, _T = ApiName.REGATTA, ApiName.REGATTA_TABLES

METHODS: Final[dict[str, Method]] = {
    "/etcdserverpb.KV/Range": Method(api=_E, access=Access.READ, http=("/v3/kv/range",)),
    "/etcdserverpb.KV/RangeStream": Method(api=_E, access=Access.READ, kind=Kind.SERVER_STREAM),
    "/etcdserverpb.KV/Put": Method(api=_E, access=Access.WRITE, http=("/v3/kv/put",)),
    "/etcdserverpb.KV/DeleteRange": Method(api=_E, access=Access.WRITE, http=("/v3/kv/deleterange",)),
    "/etcdserverpb.KV/Txn": Method(api=_E, access=Access.WRITE, http=("/v3/kv/txn",)),
    "/etcdserverpb.KV/Compact": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/kv/compaction",), waits=True
    ),
    "/etcdserverpb.Watch/Watch": Method(
        api=_E, access=Access.READ, kind=Kind.BIDI_STREAM, http=("/v3/watch",), lasts=True
    ),
    "/etcdserverpb.Auth/AuthEnable": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/enable",)
    ),
    "/etcdserverpb.Auth/AuthDisable": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/disable",)
    ),
    "/etcdserverpb.Auth/AuthStatus": Method(
        api=_E, access=Access.READ, permission=Permission.ROOT, http=("/v3/auth/status",)
    ),
    "/etcdserverpb.Auth/Authenticate": Method(
        api=_E, access=Access.WRITE, permission=Permission.NONE, http=("/v3/auth/authenticate",)
    ),
    "/etcdserverpb.Auth/UserAdd": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/user/add",)
    ),
    "/etcdserverpb.Auth/UserGet": Method(
        api=_E, access=Access.READ, permission=Permission.USER, http=("/v3/auth/user/get",)
    ),
    "/etcdserverpb.Auth/UserList": Method(
        api=_E, access=Access.READ, permission=Permission.ROOT, http=("/v3/auth/user/list",)
    ),
    "/etcdserverpb.Auth/UserDelete": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/user/delete",)
    ),
    "/etcdserverpb.Auth/UserChangePassword": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/user/changepw",)
    ),
    "/etcdserverpb.Auth/UserGrantRole": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/user/grant",)
    ),
    "/etcdserverpb.Auth/UserRevokeRole": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/user/revoke",)
    ),
    "/etcdserverpb.Auth/RoleAdd": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/role/add",)
    ),
    "/etcdserverpb.Auth/RoleGet": Method(
        api=_E, access=Access.READ, permission=Permission.USER, http=("/v3/auth/role/get",)
    ),
    "/etcdserverpb.Auth/RoleList": Method(
        api=_E, access=Access.READ, permission=Permission.ROOT, http=("/v3/auth/role/list",)
    ),
    "/etcdserverpb.Auth/RoleDelete": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/role/delete",)
    ),
    "/etcdserverpb.Auth/RoleGrantPermission": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/role/grant",)
    ),
    "/etcdserverpb.Auth/RoleRevokePermission": Method(
        api=_E, access=Access.WRITE, permission=Permission.ROOT, http=("/v3/auth/role/revoke",)
    ),
    "/etcdserverpb.Lease/LeaseGrant": Method(
        api=_E, access=Access.WRITE, permission=Permission.USER, http=("/v3/lease/grant",)
    ),
    "/etcdserverpb.Lease/LeaseRevoke": Method(
        api=_E, access=Access.WRITE, http=("/v3/lease/revoke", "/v3/kv/lease/revoke")
    ),
    "/etcdserverpb.Lease/LeaseKeepAlive": Method(
        api=_E, access=Access.PROVEN_LEADER, kind=Kind.BIDI_STREAM, http=("/v3/lease/keepalive",), lasts=True
    ),
    "/etcdserverpb.Lease/LeaseTimeToLive": Method(
        api=_E, access=Access.PROVEN_LEADER, http=("/v3/lease/timetolive", "/v3/kv/lease/timetolive")
    ),
    "/etcdserverpb.Lease/LeaseLeases": Method(
        api=_E, access=Access.PROVEN_LEADER, http=("/v3/lease/leases", "/v3/kv/lease/leases")
    ),
    "/etcdserverpb.Cluster/MemberList": Method(
        api=_E, access=Access.COORDINATOR, permission=Permission.USER, http=("/v3/cluster/member/list",)
    ),
    "/etcdserverpb.Cluster/MemberAdd": Method(
        api=_E, access=Access.COORDINATOR, permission=Permission.CLUSTER, http=("/v3/cluster/member/add",)
    ),
    "/etcdserverpb.Cluster/MemberRemove": Method(
        api=_E, access=Access.COORDINATOR, permission=Permission.CLUSTER, http=("/v3/cluster/member/remove",)
    ),
    "/etcdserverpb.Cluster/MemberUpdate": Method(
        api=_E, access=Access.COORDINATOR, permission=Permission.CLUSTER, http=("/v3/cluster/member/update",)
    ),
    "/etcdserverpb.Cluster/MemberPromote": Method(
        api=_E, access=Access.COORDINATOR, permission=Permission.CLUSTER, http=("/v3/cluster/member/promote",)
    ),
    "/etcdserverpb.Maintenance/Status": Method(
        api=_E, access=Access.COORDINATOR, permission=Permission.USER, http=("/v3/maintenance/status",)
    ),
    "/etcdserverpb.Maintenance/Alarm": Method(
        api=_E, access=Access.COORDINATOR, permission=Permission.USER, http=("/v3/maintenance/alarm",)
    ),
    "/etcdserverpb.Maintenance/MoveLeader": Method(
        api=_E,
        access=Access.COORDINATOR,
        permission=Permission.CLUSTER,
        http=("/v3/maintenance/transfer-leadership",),
    ),
    "/etcdserverpb.Maintenance/Defragment": Method(
        api=_A,
        access=Access.COORDINATOR,
        permission=Permission.CLUSTER,
        http=("/v3/maintenance/defragment",),
        waits=True,
    ),
    "/etcdserverpb.Maintenance/Hash": Method(
        api=_A, access=Access.READ, permission=Permission.ROOT, http=("/v3/maintenance/hash",), waits=True
    ),
    "/etcdserverpb.Maintenance/HashKV": Method(
        api=_A, access=Access.READ, permission=Permission.ROOT, http=("/v3/maintenance/hashkv",), waits=True
    ),
    "/etcdserverpb.Maintenance/Snapshot": Method(
        api=_A,
        access=Access.READ,
        kind=Kind.SERVER_STREAM,
        permission=Permission.ROOT,
        http=("/v3/maintenance/snapshot",),
    ),
    "/etcdserverpb.Maintenance/Downgrade": Method(
        api=_E, access=Access.COORDINATOR, permission=Permission.ROOT, http=("/v3/maintenance/downgrade",)
    ),
    "/v3lockpb.Lock/Lock": Method(
        api=_C, access=Access.COORDINATOR, waits=True, http=("/v3/lock/lock",), lasts=True
    ),
    "/v3lockpb.Lock/Unlock": Method(api=_C, access=Access.COORDINATOR, http=("/v3/lock/unlock",)),
    "/v3electionpb.Election/Campaign": Method(
        api=_C, access=Access.COORDINATOR, waits=True, http=("/v3/election/campaign",), lasts=True
    ),
    "/v3electionpb.Election/Proclaim": Method(
        api=_C, access=Access.COORDINATOR, http=("/v3/election/proclaim",)
    ),
    "/v3electionpb.Election/Leader": Method(api=_C, access=Access.COORDINATOR, http=("/v3/election/leader",)),
    "/v3electionpb.Election/Observe": Method(
        api=_C, access=Access.COORDINATOR, kind=Kind.SERVER_STREAM, http=("/v3/election/observe",), lasts=True
    ),
    "/v3electionpb.Election/Resign": Method(api=_C, access=Access.COORDINATOR, http=("/v3/election/resign",)),
    "/regatta.v1.KV/Range": Method(api=_R, access=Access.READ),
    "/regatta.v1.KV/IterateRange": Method(api=_R, access=Access.READ, kind=Kind.SERVER_STREAM),
    "/regatta.v1.KV/Put": Method(api=_R, access=Access.WRITE),
    "/regatta.v1.KV/DeleteRange": Method(api=_R, access=Access.WRITE),
    "/regatta.v1.KV/Txn": Method(api=_R, access=Access.WRITE),
    "/regatta.v1.Cluster/MemberList": Method(api=_R, access=Access.COORDINATOR, permission=Permission.NONE),
    "/regatta.v1.Cluster/Status": Method(api=_R, access=Access.COORDINATOR, permission=Permission.NONE),
    "/replication.v1.Metadata/Get": Method(
        api=_R, access=Access.COORDINATOR, permission=Permission.ROOT, waits=True
    ),
    "/replication.v1.Log/Replicate": Method(
        api=_R, access=Access.COORDINATOR, kind=Kind.SERVER_STREAM, permission=Permission.ROOT, lasts=True
    ),
    "/replication.v1.Snapshot/Stream": Method(
        api=_R, access=Access.COORDINATOR, kind=Kind.SERVER_STREAM, permission=Permission.ROOT
    ),
    "/regatta.v1.Tables/Create": Method(api=_T, access=Access.COORDINATOR, permission=Permission.ROOT),
    "/regatta.v1.Tables/Delete": Method(api=_T, access=Access.COORDINATOR, permission=Permission.ROOT),
    "/regatta.v1.Tables/List": Method(api=_R, access=Access.COORDINATOR, permission=Permission.USER),
    "/maintenance.v1.Maintenance/Backup": Method(
        api=_R, access=Access.COORDINATOR, kind=Kind.SERVER_STREAM, permission=Permission.ROOT
    ),
    "/maintenance.v1.Maintenance/Restore": Method(
        api=_R, access=Access.COORDINATOR, kind=Kind.CLIENT_STREAM, permission=Permission.ROOT
    ),
    "/maintenance.v1.Maintenance/Reset": Method(
        api=_R, access=Access.COORDINATOR, permission=Permission.ROOT
    ),
    "/boathouse.v1.Restore/Load": Method(
        api=ApiName.BOATHOUSE, access=Access.WRITE, permission=Permission.ROOT
    ),
    "/boathouse.v1.Moves/Move": Method(
        api=ApiName.BOATHOUSE, access=Access.COORDINATOR, permission=Permission.ROOT
    ),
    "/boathouse.v1.Moves/Cancel": Method(
        api=ApiName.BOATHOUSE, access=Access.COORDINATOR, permission=Permission.ROOT
    ),
    "/grpc.health.v1.Health/Check": Method(api=_G, access=Access.COORDINATOR, permission=Permission.NONE),
    "/grpc.health.v1.Health/Watch": Method(
        api=_G, access=Access.COORDINATOR, kind=Kind.SERVER_STREAM, permission=Permission.NONE
    ),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Method(
        api=_G, access=Access.COORDINATOR, kind=Kind.BIDI_STREAM, permission=Permission.NONE, lasts=True
    ),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Method(
        api=_G, access=Access.COORDINATOR, kind=Kind.BIDI_STREAM, permission=Permission.NONE, lasts=True
    ),
}
"""By path, as HTTP/2's `:path` has it."""
