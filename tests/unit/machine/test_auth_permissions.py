"""Who may do what: every request is held against the permissions of its user."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import apsw
import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from shardworker.machine import REGISTRY, SYSTEM, Who
from tests.unit.machine.realm import OTHER_TABLE, READ, READWRITE, Realm
from tests.unit.machine.shard import TABLE, delete, get, put, txn

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message


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
