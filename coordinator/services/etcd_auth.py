"""etcdserverpb.Auth: users, roles and permissions of the table that a call means."""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from coordinator.auth.passwords import SALT_BYTES, hash_given
from coordinator.services.decoding import decode
from coordinator.shards import request_ids
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.services.etcd_tables import EtcdTables
    from proto.catalog import TableEntry

SERVICE: Final = "/etcdserverpb.Auth/"

_AS_THEY_COME: Final[dict[str, tuple[frames.Method.ValueType, Callable[[bytes], Any]]]] = {
    "AuthEnable": (frames.AUTH_ENABLE, etcd.AuthEnableRequest.FromString),
    "AuthDisable": (frames.AUTH_DISABLE, etcd.AuthDisableRequest.FromString),
    "AuthStatus": (frames.AUTH_STATUS, etcd.AuthStatusRequest.FromString),
    "UserGet": (frames.AUTH_USER_GET, etcd.AuthUserGetRequest.FromString),
    "UserList": (frames.AUTH_USER_LIST, etcd.AuthUserListRequest.FromString),
    "UserDelete": (frames.AUTH_USER_DELETE, etcd.AuthUserDeleteRequest.FromString),
    "UserGrantRole": (frames.AUTH_USER_GRANT_ROLE, etcd.AuthUserGrantRoleRequest.FromString),
    "UserRevokeRole": (frames.AUTH_USER_REVOKE_ROLE, etcd.AuthUserRevokeRoleRequest.FromString),
    "RoleAdd": (frames.AUTH_ROLE_ADD, etcd.AuthRoleAddRequest.FromString),
    "RoleGet": (frames.AUTH_ROLE_GET, etcd.AuthRoleGetRequest.FromString),
    "RoleList": (frames.AUTH_ROLE_LIST, etcd.AuthRoleListRequest.FromString),
    "RoleDelete": (frames.AUTH_ROLE_DELETE, etcd.AuthRoleDeleteRequest.FromString),
    "RoleGrantPermission": (
        frames.AUTH_ROLE_GRANT_PERMISSION,
        etcd.AuthRoleGrantPermissionRequest.FromString,
    ),
    "RoleRevokePermission": (
        frames.AUTH_ROLE_REVOKE_PERMISSION,
        etcd.AuthRoleRevokePermissionRequest.FromString,
    ),
}
"""Methods whose message is what the shard is asked: all that carry no password."""


class EtcdAuth:
    """All of etcd's Auth. The shard decides everything, here passwords become hashes and logins become tokens."""

    def __init__(self, calls: TableCalls, tables: EtcdTables, authenticator: Authenticator) -> None:
        self._calls = calls
        self._tables = tables
        self._authenticator = authenticator

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        handlers: dict[str, Handler] = {
            SERVICE + name: partial(self._pass_on, method, parse)
            for name, (method, parse) in _AS_THEY_COME.items()
        }
        handlers[SERVICE + "Authenticate"] = self.authenticate
        handlers[SERVICE + "UserAdd"] = self.user_add
        handlers[SERVICE + "UserChangePassword"] = self.user_change_password
        return handlers

    async def _pass_on(
        self, method: frames.Method.ValueType, parse: Callable[[bytes], Any], call: Call
    ) -> bytes:
        decode(parse, call.body)
        return await self._ask(method, call, call.body)

    async def authenticate(self, call: Call) -> bytes:
        """A token for a name and a password."""
        request = decode(etcd.AuthenticateRequest.FromString, call.body)
        table = await self._tables.find(call, login=request.name)
        try:
            answer, token = await self._authenticator.log_in(table, request, call.deadline)
        except errors.AuthNotEnabled:
            if not self._tables.is_meant_by_login(call, request.name):
                raise
            # In etcd's own words clients would go on without a token, and so in another table.
            reason = f"authentication is not enabled in table {table.name}, which user {request.name} means"
            raise errors.AuthError(reason) from None
        token = self._tables.token_for(call, table, token)
        header = self._tables.header(answer.table, revision=answer.reply.revision, term=answer.reply.term)
        return header + etcd.AuthenticateResponse(token=token).SerializeToString()

    async def user_add(self, call: Call) -> bytes:
        """A user, with a password that may be empty, or with none."""
        request = decode(etcd.AuthUserAddRequest.FromString, call.body)
        request.hashedPassword = ""
        if request.name and not request.options.no_password:
            request.hashedPassword = await self._hashed(call, request.name, request.password)
        request.password = ""
        return await self._ask(frames.AUTH_USER_ADD, call, request.SerializeToString())

    async def user_change_password(self, call: Call) -> bytes:
        """An empty password is none: nobody can log in with it. In its place may come its hash."""
        request = decode(etcd.AuthUserChangePasswordRequest.FromString, call.body)
        if request.password:
            request.hashedPassword = await self._hashed(call, request.name, request.password)
        elif request.hashedPassword:
            await self._check_root(call, await self._tables.find(call))
            request.hashedPassword = hash_given(request.hashedPassword)
        request.password = ""
        return await self._ask(frames.AUTH_USER_CHANGE_PASSWORD, call, request.SerializeToString())

    async def _hashed(self, call: Call, user: str, password: str) -> str:
        """For those who may change users, since it costs more than all the rest. Under an id of the client's own the
        same each time, or the repeated write would be another one."""
        table = await self._tables.find(call)
        client_id = call.metadata.get(request_ids.METADATA_KEY)
        salt = None
        if client_id is not None:
            named = request_ids.from_client(client_id.encode(), table.id)
            salt = blake2b(user.encode(), key=named, digest_size=SALT_BYTES).digest()
        await self._check_root(call, table)
        return await self._authenticator.hashed(password, salt)

    async def _check_root(self, call: Call, table: TableEntry) -> None:
        who = self._authenticator.credentials(call, table)
        await self._authenticator.rights(who, table, call.deadline, need=frames.RightsRequest.ROOT)

    async def _ask(self, method: frames.Method.ValueType, call: Call, body: bytes) -> bytes:
        table = await self._tables.find(call)
        asked = self._authenticator.asked(call, table, method, body=body)
        if COMMANDS[method].access is Access.READ:
            answer = await self._calls.read(asked, linearizable=True)
        else:
            answer = await self._calls.write(asked)
        return self._tables.with_header(answer.table, answer.reply)
