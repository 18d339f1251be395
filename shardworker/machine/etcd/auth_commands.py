"""What each method of etcd's Auth needs of the state machine, and what coordinators ask about users.

Passwords arrive as hashes. The rules and the order of their checks are etcd's; what has no effect is no new revision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

from proto import errors
from proto.etcd import auth_pb2, rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.spans import span_of
from proto.tokens import DIGEST_BYTES, known_by
from shardworker.machine.auth import ROOT, Access, Permission, TableAuth, User
from shardworker.machine.auth_store import ROW_BYTES
from shardworker.machine.handler import Handler

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.message import Message

    from shardworker.machine.auth import Caller
    from shardworker.machine.auth_writer import AuthWriter


def _root(caller: Caller, op: object) -> None:
    caller.check_root()


def _user(auth: TableAuth, name: str) -> User:
    user = auth.users.get(name)
    if user is None:
        raise errors.UserNotFound
    return user


def _role(auth: TableAuth, name: str) -> tuple[Permission, ...]:
    role = auth.roles.get(name)
    if role is None:
        raise errors.RoleNotFound
    return role


def _without(users: Mapping[str, User], name: str) -> dict[str, User]:
    return {other: user for other, user in users.items() if other != name}


# ---- on and off -------------------------------------------------------------------------------------------------


def _enable(writer: AuthWriter, op: object) -> bytes:
    """Only with somebody who could disable it."""
    auth = writer.auth
    if auth.enabled:
        return b""
    root = auth.users.get(ROOT)
    if root is None:
        raise errors.RootUserNotExist
    if ROOT not in root.roles:
        raise errors.RootRoleNotExist
    writer.enable()
    return b""


def _disable(writer: AuthWriter, op: object) -> bytes:
    if writer.auth.enabled:
        writer.disable()
    return b""


def _status(caller: Caller, op: object) -> bytes:
    auth = caller.auth
    return rpc_pb2.AuthStatusResponse(enabled=auth.enabled, authRevision=auth.revision).SerializeToString()


# ---- users ------------------------------------------------------------------------------------------------------


def _add_user(writer: AuthWriter, op: rpc_pb2.AuthUserAddRequest) -> bytes:
    auth = writer.auth
    if not op.name:
        raise errors.UserEmpty
    if op.name in auth.users:
        raise errors.UserAlreadyExist
    no_password = op.options.no_password
    user = User("" if no_password else op.hashedPassword, no_password, ())
    writer.set_users({**auth.users, op.name: user})
    return b""


def _delete_user(writer: AuthWriter, op: rpc_pb2.AuthUserDeleteRequest) -> bytes:
    auth = writer.auth
    if auth.enabled and op.name == ROOT:
        raise errors.InvalidAuthMgmt
    _user(auth, op.name)
    writer.set_users(_without(auth.users, op.name))
    writer.drop_tokens_of(op.name)
    return b""


def _change_password(writer: AuthWriter, op: rpc_pb2.AuthUserChangePasswordRequest) -> bytes:
    auth = writer.auth
    user = _user(auth, op.name)
    writer.set_users({**auth.users, op.name: replace(user, hash=op.hashedPassword)})
    writer.drop_tokens_of(op.name)
    return b""


def _grant_role(writer: AuthWriter, op: rpc_pb2.AuthUserGrantRoleRequest) -> bytes:
    auth = writer.auth
    user = _user(auth, op.user)
    if op.role != ROOT:
        _role(auth, op.role)
    if op.role not in user.roles:
        granted = replace(user, roles=tuple(sorted((*user.roles, op.role))))
        writer.set_users({**auth.users, op.user: granted})
    return b""


def _revoke_role(writer: AuthWriter, op: rpc_pb2.AuthUserRevokeRoleRequest) -> bytes:
    auth = writer.auth
    if auth.enabled and op.name == ROOT and op.role == ROOT:
        raise errors.InvalidAuthMgmt
    user = _user(auth, op.name)
    if op.role not in user.roles:
        raise errors.RoleNotGranted
    writer.set_users({**auth.users, op.name: _stripped(user, op.role)})
    return b""


def _stripped(user: User, role: str) -> User:
    return replace(user, roles=tuple(held for held in user.roles if held != role))


def _check_may_see_user(caller: Caller, op: rpc_pb2.AuthUserGetRequest) -> None:
    if op.name != caller.who.user:
        caller.check_root()


def _get_user(caller: Caller, op: rpc_pb2.AuthUserGetRequest) -> bytes:
    return rpc_pb2.AuthUserGetResponse(roles=_user(caller.auth, op.name).roles).SerializeToString()


def _list_users(caller: Caller, op: object) -> bytes:
    return rpc_pb2.AuthUserListResponse(users=sorted(caller.auth.users)).SerializeToString()


# ---- roles ------------------------------------------------------------------------------------------------------


def _add_role(writer: AuthWriter, op: rpc_pb2.AuthRoleAddRequest) -> bytes:
    auth = writer.auth
    if not op.name:
        raise errors.RoleEmpty
    if op.name in auth.roles:
        raise errors.RoleAlreadyExist
    writer.set_roles({**auth.roles, op.name: ()})
    return b""


def _delete_role(writer: AuthWriter, op: rpc_pb2.AuthRoleDeleteRequest) -> bytes:
    """From all who have it, too."""
    auth = writer.auth
    if auth.enabled and op.role == ROOT:
        raise errors.InvalidAuthMgmt
    _role(auth, op.role)
    roles = {name: role for name, role in auth.roles.items() if name != op.role}
    writer.set_roles(roles, {name: _stripped(user, op.role) for name, user in auth.users.items()})
    return b""


def _check_may_see_role(caller: Caller, op: rpc_pb2.AuthRoleGetRequest) -> None:
    user = caller.auth.users.get(caller.who.user)
    if user is None or op.role not in user.roles:
        caller.check_root()


def _get_role(caller: Caller, op: rpc_pb2.AuthRoleGetRequest) -> bytes:
    response = rpc_pb2.AuthRoleGetResponse()
    for permission in _role(caller.auth, op.role):
        response.perm.add(
            permType=auth_pb2.Permission.Type.ValueType(permission.access.value),
            key=permission.key,
            range_end=permission.end,
        )
    return response.SerializeToString()


def _list_roles(caller: Caller, op: object) -> bytes:
    return rpc_pb2.AuthRoleListResponse(roles=sorted(caller.auth.roles)).SerializeToString()


def _grant_permission(writer: AuthWriter, op: rpc_pb2.AuthRoleGrantPermissionRequest) -> bytes:
    """One permission for each span: a second one takes the place of the first. It is a new revision even if it is the
    same, as in etcd."""
    if not op.HasField("perm"):
        raise errors.PermissionNotGiven
    auth, perm = writer.auth, op.perm
    if not perm.key or span_of(perm.key, perm.range_end) is None:
        raise errors.InvalidAuthMgmt
    if perm.permType not in (0, 1, 2):
        raise errors.InvalidRequest(f"there is no permission of type {perm.permType}")
    role = _role(auth, op.name)
    granted = Permission(Access(perm.permType), perm.key, perm.range_end)
    others = (held for held in role if (held.key, held.end) != (perm.key, perm.range_end))
    writer.set_roles({**auth.roles, op.name: _sorted((*others, granted))})
    return b""


def _sorted(permissions: Iterable[Permission]) -> tuple[Permission, ...]:
    return tuple(sorted(permissions, key=lambda permission: (permission.key, permission.end)))


def _revoke_permission(writer: AuthWriter, op: rpc_pb2.AuthRoleRevokePermissionRequest) -> bytes:
    auth = writer.auth
    role = _role(auth, op.role)
    left = tuple(held for held in role if (held.key, held.end) != (op.key, op.range_end))
    if len(left) == len(role):
        raise errors.PermissionNotGranted
    writer.set_roles({**auth.roles, op.role: left})
    return b""


# ---- who logs in ------------------------------------------------------------------------------------------------


def _look_up(caller: Caller, op: rpc_pb2.AuthenticateRequest) -> bytes:
    auth = caller.auth
    user = auth.users.get(op.name)
    return frames.Secret(
        enabled=auth.enabled,
        auth_revision=auth.revision,
        hash="" if user is None else user.hash,
        no_password=user is not None and user.no_password,
        usual_cost=_usual_cost(auth, op.name) if user is None else 0,
    ).SerializeToString()


def _usual_cost(auth: TableAuth, name: str) -> int:
    """Of the hash of some user, for the same name the same one on every replica, also after a restart; 0 = none has a
    hash. Where users differ in it, since the cluster's cost was changed, or a table came from elsewhere, names that are
    nobody's differ as much."""
    hashes = sorted(user.hash for user in auth.users.values() if user.hash)
    if not hashes:
        return 0
    some = hashes[crc32(name.encode()) % len(hashes)]
    cost = some.split("$")[2:3]  # $2b$10$...
    return int(cost[0]) if cost and cost[0].isdigit() else 0


