"""Users, roles and permissions as the state machine keeps them, and that every request is held against them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import apsw
import pytest

from proto import errors
from proto.etcd import auth_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from proto.tokens import digest_of, draw_letters, known_by, presented
from shardworker.machine import NOBODY, REGISTRY, SYSTEM, Result, Who, auth_store
from tests.unit.machine.shard import TABLE, Shard, delete, get, put, txn

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.fixture
def realm() -> Realm:
    return Realm()


@pytest.fixture
def probed() -> Realm:
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


# ---- who may do what --------------------------------------------------------------------------------------------

DENIED = errors.PermissionDenied


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (get(b"a"), None),
        (get(b"a", b"c"), None),
        (get(b"a", b"e"), None),
        (get(b"x", b"\0"), None),
        (get(b"y", b"z"), None),
        (get(b"a", b"f"), DENIED),
        (get(b"e"), DENIED),
        (get(b"w"), DENIED),
        (get(b"w", b"\0"), DENIED),
        (get(b"b", b"a"), DENIED),
        (get(b"a", b"a"), DENIED),
        (get(b"\0", b"\0"), DENIED),
        (get(b"a", b"\0"), DENIED),
        (put(b"a"), None),
        (put(b"c"), DENIED),
        (put(b"w"), None),
        (put(b"w", prev_kv=True), DENIED),
        (put(b"a", prev_kv=True), None),
        (put(b"w", ignore_value=True), errors.KeyNotFound),
        (put(b"c", ignore_value=True), DENIED),
        (put(b"c", lease=7), DENIED),
        (delete(b"a", b"c"), None),
        (delete(b"a", b"e"), DENIED),
        (delete(b"w"), None),
        (delete(b"w", prev_kv=True), DENIED),
        (delete(b"x", b"\0"), DENIED),
        (txn(compare=[etcd.Compare(key=b"q")]), DENIED),
        (txn(compare=[etcd.Compare(key=b"a", range_end=b"f")]), DENIED),
        (txn(compare=[etcd.Compare(key=b"a", range_end=b"e")]), None),
        (txn(put(b"a"), failure=[put(b"q")]), DENIED),
        (txn(put(b"a"), failure=[txn(get(b"q"))]), DENIED),
        (txn(txn(failure=[delete(b"c")])), DENIED),
        (txn(txn(compare=[etcd.Compare(key=b"q")])), DENIED),
        (txn(put(b"a"), failure=[txn(get(b"d"))]), None),
        (etcd.CompactionRequest(revision=1), DENIED),
        (regatta.RangeRequest(table=b"t", key=b"a", range_end=b"e"), None),
        (regatta.RangeRequest(table=b"t", key=b"w"), DENIED),
        (regatta.PutRequest(table=b"t", key=b"c"), DENIED),
        (regatta.PutRequest(table=b"t", key=b"w", prev_kv=True), DENIED),
        (regatta.DeleteRangeRequest(table=b"t", key=b"a", range_end=b"e"), DENIED),
        (regatta.TxnRequest(table=b"t", compare=[mvcc.Compare(key=b"q")]), DENIED),
        (etcd.AuthUserGetRequest(name="u"), None),
        (etcd.AuthUserGetRequest(name="root"), DENIED),
        (etcd.AuthUserGetRequest(name="nobody"), DENIED),
        (etcd.AuthRoleGetRequest(role="r"), None),
        (etcd.AuthRoleGetRequest(role="other"), DENIED),
        (etcd.AuthUserChangePasswordRequest(name="u", hashedPassword="h"), DENIED),
        (etcd.AuthStatusRequest(), DENIED),
        (etcd.AuthUserListRequest(), DENIED),
        (etcd.AuthRoleListRequest(), DENIED),
        (etcd.AuthDisableRequest(), DENIED),
        (etcd.AuthEnableRequest(), DENIED),
        (etcd.AuthUserAddRequest(name="v"), DENIED),
        (frames.RightsRequest(), None),
        (frames.RightsRequest(need=frames.RightsRequest.ROOT), DENIED),
    ],
    ids=lambda value: (
        " ".join(str(value).split()) or "empty" if not isinstance(value, type) else value.__name__
    ),
)
def test_what_a_user_may_do(probed: Realm, request_: Message, answer: type[Exception] | None) -> None:
    assert probed.error(request_, "u") is answer
    # Whoever may do everything hears nothing of permissions.
    assert probed.error(request_, "root") is not DENIED


@pytest.mark.parametrize(
    "request_", [get(b"a"), put(b"a"), txn(put(b"a")), etcd.CompactionRequest(revision=1)]
)
def test_who_shows_nothing_may_do_nothing(probed: Realm, request_: Message) -> None:
    assert probed.error(request_, "") is errors.UserEmpty
    # A name alone proves nothing.
    if not isinstance(request_, etcd.CompactionRequest):
        assert probed.error(request_, who=Who("root", 0)) is errors.UserEmpty


def test_a_transaction_of_nothing_needs_nobody(probed: Realm) -> None:
    assert probed.error(txn(), "") is None


def test_touching_permissions_of_several_roles_are_one(realm: Realm) -> None:
    realm.grant("r", READ, b"a", b"c")
    realm.grant("s", READ, b"c", b"e")
    realm.grant("s", READ, b"e")
    realm.grant("t", READ, b"f", b"g")
    realm.add_user("u", "r", "s", "t")
    realm.enable()
    assert realm.error(get(b"a", b"e"), "u") is None
    assert realm.error(get(b"a", b"e\0"), "u") is None
    assert realm.error(get(b"a", b"e\1"), "u") is DENIED
    assert realm.error(get(b"a", b"g"), "u") is DENIED


def test_what_was_taken_away_meanwhile_counts(probed: Realm) -> None:
    admitted = probed.who("u")
    assert probed.error(put(b"a"), who=admitted) is None
    revoke = etcd.AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"c")
    # In one entry, behind the change.
    changed, written = probed.shard.apply(
        probed.command(revoke, probed.who("root")), probed.command(put(b"a"), admitted)
    )
    assert changed.error is None
    assert type(written.error) is errors.AuthOldRevision
    assert probed.error(put(b"a"), "u") is DENIED


def test_who_proved_himself_before_anything_changed_proves_it_anew(probed: Realm) -> None:
    admitted = probed.who("u")
    probed.add_user("v")
    assert probed.error(put(b"a"), who=admitted) is errors.AuthOldRevision
    assert probed.error(get(b"a"), who=admitted) is errors.AuthOldRevision
    # As in etcd: managing users looks at who somebody is now.
    assert probed.error(etcd.AuthUserListRequest(), who=Who("root", admitted.revision)) is None


def test_a_user_who_was_deleted_may_do_nothing(probed: Realm) -> None:
    probed.ok(etcd.AuthUserDeleteRequest(name="u"))
    assert probed.error(get(b"a"), "u") is DENIED
    assert probed.error(etcd.AuthUserListRequest(), "u") is errors.UserNotFound


def test_a_put_with_a_lease_needs_all_keys_that_it_holds(
    probed: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {7: [b"a", b"w"], 8: [b"a", b"c"]}

    def next_key(table: int, lease: int, start: bytes) -> bytes | None:
        return min((key for key in keys[lease] if key >= start and table == TABLE), default=None)

    monkeypatch.setattr(probed.machine, "next_key_of_lease", next_key)
    assert probed.error(put(b"a", lease=7), "u") is errors.LeaseNotFound
    assert probed.error(put(b"a", lease=8), "u") is DENIED
    assert probed.error(txn(put(b"a", lease=8)), "u") is DENIED


def test_the_clusters_own_work_goes_on(probed: Realm) -> None:
    assert probed.error(get(b"q"), who=SYSTEM) is None
    assert probed.shard.write(frames.TableSpec(id=OTHER_TABLE, name="other", history=-1)).error is None


def test_what_one_user_was_told_is_not_for_another(probed: Realm) -> None:
    probed.grant("v", READWRITE, b"\0", b"\0")
    probed.add_user("v", "v")
    probed.ok(put(b"a", b"secret"), "v")
    first = probed.command(put(b"a", prev_kv=True), probed.who("v"))
    stolen = probed.command(put(b"a", prev_kv=True), probed.who("u"))
    stolen.request_id = first.request_id
    mine, his, again = probed.shard.apply(first, stolen, first)
    assert b"secret" in mine.body
    assert type(his.error) is errors.RequestIdReused
    assert again == mine


def test_an_iteration_ends_when_its_user_may_no_longer_read(tmp_path: Path) -> None:
    realm = Realm(str(tmp_path / "db"))
    realm.shard.connection.execute("PRAGMA journal_mode = wal")
    realm.grant("r", READ, b"a", b"z")
    realm.add_user("u", "r")
    realm.enable()
    for key in (b"a", b"b", b"c", b"d"):
        realm.ok(put(key, bytes(3 << 20)))
    body = regatta.RangeRequest(table=b"t", key=b"a", range_end=b"z").SerializeToString()
    parsed = realm.machine.parse(frames.REGATTA_ITERATE, TABLE, body, realm.who("u"))
    with closing(realm.machine.iterate(apsw.Connection(str(tmp_path / "db")), parsed)) as parts:
        assert next(parts).error is None
        realm.add_user("v")  # which does not concern him
        assert next(parts).error is None
        realm.ok(etcd.AuthUserRevokeRoleRequest(name="u", role="r"))
        assert type(next(parts).error) is DENIED
        assert next(parts, None) is None


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


# ---- no back door -----------------------------------------------------------------------------------------------

OWN = {
    frames.TABLE_CREATE, frames.TABLE_DELETE, frames.TABLE_STATUS, frames.RAISE_LEVEL, frames.AUTH_LOOK_UP,
    frames.AUTH_LOG_IN, frames.AUTH_DROP_TOKENS, frames.LEASE_EXPIRE, frames.LEASE_CHECKPOINT,
    frames.TABLE_QUOTA, frames.TABLE_FREED, frames.FOLLOWER_POSITION,
    frames.REPLICATE_CHANGES, frames.REPLICATE_SNAPSHOT, frames.TABLE_PAIRS, frames.COPY_RESET, frames.TABLE_BACKUP,
    frames.TABLE_RESTORE,
    frames.TABLE_ORIGIN, frames.TABLE_USERS, frames.REPLICATE_USERS, frames.FOLLOW_COMMANDS, frames.FOLLOW_SNAPSHOT,
    frames.TABLE_MOVE, frames.TABLE_EXPORT, frames.TABLE_IMPORT,
}  # fmt: skip
"""What no client can ask for: the coordinator and the leader do, for themselves."""


def test_every_method_that_a_client_reaches_is_checked() -> None:
    assert {method for method, handler in REGISTRY.handlers.items() if handler.check is None} == OWN


def test_no_hash_shows_where_a_user_is_printed(probed: Realm) -> None:
    assert "hash of u" not in repr(probed.machine.auth.of(TABLE))
