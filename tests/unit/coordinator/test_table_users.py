"""Which table a client means that names none, by who it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from config import ClusterConfig
from coordinator.api.call import Identity
from coordinator.api.local_call import LocalCall
from coordinator.auth.passwords import Passwords
from coordinator.auth.table_users import TableUsers
from coordinator.services.etcd_tables import EtcdTables
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.tokens import presented
from tests.stubs import stub
from tests.unit.coordinator.running import in_loop, make_config, refused, running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ODD = "tabelle@ü"


def with_users(folder: Path) -> ClusterConfig:
    data = make_config(folder, nodes=1, shards=1).model_dump()
    data["tables"] |= {"users": {"users": ["web", "batch"]}, ODD: {"users": ["odd"]}, "other": {}}
    return ClusterConfig.model_validate(data)


@pytest.mark.parametrize(
    ("metadata", "common_name", "login", "table"),
    [
        ({}, "", "", "default"),
        ({}, "", "web", "users"),
        ({}, "batch", "", "users"),
        ({}, "", "somebody", "default"),
        ({"table": "other"}, "batch", "web", "other"),
        ({"token": "abc.7@users"}, "", "", "users"),
        ({"authorization": "Bearer abc.7@users"}, "odd", "", "users"),
        ({"token": "abc.7"}, "", "", "default"),
        ({"token": "abc.7"}, "odd", "", ODD),
        ({"token": "abc.7@users"}, "", "odd", ODD),
        # It was named in the file when its token was made.
        ({"token": "abc.7@other"}, "batch", "", "other"),
        # Not a login's: it may have anything in it.
        ({"authorization": "Bearer secret@other"}, "", "", "default"),
    ],
)
@in_loop
async def test_who_it_is_says_which_table(
    tmp_path: Path, metadata: Mapping[str, str], common_name: str, login: str, table: str
) -> None:
    async def find_table(name: str, _deadline: float, *, body_bytes: int) -> Any:
        return SimpleNamespace(name=name)

    calls: Any = SimpleNamespace(find_table=find_table)
    nothing: Any = None
    tables = EtcdTables(calls, nothing, nothing, TableUsers(with_users(tmp_path)))
    call = LocalCall((), metadata=metadata, deadline=1.0, peer="", identity=Identity(common_name))
    assert (await tables.find(call, login)).name == table


@in_loop
async def test_a_login_leads_to_its_table_from_then_on(tmp_path: Path) -> None:
    secret = frames.Secret(enabled=True, hash=await Passwords(cost=4).hash("pw"), auth_revision=3)
    async with running(tmp_path, config=with_users(tmp_path)) as cluster:
        worker, auth = cluster.workers[1, 1], stub(cluster.channel, etcd, "Auth")
        worker.script[frames.AUTH_LOOK_UP] = lambda _: frames.Reply(body=secret.SerializeToString())
        logged_in = frames.LoggedIn(index=7).SerializeToString()
        worker.script[frames.AUTH_LOG_IN] = lambda _: frames.Reply(body=logged_in)
        for user, table in (("web", "users"), ("odd", ODD), ("somebody", "default")):
            request = etcd.AuthenticateRequest(name=user, password="pw")
            token = (await auth.Authenticate(request)).token
            await cluster.etcd.Put(etcd.PutRequest(key=user.encode()), metadata=(("token", token),))
            # Its table knows the token as it made it.
            assert worker.requests(frames.ETCD_PUT)[-1].token == presented(token.partition("@")[0])
            stored = {table.name: set(table.rows) for table in cluster.stores[1].tables.values()}
            assert user.encode() in stored[table]
            # Whoever names a table gets a token as etcd's.
            assert "@" not in (await auth.Authenticate(request, metadata=(("table", "users"),))).token


@in_loop
async def test_a_client_does_not_go_on_in_another_table_for_want_of_a_login(tmp_path: Path) -> None:
    async with running(tmp_path, config=with_users(tmp_path)) as cluster:
        off = frames.Secret().SerializeToString()
        cluster.workers[1, 1].script[frames.AUTH_LOOK_UP] = lambda _: frames.Reply(body=off)
        auth = stub(cluster.channel, etcd, "Auth")
        told = await refused(auth.Authenticate(etcd.AuthenticateRequest(name="web", password="pw")))
        assert told == (
            "FAILED_PRECONDITION",
            "etcdserver: authentication is not enabled in table users, which user web means",
        )
        told = await refused(auth.Authenticate(etcd.AuthenticateRequest(name="somebody", password="pw")))
        assert told == ("FAILED_PRECONDITION", "etcdserver: authentication is not enabled")