def _log_in(writer: AuthWriter, op: frames.LogIn) -> bytes:
    """Unless anything has changed since the password was checked: then it has to be checked again."""
    auth = writer.auth
    if not auth.enabled:
        raise errors.AuthNotEnabled
    if op.auth_revision != auth.revision:
        raise errors.AuthOldRevision
    if len(op.digest) != DIGEST_BYTES:
        raise errors.MalformedRequest("a token's digest has another length")
    writer.add_token(known_by(writer.index, op.digest), op.user)
    return frames.LoggedIn(index=writer.index).SerializeToString()


def _drop_tokens(writer: AuthWriter, op: frames.Tokens) -> bytes:
    writer.drop_tokens(list(op.tokens))
    return b""


def _check_need(caller: Caller, op: frames.RightsRequest) -> None:
    if op.need == frames.RightsRequest.ROOT:
        caller.check_root()
    else:
        caller.check_user()


def _rights(caller: Caller, op: object) -> bytes:
    auth, who = caller.auth, caller.who
    rights = auth.rights(who.user)
    told = frames.Rights(auth_version=auth.version, user=who.user, root=rights.is_root)
    for key, end in rights.readable.spans:
        told.readable.add(key=key, end=end or b"", open=end is None)
    return told.SerializeToString()


def _cost(op: Message) -> int:
    """What is stored takes about as much as its request, or twice that where keys are written as digits."""
    return ROW_BYTES + 2 * op.ByteSize()


