"""Users, roles, permissions and tokens as the state machine keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors
from proto.etcd import auth_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import NOBODY, auth_store
from tests.unit.machine.realm import OTHER_TABLE, READ, READWRITE, WRITE, Realm
from tests.unit.machine.shard import TABLE, Shard, put

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


# ---- on and off -------------------------------------------------------------------------------------------------


def test_enabling_needs_somebody_who_can_disable_it(realm: Realm) -> None:
    assert realm.error(etcd.AuthEnableRequest()) is errors.RootUserNotExist
    realm.add_user("root")
    assert realm.error(etcd.AuthEnableRequest()) is errors.RootRoleNotExist
    # The role need not exist as an object.
    realm.ok(etcd.AuthUserGrantRoleRequest(user="root", role="root"))
    realm.ok(etcd.AuthEnableRequest())
    assert realm.machine.auth.guarded == {TABLE}
    realm.ok(etcd.AuthEnableRequest())
    realm.ok(etcd.AuthDisableRequest())
    assert realm.machine.auth.guarded == set()
    realm.ok(etcd.AuthDisableRequest(), "")


def test_the_revision_counts_what_has_an_effect(realm: Realm) -> None:
    assert realm.revision == 1
    realm.add_user("root")
    assert realm.revision == 2
    realm.ok(etcd.AuthUserGrantRoleRequest(user="root", role="root"))
    realm.ok(etcd.AuthUserGrantRoleRequest(user="root", role="root"))
    assert realm.revision == 3
    realm.ok(etcd.AuthEnableRequest())
    realm.ok(etcd.AuthEnableRequest())
    assert realm.revision == 3
    realm.grant("r", READ, b"a")
    assert realm.revision == 5
    realm.grant("r", READ, b"a")  # the one thing that has none and counts, as in etcd
    assert realm.revision == 6
    realm.ok(etcd.AuthDisableRequest())
    realm.ok(etcd.AuthDisableRequest())
    assert realm.revision == 7
    status = etcd.AuthStatusResponse.FromString(realm.ok(etcd.AuthStatusRequest()))
    assert (status.enabled, status.authRevision) == (False, 7)


def test_the_version_tells_every_change_apart(realm: Realm) -> None:
    seen = [realm.machine.auth.of(TABLE).version]
    realm.enable()
    seen.append(realm.machine.auth.of(TABLE).version)
    assert seen[-1] % 2
    realm.ok(etcd.AuthDisableRequest())
    seen.append(realm.machine.auth.of(TABLE).version)
    assert seen == sorted(set(seen))
    assert not seen[-1] % 2


def test_tables_are_apart(realm: Realm) -> None:
    realm.shard.write(frames.TableSpec(id=OTHER_TABLE, name="other", history=-1))
    realm.enable()
    assert realm.ask(put(b"k"), "", table=TABLE).error is not None
    assert realm.ask(put(b"k"), "", table=OTHER_TABLE).error is None
    assert realm.machine.auth.of(OTHER_TABLE).users == {}


# ---- users and roles --------------------------------------------------------------------------------------------


def test_users_come_and_go(realm: Realm) -> None:
    assert realm.error(etcd.AuthUserAddRequest()) is errors.UserEmpty
    realm.add_user("u")
    assert realm.error(etcd.AuthUserAddRequest(name="u")) is errors.UserAlreadyExist
    assert realm.error(etcd.AuthUserGetRequest(name="v")) is errors.UserNotFound
    assert realm.error(etcd.AuthUserDeleteRequest(name="v")) is errors.UserNotFound
    assert realm.error(etcd.AuthUserChangePasswordRequest(name="v")) is errors.UserNotFound
    # The user is looked at before the role.
    assert realm.error(etcd.AuthUserGrantRoleRequest(user="v", role="r")) is errors.UserNotFound
    assert realm.error(etcd.AuthUserGrantRoleRequest(user="u", role="r")) is errors.RoleNotFound
    assert realm.error(etcd.AuthUserRevokeRoleRequest(name="u", role="r")) is errors.RoleNotGranted
    assert realm.error(etcd.AuthUserRevokeRoleRequest(name="v", role="r")) is errors.UserNotFound
    realm.add_user("a")
    assert list(etcd.AuthUserListResponse.FromString(realm.ok(etcd.AuthUserListRequest())).users) == [
        "a",
        "u",
    ]
    realm.ok(etcd.AuthUserDeleteRequest(name="u"))
    assert realm.error(etcd.AuthUserGetRequest(name="u")) is errors.UserNotFound


def test_roles_of_a_user_are_sorted(realm: Realm) -> None:
    for role in ("z", "b", "m"):
        realm.ok(etcd.AuthRoleAddRequest(name=role))
    realm.add_user("u", "z", "b", "m")
    got = etcd.AuthUserGetResponse.FromString(realm.ok(etcd.AuthUserGetRequest(name="u")))
    assert list(got.roles) == ["b", "m", "z"]
    realm.ok(etcd.AuthUserRevokeRoleRequest(name="u", role="m"))
    got = etcd.AuthUserGetResponse.FromString(realm.ok(etcd.AuthUserGetRequest(name="u")))
    assert list(got.roles) == ["b", "z"]


def test_roles_come_and_go_with_all_who_have_them(realm: Realm) -> None:
    assert realm.error(etcd.AuthRoleAddRequest()) is errors.RoleEmpty
    realm.ok(etcd.AuthRoleAddRequest(name="r"))
    realm.ok(etcd.AuthRoleAddRequest(name="a"))
    assert realm.error(etcd.AuthRoleAddRequest(name="r")) is errors.RoleAlreadyExist
    assert list(etcd.AuthRoleListResponse.FromString(realm.ok(etcd.AuthRoleListRequest())).roles) == [
        "a",
        "r",
    ]
    realm.add_user("u", "r", "a")
    realm.ok(etcd.AuthRoleDeleteRequest(role="r"))
    assert realm.error(etcd.AuthRoleDeleteRequest(role="r")) is errors.RoleNotFound
    assert realm.error(etcd.AuthRoleGetRequest(role="r")) is errors.RoleNotFound
    got = etcd.AuthUserGetResponse.FromString(realm.ok(etcd.AuthUserGetRequest(name="u")))
    assert list(got.roles) == ["a"]


def test_permissions_are_one_a_span(realm: Realm) -> None:
    grant = etcd.AuthRoleGrantPermissionRequest
    perm = auth_pb2.Permission
    assert realm.error(grant(name="r")) is errors.PermissionNotGiven
    assert realm.error(grant(name="r", perm=perm(key=b"a"))) is errors.RoleNotFound
    realm.ok(etcd.AuthRoleAddRequest(name="r"))
    for bad in (perm(), perm(key=b"b", range_end=b"a"), perm(key=b"b", range_end=b"b")):
        assert realm.error(grant(name="r", perm=bad)) is errors.InvalidAuthMgmt
    realm.grant("r", READ, b"b", b"\0")
    realm.grant("r", READ, b"a", b"c")
    realm.grant("r", WRITE, b"a")
    realm.grant("r", READWRITE, b"a", b"c")

    def held() -> list[tuple[int, bytes, bytes]]:
        got = etcd.AuthRoleGetResponse.FromString(realm.ok(etcd.AuthRoleGetRequest(role="r")))
        return [(each.permType, each.key, each.range_end) for each in got.perm]

    assert held() == [(WRITE, b"a", b""), (READWRITE, b"a", b"c"), (READ, b"b", b"\0")]
    revoke = etcd.AuthRoleRevokePermissionRequest
    assert realm.error(revoke(role="r", key=b"a", range_end=b"b")) is errors.PermissionNotGranted
    assert realm.error(revoke(role="s", key=b"a")) is errors.RoleNotFound
    realm.ok(revoke(role="r", key=b"a"))
    assert held() == [(READWRITE, b"a", b"c"), (READ, b"b", b"\0")]


def test_nobody_is_locked_out(probed: Realm) -> None:
    assert probed.error(etcd.AuthUserDeleteRequest(name="root")) is errors.InvalidAuthMgmt
    assert probed.error(etcd.AuthUserRevokeRoleRequest(name="root", role="root")) is errors.InvalidAuthMgmt
    assert probed.error(etcd.AuthRoleDeleteRequest(role="root")) is errors.InvalidAuthMgmt
    probed.ok(etcd.AuthDisableRequest())
    probed.ok(etcd.AuthUserRevokeRoleRequest(name="root", role="root"))
    probed.ok(etcd.AuthUserDeleteRequest(name="root"))


# ---- tokens -----------------------------------------------------------------------------------------------------


def test_tokens_end_with_what_they_stand_for(probed: Realm) -> None:
    mine, other = probed.log_in("u"), probed.log_in("u")
    roots = probed.log_in("root")
    assert mine != other
    probed.grant("r", READ, b"zz")
    assert probed.knows(mine)
    probed.ok(etcd.AuthUserChangePasswordRequest(name="u", hashedPassword="new"))
    assert not probed.knows(mine)
    assert not probed.knows(other)
    assert probed.knows(roots)
    mine = probed.log_in("u")
    probed.ok(etcd.AuthUserDeleteRequest(name="u"))
    assert not probed.knows(mine)
    probed.ok(etcd.AuthDisableRequest())
    assert not probed.knows(roots)


def test_a_login_is_refused_if_anything_changed_since_the_password_was_checked(probed: Realm) -> None:
    login = frames.LogIn(user="u", auth_revision=probed.revision, digest=bytes(16))
    probed.ok(etcd.AuthUserChangePasswordRequest(name="u", hashedPassword="new"))
    assert probed.error(login) is errors.AuthOldRevision
    probed.ok(etcd.AuthDisableRequest())
    assert probed.error(login) is errors.AuthNotEnabled


def test_a_name_that_is_nobodys_is_checked_at_the_cost_of_others(realm: Realm) -> None:
    def cost_of(name: str) -> int:
        body = etcd.AuthenticateRequest(name=name).SerializeToString()
        parsed = realm.machine.parse(frames.AUTH_LOOK_UP, TABLE, body, NOBODY)
        told = frames.Secret.FromString(realm.machine.read(realm.shard.connection, parsed).body)
        assert not (told.hash and told.usual_cost)
        return told.usual_cost

    assert cost_of("nobody") == 0
    realm.ok(etcd.AuthUserAddRequest(name="without", options=auth_pb2.UserAddOptions(no_password=True)))
    assert cost_of("nobody") == 0
    for number in range(20):
        hashed = f"$2b${12 if number < 10 else 10}$letters"
        realm.ok(etcd.AuthUserAddRequest(name=f"u{number}", hashedPassword=hashed))
    names = [f"nobody{number}" for number in range(100)]
    costs = {name: cost_of(name) for name in names}
    assert set(costs.values()) == {10, 12}, "as the users' own"
    assert costs == {name: cost_of(name) for name in names}
    realm.machine.reload()
    assert costs == {name: cost_of(name) for name in names}, "also after a restart"
    assert cost_of("u1") == 0


def test_unused_tokens_are_dropped_by_name(probed: Realm) -> None:
    mine, other = probed.log_in("u"), probed.log_in("u")
    probed.ok(frames.Tokens(tokens=[mine, b"unknown"]), "")
    assert not probed.knows(mine)
    assert probed.knows(other)


def test_there_is_an_end_to_the_number_of_tokens(probed: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_store, "TOKENS_MAX", 3)
    made = [probed.log_in("u") for _ in range(5)]
    assert [probed.knows(token) for token in made] == [False, False, True, True, True]


# ---- in the database --------------------------------------------------------------------------------------------


def fill(realm: Realm) -> None:
    realm.grant("r", READWRITE, b"\0\xff", b"\0")
    realm.add_user("u", "r")
    realm.ok(etcd.AuthUserAddRequest(name="cn", options=auth_pb2.UserAddOptions(no_password=True)))
    realm.enable()
    realm.log_in("u")
    realm.ok(etcd.AuthUserDeleteRequest(name="cn"))


def test_all_of_it_survives_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    realm = Realm(path)
    fill(realm)
    held, tokens, checksum = (
        realm.machine.auth.of(TABLE),
        realm.machine.auth.tokens(TABLE),
        realm.machine.checksum,
    )
    again = Shard(path, create=False).machine
    assert again.auth.of(TABLE) == held
    assert again.auth.tokens(TABLE) == tokens
    assert again.auth.guarded == {TABLE}
    assert again.checksum == checksum
    realm.machine.reload()
    assert realm.machine.auth.of(TABLE) == held
    assert realm.machine.checksum == checksum


def test_a_turn_that_failed_leaves_nothing(probed: Realm) -> None:
    token = probed.log_in("u")
    before = probed.machine.auth.of(TABLE), dict(probed.machine.auth.tokens(TABLE)), probed.machine.checksum
    probed.shard.connection.execute("BEGIN IMMEDIATE")
    probed.shard.apply_uncommitted(
        probed.command(etcd.AuthUserDeleteRequest(name="u"), probed.who("root")),
        probed.command(etcd.AuthDisableRequest(), probed.who("root")),
    )
    assert not probed.knows(token)
    assert probed.machine.auth.guarded == set()
    probed.shard.connection.execute("ROLLBACK")
    probed.machine.rollback()
    after = probed.machine.auth.of(TABLE), dict(probed.machine.auth.tokens(TABLE)), probed.machine.checksum
    assert after == before
    assert probed.machine.auth.guarded == {TABLE}


def test_nothing_is_left_of_a_table_that_is_dropped(probed: Realm) -> None:
    probed.log_in("u")
    probed.shard.connection.execute("BEGIN IMMEDIATE")
    probed.machine.auth.drop_table(TABLE)
    assert probed.machine.auth.guarded == set()
    assert probed.machine.auth.checksum == 0
    assert probed.shard.connection.execute("SELECT count(*) FROM auth").get == 0
    probed.shard.connection.execute("ROLLBACK")
    probed.machine.rollback()
    assert probed.machine.auth.guarded == {TABLE}
    assert "u" in probed.machine.auth.of(TABLE).users


def test_replicas_that_differ_in_users_differ_in_their_checksum() -> None:
    one, two = Realm(), Realm()
    for realm in (one, two):
        realm.add_user("root", "root")
    assert one.machine.checksum == two.machine.checksum
    one.grant("r", READ, b"a")
    two.grant("r", WRITE, b"a")
    assert one.machine.checksum != two.machine.checksum
    for realm in (one, two):
        realm.ok(etcd.AuthRoleDeleteRequest(role="r"))
    assert one.machine.auth.checksum == two.machine.auth.checksum
