"""Whose request it is at one replica, and how tokens end that nobody uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proto import errors
from proto.etcd import auth_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.tokens import digest_of, draw_letters, presented
from shardworker.raft import MessageKind
from shardworker.replica import logins
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import CLIENT, TABLE, Bench, everything, iteration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.message import Message

    from shardworker.raft import Membership, NodeId

TTL_TICKS = 50


class Door(Bench):
    """A replica with a table that asks who somebody is. User u may read and write [a,c)."""

    def __init__(self, folder: Path, membership: Membership, **settings: Any) -> None:
        self.token_uses: list[tuple[NodeId, frames.TokenUse]] = []
        """What it has told of them, and whom."""
        super().__init__(folder, membership, **settings)

    def set_up(self) -> None:
        spec = frames.TableSpec(id=TABLE, name="t", history=-1)
        self.write(frames.TABLE_CREATE, spec.SerializeToString())
        for name in ("root", "u"):
            self.write(frames.AUTH_USER_ADD, etcd.AuthUserAddRequest(name=name).SerializeToString())
        perm = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=b"a", range_end=b"c")
        for method, request in (
            (frames.AUTH_ROLE_ADD, etcd.AuthRoleAddRequest(name="r")),
            (frames.AUTH_ROLE_GRANT_PERMISSION, etcd.AuthRoleGrantPermissionRequest(name="r", perm=perm)),
            (frames.AUTH_USER_GRANT_ROLE, etcd.AuthUserGrantRoleRequest(user="u", role="r")),
            (frames.AUTH_USER_GRANT_ROLE, etcd.AuthUserGrantRoleRequest(user="root", role="root")),
            (frames.AUTH_ENABLE, etcd.AuthEnableRequest()),
        ):
            self.write(method, request.SerializeToString())

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        super().send_peer(node, envelope)
        self.token_uses += [(node, use) for use in envelope.tokens_used]

    @property
    def auth_revision(self) -> int:
        return self.replica._machine.auth.of(TABLE).revision

    def log_in(self, user: str = "u") -> bytes:
        letters = draw_letters()
        request = frames.LogIn(user=user, auth_revision=self.auth_revision, digest=digest_of(letters))
        call = self.send(frames.AUTH_LOG_IN, request)
        index = frames.LoggedIn.FromString(self.answer(call).body).index
        return presented(f"{letters}.{index}")

    def send(self, method: frames.Method.ValueType, request: Message, **who: Any) -> int:
        """A write."""
        return self.ask(
            method, request.SerializeToString(), request_id=(self._calls + 1).to_bytes(16, "big"), **who
        )

    def put(self, key: bytes, **who: Any) -> frames.Reply:
        return self.answer(self.send(frames.ETCD_PUT, etcd.PutRequest(key=key, value=b"v"), **who))

    def get(self, key: bytes, **who: Any) -> frames.Reply:
        body = etcd.RangeRequest(key=key).SerializeToString()
        return self.answer(self.ask(frames.ETCD_RANGE, body, **who))

    def is_known(self, token: bytes) -> bool:
        return token in self.replica._machine.auth.tokens(TABLE)

    def pass_ticks(self, count: int) -> None:
        for _ in range(count):
            self.tick()
        self.work()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    bench = Door(
        tmp_path / "alone", members(1), auth={"token_ttl_ms": 5_000}, raft={"tick_ms": 5_000 // TTL_TICKS}
    )
    bench.core.campaign()
    bench.replica.turn()
    bench.set_up()
    yield bench
    bench.store.close()


def test_a_replicas_status_tells_the_revision_of_a_tables_users(door: Door) -> None:
    (before,) = door.replica.status().tables
    assert before.auth_revision == door.auth_revision > 1
    door.write(
        frames.AUTH_ROLE_ADD, etcd.AuthRoleAddRequest(name="one more").SerializeToString(), user="root"
    )
    (after,) = door.replica.status().tables
    assert after.auth_revision == before.auth_revision + 1


def test_what_one_user_is_told_in_a_turn_is_no_answer_to_another(door: Door) -> None:
    door.put(b"q", user="root")
    body = etcd.RangeRequest(key=b"q").SerializeToString()
    envelope = frames.Envelope()
    for call, who in ((901, "root"), (902, "u"), (903, "root")):
        envelope.requests.add(call=call, method=frames.ETCD_RANGE, table_id=TABLE, body=body, user=who)
    door.replica.handle(CLIENT, envelope)
    door.replica.turn()
    assert b"v" in door.answer(901).body
    assert door.answer(903).body == door.answer(901).body
    with pytest.raises(errors.PermissionDenied):
        door.answer(902)


def test_a_token_stands_for_its_user(door: Door) -> None:
    token = door.log_in()
    door.put(b"a", token=token)
    assert b"v" in door.get(b"a", token=token).body
    for ask in (door.put, door.get):
        with pytest.raises(errors.PermissionDenied):
            ask(b"q", token=token)
        with pytest.raises(errors.InvalidAuthToken):
            ask(b"a", token=bytes(24))
        with pytest.raises(errors.UserEmpty):
            ask(b"a")


def test_who_has_proved_himself_to_the_coordinator_is_that_user(door: Door) -> None:
    door.put(b"a", user="u")
    door.put(b"a", user="u", auth_revision=door.auth_revision)
    with pytest.raises(errors.AuthOldRevision):
        door.put(b"a", user="u", auth_revision=door.auth_revision - 1)
    with pytest.raises(errors.AuthOldRevision):
        door.get(b"a", user="u", auth_revision=door.auth_revision - 1)
    with pytest.raises(errors.PermissionDenied):
        door.get(b"a", user="nobody")


def test_what_nobody_may_do_takes_no_place_in_the_log(door: Door) -> None:
    before = door.core.log.last_index
    with pytest.raises(errors.UserEmpty):
        door.put(b"a")
    with pytest.raises(errors.InvalidAuthToken):
        door.put(b"a", token=b"?")
    assert door.core.log.last_index == before


def test_the_systems_own_reads_pass_and_its_writes_do_not(door: Door) -> None:
    door.get(b"q", system=True)
    with pytest.raises(errors.UserEmpty):
        door.put(b"q", system=True)


def test_nobody_asks_for_tokens_while_authentication_is_off(door: Door) -> None:
    door.answer(door.send(frames.AUTH_DISABLE, etcd.AuthDisableRequest(), user="root"))
    door.put(b"q", token=b"garbage")
    door.get(b"q", token=b"garbage")
    door.put(b"q")


def test_iterations_and_long_reads_are_no_way_around(door: Door) -> None:
    token = door.log_in()
    with pytest.raises(errors.PermissionDenied):
        door.answer(door.ask(frames.REGATTA_ITERATE, iteration(), token=token))
    with pytest.raises(errors.InvalidAuthToken):
        door.answer(door.ask(frames.REGATTA_ITERATE, iteration(), token=b"?"))
    with pytest.raises(errors.UserEmpty):
        door.answer(door.ask(frames.ETCD_RANGE, everything()))


def test_followers_of_a_table_hear_its_auth_version(door: Door) -> None:
    def version() -> int:
        request = frames.ChangesRequest(from_revision=0, wait_ms=0).SerializeToString()
        return frames.TableChanges.FromString(
            door.answer(door.ask(frames.TABLE_CHANGES, request)).body
        ).auth_version

    assert version() == 2 * door.auth_revision + 1
    door.answer(door.send(frames.AUTH_DISABLE, etcd.AuthDisableRequest(), user="root"))
    assert version() == 2 * door.auth_revision


def test_a_token_that_nobody_uses_ends_and_a_used_one_does_not(door: Door) -> None:
    used, unused = door.log_in(), door.log_in()
    for _ in range(6):
        door.pass_ticks(TTL_TICKS // 3)
        door.get(b"a", token=used)
    assert door.is_known(used)
    assert not door.is_known(unused)
    with pytest.raises(errors.InvalidAuthToken):
        door.get(b"a", token=unused)
    door.pass_ticks(2 * TTL_TICKS)
    assert not door.is_known(used)


def test_an_idle_replica_is_awake_when_tokens_end(door: Door) -> None:
    door.log_in()
    door.tick()
    assert door.replica.ticks_until_action() <= TTL_TICKS


def test_a_follower_tells_the_leader_what_it_has_answered(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"auth": {"token_ttl_ms": 5_000}, "raft": {"tick_ms": 5_000 // TTL_TICKS}}
    bench = Door(tmp_path / "follower", members(1, 2, 3), **settings)
    try:
        bench.lead()
        bench.set_up()
        letters = draw_letters()
        login = frames.LogIn(user="u", auth_revision=bench.auth_revision, digest=digest_of(letters))
        bench.write(frames.AUTH_LOG_IN, login.SerializeToString())
        (token,) = bench.replica._machine.auth.tokens(TABLE)
        term = bench.core.term + 1
        bench.hear(message(MessageKind.HEARTBEAT, 2, term))
        bench.get(b"a", token=token)
        for _ in range(TTL_TICKS // logins.LOOKS):
            bench.hear(message(MessageKind.HEARTBEAT, 2, term))
            bench.tick()
        assert [(node, one.table_id, one.token) for node, one in bench.token_uses] == [(2, TABLE, token)]
    finally:
        bench.store.close()


def test_what_a_follower_has_answered_is_a_use(door: Door) -> None:
    token = door.log_in()
    for _ in range(6):
        door.pass_ticks(TTL_TICKS // 3)
        use = frames.TokenUse(table_id=TABLE, token=token)
        door.replica.handle(b"peer", frames.Envelope(tokens_used=[use]))
    assert door.is_known(token)


def test_leases_are_listed_beside_the_loop_for_who_may_read_all_their_keys(door: Door) -> None:
    root: dict[str, Any] = {"user": "root", "auth_revision": door.auth_revision}
    user = root | {"user": "u"}
    grants = [etcd.LeaseGrantRequest(ID=lease_id, TTL=60) for lease_id in (7, 8)]
    for grant in grants:
        door.answer(door.send(frames.LEASE_GRANT, grant, **root))
    door.answer(door.send(frames.ETCD_PUT, etcd.PutRequest(key=b"a", lease=7), **root))
    door.jobs.may_end = False
    call = door.ask(frames.LEASE_LEASES, linearizable=True, **user)
    assert call not in door.replies, "there may be very many keys"
    door.jobs.may_end = True
    door.work()
    assert {lease.ID for lease in etcd.LeaseLeasesResponse.FromString(door.answer(call).body).leases} == {
        7,
        8,
    }
    door.answer(door.send(frames.ETCD_PUT, etcd.PutRequest(key=b"q", lease=8), **root))
    with pytest.raises(errors.PermissionDenied):
        door.answer(door.ask(frames.LEASE_LEASES, linearizable=True, **user))
    door.answer(door.ask(frames.LEASE_LEASES, linearizable=True, **root))
