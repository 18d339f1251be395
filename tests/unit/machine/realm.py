"""A table with users, and what happens to it in their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.etcd import auth_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access
from proto.regatta import regatta_pb2 as regatta
from proto.tokens import digest_of, draw_letters, known_by, presented
from shardworker.machine import NOBODY, Result, Who
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from shardworker.machine import StateMachine

READ, WRITE, READWRITE = auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE

OTHER_TABLE = 10002

_METHODS = {
    etcd.AuthEnableRequest: frames.AUTH_ENABLE,
    etcd.AuthDisableRequest: frames.AUTH_DISABLE,
    etcd.AuthStatusRequest: frames.AUTH_STATUS,
    etcd.AuthUserAddRequest: frames.AUTH_USER_ADD,
    etcd.AuthUserGetRequest: frames.AUTH_USER_GET,
    etcd.AuthUserListRequest: frames.AUTH_USER_LIST,
    etcd.AuthUserDeleteRequest: frames.AUTH_USER_DELETE,
    etcd.AuthUserChangePasswordRequest: frames.AUTH_USER_CHANGE_PASSWORD,
    etcd.AuthUserGrantRoleRequest: frames.AUTH_USER_GRANT_ROLE,
    etcd.AuthUserRevokeRoleRequest: frames.AUTH_USER_REVOKE_ROLE,
    etcd.AuthRoleAddRequest: frames.AUTH_ROLE_ADD,
    etcd.AuthRoleGetRequest: frames.AUTH_ROLE_GET,
    etcd.AuthRoleListRequest: frames.AUTH_ROLE_LIST,
    etcd.AuthRoleDeleteRequest: frames.AUTH_ROLE_DELETE,
    etcd.AuthRoleGrantPermissionRequest: frames.AUTH_ROLE_GRANT_PERMISSION,
    etcd.AuthRoleRevokePermissionRequest: frames.AUTH_ROLE_REVOKE_PERMISSION,
    etcd.RangeRequest: frames.ETCD_RANGE,
    etcd.PutRequest: frames.ETCD_PUT,
    etcd.DeleteRangeRequest: frames.ETCD_DELETE_RANGE,
    etcd.TxnRequest: frames.ETCD_TXN,
    etcd.CompactionRequest: frames.ETCD_COMPACT,
    regatta.RangeRequest: frames.REGATTA_RANGE,
    regatta.PutRequest: frames.REGATTA_PUT,
    regatta.DeleteRangeRequest: frames.REGATTA_DELETE_RANGE,
    regatta.TxnRequest: frames.REGATTA_TXN,
    frames.LogIn: frames.AUTH_LOG_IN,
    frames.Tokens: frames.AUTH_DROP_TOKENS,
    frames.RightsRequest: frames.AUTH_RIGHTS,
}


class Realm:
    """A table and what happens to it in somebody's name."""

    def __init__(self, path: str = ":memory:") -> None:
        self.shard = Shard(path)

    @property
    def machine(self) -> StateMachine:
        return self.shard.machine

    @property
    def revision(self) -> int:
        return self.machine.auth.of(TABLE).revision

    def who(self, user: str) -> Who:
        return Who(user, self.revision) if user else NOBODY

    def ask(
        self, request: Message, user: str = "root", *, who: Who | None = None, table: int = TABLE
    ) -> Result:
        who = who or self.who(user)
        method = _METHODS[type(request)]
        reads = COMMANDS[method].access is Access.READ
        if reads:
            parsed = self.machine.parse(method, table, request.SerializeToString(), who)
            return self.machine.read(self.shard.connection, parsed)
        return self.shard.apply(self.command(request, who, table))[0]

    def command(self, request: Message, who: Who, table: int = TABLE) -> frames.Command:
        return frames.Command(
            method=frames.Method.ValueType(_METHODS[type(request)]),
            table_id=table,
            body=request.SerializeToString(),
            request_id=self.shard.new_id(),
            user=who.user,
            auth_revision=who.revision,
        )

    def ok(self, request: Message, user: str = "root") -> bytes:
        result = self.ask(request, user)
        assert result.error is None, repr(result.error)
        return result.body

    def error(
        self, request: Message, user: str = "root", *, who: Who | None = None
    ) -> type[Exception] | None:
        before = self.machine.checksum
        result = self.ask(request, user, who=who)
        if result.error is None:
            return None
        assert self.machine.checksum == before
        return type(result.error)

    # ---- the usual

    def add_user(self, name: str, *roles: str) -> None:
        self.ok(etcd.AuthUserAddRequest(name=name, hashedPassword=f"hash of {name}"))
        for role in roles:
            self.ok(etcd.AuthUserGrantRoleRequest(user=name, role=role))

    def grant(self, role: str, access: int, key: bytes, end: bytes = b"") -> None:
        if role not in self.machine.auth.of(TABLE).roles:
            self.ok(etcd.AuthRoleAddRequest(name=role))
        perm = auth_pb2.Permission(permType=access, key=key, range_end=end)  # type: ignore[arg-type]
        self.ok(etcd.AuthRoleGrantPermissionRequest(name=role, perm=perm))

    def enable(self) -> None:
        if "root" not in self.machine.auth.of(TABLE).users:
            self.add_user("root", "root")
        self.ok(etcd.AuthEnableRequest())

    def log_in(self, user: str) -> bytes:
        """What the shard knows the new token by."""
        letters = draw_letters()
        body = self.ok(frames.LogIn(user=user, auth_revision=self.revision, digest=digest_of(letters)))
        index = frames.LoggedIn.FromString(body).index
        assert presented(f"{letters}.{index}") == known_by(index, digest_of(letters))
        return presented(f"{letters}.{index}")

    def knows(self, token: bytes) -> bool:
        return token in self.machine.auth.tokens(TABLE)


def probed_realm() -> Realm:
    """User u: READWRITE [a,c), READ [c,e), WRITE w, READ from x on."""
    realm = Realm()
    realm.grant("r", READWRITE, b"a", b"c")
    realm.grant("r", READ, b"c", b"e")
    realm.grant("r", WRITE, b"w")
    realm.grant("r", READ, b"x", b"\0")
    realm.add_user("u", "r")
    realm.ok(etcd.AuthRoleAddRequest(name="other"))
    realm.enable()
    return realm
