"""The users of a copy are those of its origin, and nobody changes them here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from shardworker.machine.auth import Access, Permission, TableAuth, User
from shardworker.machine.auth_store import Kind, auth_of
from tests.unit.machine.copying import COPY, follower
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from pathlib import Path

USERS = {"app": User("hash of app", no_password=False, roles=("reader",)), "by-cert": User("", True, ())}
ROLES = {"reader": (Permission(Access.READ, b"a", b"b"), Permission(Access.READWRITE, b"c", b""))}
AUTH = TableAuth(enabled=True, revision=7, users=USERS, roles=ROLES)


def told(auth: TableAuth) -> frames.TableUsers:
    """As the leader cluster's shard tells of them."""
    shard = Shard()
    shard.machine.auth.replace(TABLE, auth)
    shard.machine.auth.add_token(TABLE, b"token", "app")
    return frames.TableUsers.FromString(shard.read_as(frames.TABLE_USERS, b"").body)


def take(shard: Shard, auth: TableAuth, origin: int = TABLE) -> errors.BoathouseError | None:
    return shard.write(frames.ReplicatedUsers(origin=origin, users=told(auth)), table=COPY).error


def test_they_come_whole() -> None:
    shard = follower()
    rows = told(AUTH).rows
    assert auth_of((row.kind, row.name, row.data) for row in rows) == AUTH
    assert take(shard, AUTH) is None
    assert shard.machine.auth.of(COPY) == AUTH
    assert COPY in shard.machine.auth.guarded
    before = shard.machine.checksum
    assert take(shard, AUTH) is None
    assert shard.machine.checksum == before


def test_they_go_as_they_came() -> None:
    shard = follower()
    take(shard, AUTH)
    take(shard, TableAuth(revision=8))
    assert shard.machine.auth.of(COPY) == TableAuth(revision=8)
    assert COPY not in shard.machine.auth.guarded


def test_who_is_gone_or_has_another_password_has_to_log_in_again() -> None:
    shard = follower()
    users = {name: User(f"hash of {name}", False, ()) for name in ("gone", "changed", "stays")}
    take(shard, TableAuth(enabled=True, revision=2, users=users))
    for name in users:
        shard.machine.auth.add_token(COPY, name.encode(), name)
    now = {"changed": User("another hash", False, ()), "stays": User("hash of stays", False, ("reader",))}
    take(shard, TableAuth(enabled=True, revision=3, users=now, roles=ROLES))
    assert set(shard.machine.auth.tokens(COPY).values()) == {"stays"}
    take(shard, TableAuth(revision=4, users=now))
    assert not shard.machine.auth.tokens(COPY)


def test_only_the_origin_changes_them_and_whoever_has_a_password_logs_in() -> None:
    shard = follower()
    take(shard, AUTH)
    assert isinstance(take(shard, AUTH, origin=TABLE + 1), errors.OtherOrigin)

    def ask(method: int, body: bytes) -> errors.BoathouseError | None:
        command = frames.Command(
            method=method,  # type: ignore[arg-type]
            table_id=COPY,
            body=body,
            request_id=bytes([method]) * 16,
            user="root",
            auth_revision=7,
        )
        (result,) = shard.apply(command)
        return result.error

    add = rpc_pb2.AuthUserAddRequest(name="somebody").SerializeToString()
    assert isinstance(ask(frames.AUTH_DISABLE, b""), errors.PermissionDenied | errors.UserNotFound)
    shard.machine.auth.guarded.discard(COPY)  # as if he were root
    assert isinstance(ask(frames.AUTH_USER_ADD, add), errors.TableReplicated)
    login = frames.LogIn(user="app", auth_revision=7, digest=bytes(16))
    assert not isinstance(ask(frames.AUTH_LOG_IN, login.SerializeToString()), errors.TableReplicated)


def test_what_no_table_has_is_refused() -> None:
    for kind, data in ((Kind.ROLE, '[[9, "", ""]]'), (Kind.TOKEN, '"app"'), (Kind.USER, "x")):
        bad = frames.ReplicatedUsers(origin=TABLE)
        bad.users.rows.add(kind=kind, name=b"n", data=data)
        assert isinstance(follower().write(bad, table=COPY).error, errors.MalformedRequest)


def test_they_survive_a_restart(tmp_path: Path) -> None:
    file = f"{tmp_path}/db"
    shard = follower(file)
    take(shard, AUTH)
    assert Shard(file, create=False).machine.auth.of(COPY) == AUTH