HANDLERS: dict[int, Handler[Any]] = {
    frames.AUTH_ENABLE: Handler(parse=rpc_pb2.AuthEnableRequest.FromString, administer=_enable, check=_root),
    frames.AUTH_DISABLE: Handler(
        parse=rpc_pb2.AuthDisableRequest.FromString, administer=_disable, check=_root
    ),
    frames.AUTH_STATUS: Handler(parse=rpc_pb2.AuthStatusRequest.FromString, inspect=_status, check=_root),
    frames.AUTH_USER_ADD: Handler(
        parse=rpc_pb2.AuthUserAddRequest.FromString, administer=_add_user, check=_root, cost=_cost
    ),
    frames.AUTH_USER_GET: Handler(
        parse=rpc_pb2.AuthUserGetRequest.FromString, inspect=_get_user, check=_check_may_see_user
    ),
    frames.AUTH_USER_LIST: Handler(
        parse=rpc_pb2.AuthUserListRequest.FromString, inspect=_list_users, check=_root
    ),
    frames.AUTH_USER_DELETE: Handler(
        parse=rpc_pb2.AuthUserDeleteRequest.FromString, administer=_delete_user, check=_root
    ),
    frames.AUTH_USER_CHANGE_PASSWORD: Handler(
        parse=rpc_pb2.AuthUserChangePasswordRequest.FromString, administer=_change_password, check=_root
    ),
    frames.AUTH_USER_GRANT_ROLE: Handler(
        parse=rpc_pb2.AuthUserGrantRoleRequest.FromString, administer=_grant_role, check=_root, cost=_cost
    ),
    frames.AUTH_USER_REVOKE_ROLE: Handler(
        parse=rpc_pb2.AuthUserRevokeRoleRequest.FromString, administer=_revoke_role, check=_root
    ),
    frames.AUTH_ROLE_ADD: Handler(
        parse=rpc_pb2.AuthRoleAddRequest.FromString, administer=_add_role, check=_root, cost=_cost
    ),
    frames.AUTH_ROLE_GET: Handler(
        parse=rpc_pb2.AuthRoleGetRequest.FromString, inspect=_get_role, check=_check_may_see_role
    ),
    frames.AUTH_ROLE_LIST: Handler(
        parse=rpc_pb2.AuthRoleListRequest.FromString, inspect=_list_roles, check=_root
    ),
    frames.AUTH_ROLE_DELETE: Handler(
        parse=rpc_pb2.AuthRoleDeleteRequest.FromString, administer=_delete_role, check=_root
    ),
    frames.AUTH_ROLE_GRANT_PERMISSION: Handler(
        parse=rpc_pb2.AuthRoleGrantPermissionRequest.FromString,
        administer=_grant_permission,
        check=_root,
        cost=_cost,
    ),
    frames.AUTH_ROLE_REVOKE_PERMISSION: Handler(
        parse=rpc_pb2.AuthRoleRevokePermissionRequest.FromString, administer=_revoke_permission, check=_root
    ),
    frames.AUTH_LOOK_UP: Handler(parse=rpc_pb2.AuthenticateRequest.FromString, inspect=_look_up),
    frames.AUTH_LOG_IN: Handler(parse=frames.LogIn.FromString, administer=_log_in, for_copies=True),
    frames.AUTH_RIGHTS: Handler(parse=frames.RightsRequest.FromString, inspect=_rights, check=_check_need),
    frames.AUTH_DROP_TOKENS: Handler(
        parse=frames.Tokens.FromString, administer=_drop_tokens, for_copies=True
    ),
}
