"""Users and permissions, asked of real etcd and of boathouse alike: known answers, and what etcdctl prints."""

from __future__ import annotations

import base64
import http.client
import json
import queue
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import bcrypt
import grpc
import pytest

from proto.etcd import auth_pb2, election_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.regatta import regatta_pb2 as regatta
from tests.conformance.conftest import PATIENCE, running
from tests.conformance.versions import TELLS_EVERYBODY_OF_AUTH, TRANSLATES_REFUSED_MAINTENANCE
from tests.stubs import stub
from tools.bench import systems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READ, WRITE, READWRITE = auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE

OK = ("OK", "")
DENIED = ("PERMISSION_DENIED", "etcdserver: permission denied")
USER_EMPTY = ("INVALID_ARGUMENT", "etcdserver: user name is empty")
INVALID_TOKEN = ("UNAUTHENTICATED", "etcdserver: invalid auth token")
INVALID_MGMT = ("INVALID_ARGUMENT", "etcdserver: invalid auth management")
AUTH_FAILED = ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password")
TABLE = "probe-auth"

RANGE, PUT, DELETE, TXN = etcd.RangeRequest, etcd.PutRequest, etcd.DeleteRangeRequest, etcd.TxnRequest


class Server:
    """A keyspace in the name of one user after the other."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint)
        self.kv = stub(self.channel, etcd, "KV")
        self.auth = stub(self.channel, etcd, "Auth")
        self._regatta = stub(self.channel, regatta, "KV")
        self.tokens: dict[str, str] = {"": ""}

    def log_in(self, name: str, password: str = "") -> str:
        self.tokens[name] = self.auth.Authenticate(
            etcd.AuthenticateRequest(name=name, password=password or f"{name}'s"),
            metadata=(("table", TABLE),),
        ).token
        return self.tokens[name]

    def tried(
        self, method: Callable[..., Any], request: object, user: str = "", token: str = ""
    ) -> tuple[str, str]:
        token = token or self.tokens[user]
        return self.tried_with(method, request, **({"token": token} if token else {}))

    def tried_with(self, method: Callable[..., Any], request: object, **shown: str) -> tuple[str, str]:
        metadata = (("table", TABLE), *shown.items())
        try:
            method(request, metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        return OK

    def ok(self, method: Callable[..., Any], request: object, user: str = "") -> None:
        assert self.tried(method, request, user) == OK

    def kv_as(self, user: str, request: object, token: str = "") -> tuple[str, str]:
        methods = {RANGE: self.kv.Range, PUT: self.kv.Put, DELETE: self.kv.DeleteRange, TXN: self.kv.Txn}
        return self.tried(methods[type(request)], request, user, token)

    def regatta_as(self, user: str, method: str, request: object) -> tuple[str, str]:
        return self.tried(getattr(self._regatta, method), request, user)

    def set_up(self) -> None:
        """User u as in the known answers, and authentication on."""
        auth = self.auth
        for name in ("root", "u"):
            self.ok(auth.UserAdd, etcd.AuthUserAddRequest(name=name, password=f"{name}'s"))
        for role in ("r", "other", "root"):
            self.ok(auth.RoleAdd, etcd.AuthRoleAddRequest(name=role))
        for access, key, end in (
            (READWRITE, b"a", b"c"), (READ, b"c", b"e"), (WRITE, b"w", b""), (READ, b"x", b"\0"),
        ):  # fmt: skip
            perm = auth_pb2.Permission(permType=access, key=key, range_end=end)
            self.ok(auth.RoleGrantPermission, etcd.AuthRoleGrantPermissionRequest(name="r", perm=perm))
        self.ok(auth.UserGrantRole, etcd.AuthUserGrantRoleRequest(user="u", role="r"))
        self.ok(auth.UserGrantRole, etcd.AuthUserGrantRoleRequest(user="root", role="root"))
        self.ok(self.kv.Put, PUT(key=b"w", value=b"1"))
        self.ok(auth.AuthEnable, etcd.AuthEnableRequest())
        for name in ("root", "u"):
            self.log_in(name)


@pytest.fixture(scope="module", params=["etcd", "boathouse"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "boathouse":
        endpoint = request.getfixturevalue("boathouse_endpoint")
        yield from _served(endpoint)
        return
    with running(systems.Etcd(tmp_path_factory.mktemp("etcd"), 1)) as system:
        yield from _served(system.endpoints[0])


def _served(endpoint: str) -> Iterator[Server]:
    server = Server(endpoint)
    server.set_up()
    yield server
    server.channel.close()


def test_ranges(server: Server) -> None:
    for key, end in ((b"a", b""), (b"a", b"c"), (b"a", b"e"), (b"x", b"\0"), (b"y", b"z")):
        assert server.kv_as("u", RANGE(key=key, range_end=end)) == OK, (key, end)
    for key, end in (
        (b"a", b"f"), (b"e", b""), (b"w", b""), (b"w", b"\0"), (b"\0", b"\0"),
    ):  # fmt: skip
        assert server.kv_as("u", RANGE(key=key, range_end=end)) == DENIED, (key, end)
        assert server.kv_as("u", RANGE(key=key, range_end=end, serializable=True)) == DENIED


def test_puts_and_deletes(server: Server) -> None:
    assert server.kv_as("u", PUT(key=b"a")) == OK
    assert server.kv_as("u", PUT(key=b"c")) == DENIED
    assert server.kv_as("u", PUT(key=b"w")) == OK
    assert server.kv_as("u", PUT(key=b"w", prev_kv=True)) == DENIED
    assert server.kv_as("u", PUT(key=b"w", ignore_value=True)) == OK
    assert server.kv_as("u", DELETE(key=b"a", range_end=b"c")) == OK
    assert server.kv_as("u", DELETE(key=b"a", range_end=b"e")) == DENIED
    assert server.kv_as("u", DELETE(key=b"w", prev_kv=True)) == DENIED


def test_transactions(server: Server) -> None:
    compare = etcd.Compare(key=b"q")
    assert server.kv_as("u", TXN(compare=[compare])) == DENIED
    put = [etcd.RequestOp(request_put=PUT(key=b"q"))]
    assert server.kv_as("u", TXN(failure=put)) == DENIED
    assert server.kv_as("u", TXN(success=[etcd.RequestOp(request_put=PUT(key=b"a"))], failure=put)) == DENIED
    assert server.kv_as("u", TXN(success=[etcd.RequestOp(request_put=PUT(key=b"a"))])) == OK


def test_what_a_user_may_see_of_users(server: Server) -> None:
    auth = server.auth
    assert server.tried(auth.UserGet, etcd.AuthUserGetRequest(name="u"), "u") == OK
    assert server.tried(auth.UserGet, etcd.AuthUserGetRequest(name="root"), "u") == DENIED
    assert server.tried(auth.UserGet, etcd.AuthUserGetRequest(name="unknown"), "u") == DENIED
    nobody = ("FAILED_PRECONDITION", "etcdserver: user name not found")
    assert server.tried(auth.UserGet, etcd.AuthUserGetRequest(name="u")) == USER_EMPTY
    assert server.tried(auth.UserGet, etcd.AuthUserGetRequest()) == nobody, "who asks is that nobody himself"
    assert server.tried(auth.RoleGet, etcd.AuthRoleGetRequest(role="r"), "u") == OK
    assert server.tried(auth.RoleGet, etcd.AuthRoleGetRequest(role="other"), "u") == DENIED
    change = etcd.AuthUserChangePasswordRequest(name="u", password="mine")
    assert server.tried(auth.UserChangePassword, change, "u") == DENIED
    if not TELLS_EVERYBODY_OF_AUTH.is_met:
        assert server.tried(auth.AuthStatus, etcd.AuthStatusRequest(), "u") == DENIED


def test_who_shows_nothing_or_nonsense(server: Server) -> None:
    assert server.kv_as("", RANGE(key=b"a")) == USER_EMPTY
    assert server.kv_as("", PUT(key=b"a")) == USER_EMPTY
    assert server.kv_as("", RANGE()) == ("INVALID_ARGUMENT", "etcdserver: key is not provided")
    assert server.kv_as("", TXN()) == OK
    for token in ("garbage", "garbage.1"):
        assert server.kv_as("", RANGE(key=b"a"), token) == INVALID_TOKEN
        assert server.kv_as("", PUT(key=b"a"), token) == INVALID_TOKEN
    for name, password in (("u", "wrong"), ("nobody", "u's"), ("", "")):
        login = etcd.AuthenticateRequest(name=name, password=password)
        assert server.tried(server.auth.Authenticate, login) == AUTH_FAILED


def test_an_empty_token_is_shown_and_nobodys(server: Server) -> None:
    good = server.tokens["u"]
    for shown in (
        {"token": ""},
        {"authorization": ""},
        {"token": "", "authorization": good},
        {"token": "nonsense", "authorization": good},
    ):
        assert server.tried_with(server.kv.Range, RANGE(key=b"a"), **shown) == INVALID_TOKEN
        assert server.tried_with(server.auth.UserList, etcd.AuthUserListRequest(), **shown) == INVALID_TOKEN
    shown = {"token": good, "authorization": ""}
    assert server.tried_with(server.kv.Range, RANGE(key=b"a"), **shown) == OK


def test_who_may_not_maintain_is_told_so_in_the_words_of_the_store_of_users(server: Server) -> None:
    translated = {
        USER_EMPTY: ("UNKNOWN", "auth: user name is empty"),
        DENIED: ("UNKNOWN", "auth: permission denied"),
        INVALID_TOKEN: ("UNKNOWN", "auth: invalid auth token"),
    }

    def tried(*arguments: Any, **options: Any) -> tuple[str, str]:
        said = server.tried(*arguments, **options)
        return translated.get(said, said) if TRANSLATES_REFUSED_MAINTENANCE.is_met else said

    maintenance = stub(server.channel, etcd, "Maintenance")
    for method, request in (
        (maintenance.Hash, etcd.HashRequest()),
        (maintenance.HashKV, etcd.HashKVRequest(revision=1 << 40)),
        (maintenance.Defragment, etcd.DefragmentRequest()),
        (lambda request, **call: list(maintenance.Snapshot(request, **call)), etcd.SnapshotRequest()),
    ):
        assert tried(method, request) == ("UNKNOWN", "auth: user name is empty")
        assert tried(method, request, "u") == ("UNKNOWN", "auth: permission denied")
        for token in ("garbage", "garbage.1"):
            assert tried(method, request, token=token) == ("UNKNOWN", "auth: invalid auth token")
    assert server.tried(maintenance.Hash, etcd.HashRequest(), "root") == OK


def test_nobody_is_locked_out(server: Server) -> None:
    auth = server.auth
    assert server.tried(auth.UserDelete, etcd.AuthUserDeleteRequest(name="root"), "root") == INVALID_MGMT
    revoke = etcd.AuthUserRevokeRoleRequest(name="root", role="root")
    assert server.tried(auth.UserRevokeRole, revoke, "root") == INVALID_MGMT
    assert server.tried(auth.RoleDelete, etcd.AuthRoleDeleteRequest(role="root"), "root") == INVALID_MGMT


def test_tokens_and_what_ends_them(server: Server) -> None:
    auth = server.auth
    server.ok(auth.UserAdd, etcd.AuthUserAddRequest(name="v", password="v's"), "root")
    server.ok(auth.UserGrantRole, etcd.AuthUserGrantRoleRequest(user="v", role="r"), "root")
    first, second = server.log_in("v"), server.log_in("v")
    assert re.fullmatch(r"[A-Za-z]{16}\.\d+", first)
    assert first != second
    for token in (first, second):
        assert server.kv_as("", RANGE(key=b"a"), token) == OK
    # A role or a permission more does not end them.
    server.ok(auth.UserRevokeRole, etcd.AuthUserRevokeRoleRequest(name="v", role="r"), "root")
    assert server.kv_as("", RANGE(key=b"a"), first) == DENIED
    server.ok(auth.UserGrantRole, etcd.AuthUserGrantRoleRequest(user="v", role="r"), "root")
    assert server.kv_as("", RANGE(key=b"a"), first) == OK
    change = etcd.AuthUserChangePasswordRequest(name="v", password="another")
    server.ok(auth.UserChangePassword, change, "root")
    for token in (first, second):
        assert server.kv_as("", RANGE(key=b"a"), token) == INVALID_TOKEN
    assert server.tried(auth.Authenticate, etcd.AuthenticateRequest(name="v", password="v's")) == AUTH_FAILED
    third = server.log_in("v", "another")
    server.ok(auth.UserDelete, etcd.AuthUserDeleteRequest(name="v"), "root")
    assert server.kv_as("", RANGE(key=b"a"), third) == INVALID_TOKEN


def test_what_a_stream_of_watches_may_do_once_its_token_has_ended(server: Server) -> None:
    auth = server.auth
    server.ok(auth.UserAdd, etcd.AuthUserAddRequest(name="streamer", password="streamer's"), "root")
    server.ok(auth.UserGrantRole, etcd.AuthUserGrantRoleRequest(user="streamer", role="r"), "root")
    watch: Any = server.channel.stream_stream(
        "/etcdserverpb.Watch/Watch",
        etcd.WatchRequest.SerializeToString,
        etcd.WatchResponse.FromString,
    )
    said: queue.SimpleQueue[etcd.WatchRequest | None] = queue.SimpleQueue()
    create = etcd.WatchRequest(create_request=etcd.WatchCreateRequest(key=b"a"))
    said.put(create)
    metadata = (("table", TABLE), ("token", server.log_in("streamer")))
    heard = watch(iter(said.get, None), metadata=metadata, timeout=30)
    assert next(heard).created
    new = etcd.AuthUserChangePasswordRequest(name="streamer", password="another")
    server.ok(auth.UserChangePassword, new, "root")
    # Under an id of its own: etcd 3.5.1 would take the refusal for the end of the watch whose id is 0.
    said.put(etcd.WatchRequest(create_request=etcd.WatchCreateRequest(key=b"a", watch_id=5)))
    refused = next(heard)
    assert (refused.created, refused.canceled) == (True, True)  # how it is worded differs between etcds
    server.ok(server.kv.Put, PUT(key=b"a", value=b"1"), "root")
    assert [event.kv.key for event in next(heard).events] == [b"a"]
    said.put(None)
    heard.cancel()
    server.ok(auth.UserDelete, etcd.AuthUserDeleteRequest(name="streamer"), "root")


def test_passwords_that_are_none(server: Server) -> None:
    auth = server.auth
    server.ok(auth.UserAdd, etcd.AuthUserAddRequest(name="empty"), "root")
    assert server.tried(auth.Authenticate, etcd.AuthenticateRequest(name="empty")) == OK
    server.ok(auth.UserChangePassword, etcd.AuthUserChangePasswordRequest(name="empty"), "root")
    assert server.tried(auth.Authenticate, etcd.AuthenticateRequest(name="empty")) == AUTH_FAILED
    none = etcd.AuthUserAddRequest(name="none", options=auth_pb2.UserAddOptions(no_password=True))
    server.ok(auth.UserAdd, none, "root")
    assert server.tried(auth.Authenticate, etcd.AuthenticateRequest(name="none", password="x")) == (
        "UNKNOWN",
        "auth: authentication failed, password was given for no password user",
    )


def test_a_password_that_is_changed_may_come_as_its_hash(server: Server) -> None:
    auth = server.auth
    hashed = base64.b64encode(bcrypt.hashpw(b"hashed", bcrypt.gensalt(4))).decode()
    none = "auth: authentication failed, password was given for no password user"
    for name, password, given, outcome in (
        ("whole", "", hashed, OK),
        ("broken into lines", "", f"{hashed[:20]}\r\n{hashed[20:]}\n", OK),
        ("beside the password", "plain", hashed, OK),
        ("of no kind", "", base64.b64encode(b"nonsense").decode(), OK),
        ("not encoded", "", base64.b64decode(hashed).decode(), ("UNKNOWN", none)),
        ("cut", "", hashed[:-1], ("UNKNOWN", none)),
    ):
        new = etcd.AuthUserAddRequest(name=name, password="first", hashedPassword=hashed)
        server.ok(auth.UserAdd, new, "root")
        change = etcd.AuthUserChangePasswordRequest(name=name, password=password, hashedPassword=given)
        assert server.tried(auth.UserChangePassword, change, "root") == outcome, name
        taken = [
            word
            for word in ("", "first", "hashed", "plain", "nonsense")
            if server.tried(auth.Authenticate, etcd.AuthenticateRequest(name=name, password=word)) == OK
        ]
        whole = {
            "of no kind": [],
            "beside the password": ["plain"],
            "not encoded": ["first"],
            "cut": ["first"],
        }
        assert taken == whole.get(name, ["hashed"]), name
        server.ok(auth.UserDelete, etcd.AuthUserDeleteRequest(name=name), "root")


def test_who_may_change_no_password_hears_so_before_what_is_wrong_with_its_hash(server: Server) -> None:
    change = etcd.AuthUserChangePasswordRequest(name="u", hashedPassword="no base64")
    said = ("PERMISSION_DENIED", "etcdserver: permission denied")
    assert server.tried(server.auth.UserChangePassword, change, "u") == said
    code, text = server.tried(server.auth.UserChangePassword, change)
    assert (code, text) == ("INVALID_ARGUMENT", "etcdserver: user name is empty")


def test_etcdctl_prints_what_it_does_of_etcd(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One session with each; every line, error and exit code is the same."""
    folder = tmp_path_factory.mktemp("sessions")
    for name in ("etcd", "boathouse"):
        (folder / name).mkdir()
    ours = systems.Boathouse(folder / "boathouse", nodes=1, shards=1, replicas=1, tables=("default",))
    theirs = systems.Etcd(folder / "etcd", 1)
    with running(theirs), running(ours), ThreadPoolExecutor(2) as both:
        for words, stdin in SESSION:
            if words == "auth status" and TELLS_EVERYBODY_OF_AUTH.is_met:
                continue
            expected, said = both.map(
                lambda system, words=words, stdin=stdin: _etcdctl(system.endpoints[0], words, stdin),
                (theirs, ours),
            )
            assert said == expected, words


def _etcdctl(endpoint: str, words: str, stdin: str) -> tuple[int, str, list[str]]:
    command = [str(systems.etcd_program("etcdctl")), *PATIENCE, "--endpoints", endpoint, *words.split()]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, re.findall(r"^Error: .*", done.stderr, re.MULTILINE)


SESSION = [
    (words, stdin)
    for words, stdin in (
        line if isinstance(line, tuple) else (line, "")
        for line in (
            "auth status",
            "auth enable",
            "user add root:secret",
            "auth enable",
            "user grant-role root root",
            "user grant-role root missing",
            "user grant-role missing root",
            "role add reader",
            "role add reader",
            "role add writer",
            "role list",
            "role grant-permission reader read a c",
            "role grant-permission reader read c e",
            "role grant-permission reader read pre/ --prefix",
            "role grant-permission missing read a",
            "role grant-permission writer write x --from-key",
            "role grant-permission writer readwrite k",
            "role grant-permission writer write k",
            "role get reader",
            "role get writer",
            "role get missing",
            "role revoke-permission reader a b",
            "role revoke-permission writer k",
            "role get writer",
            "user add u:pw",
            "user add u:pw",
            ("user add v --interactive=false", "its\n"),
            "user add none --no-password",
            "user list",
            "user grant-role u reader",
            "user grant-role u reader",
            "user grant-role u writer",
            "user get u",
            "user get u --detail",
            "user get missing",
            "user revoke-role v reader",
            "user delete missing",
            "put a 1",
            "auth status",
            "auth enable",
            "auth enable",
            "get a",
            "put a 2",
            "del a",
            "--user u:pw get a",
            "--user u:wrong get a",
            "--user missing:pw get a",
            "--user u:pw get a e",
            "--user u:pw get a f",
            "--user u:pw get pre/ --prefix",
            "--user u:pw get pre --prefix",
            "--user u:pw put a 2",
            "--user u:pw put x1 2",
            "--user u:pw put x1 2 --prev-kv",
            "--user u:pw del x1",
            "--user u:pw get x1",
            "--user root:secret get x1",
            "--user root:secret put q 1",
            "--user u:pw user list",
            "--user u:pw user get u",
            "--user u:pw role list",
            "--user u:pw role get reader",
            "--user u:pw auth status",
            "--user u:pw auth disable",
            "--user u:pw user add w:w",
            "--user root:secret user delete root",
            "--user root:secret user revoke-role root root",
            ("--user root:secret user passwd u --interactive=false", "new\n"),
            "--user u:pw get a",
            "--user u:new get a",
            "--user root:secret role delete reader",
            "--user u:new get a",
            "--user u:new user get u",
            "--user root:secret auth status",
            "--user root:secret user delete u",
            "--user u:new get a",
            "--user root:secret auth disable",
            "auth status",
            "--user root:secret get a",
            "get a",
        )
    )
]  # fmt: skip


# ---- boathouse alone: what etcd has nothing to compare with --------------------------------------------------------


@pytest.fixture(scope="module")
def ours(boathouse_endpoint: str) -> Iterator[Server]:
    """The table of the known answers, which has its users by now."""
    server = Server(boathouse_endpoint)
    try:
        for name in ("root", "u"):
            server.log_in(name)
    except grpc.RpcError:
        server.set_up()
    yield server
    server.channel.close()


def test_regattas_api_is_no_way_around(ours: Server) -> None:
    name = TABLE.encode()
    denied = ("PERMISSION_DENIED", "permission denied")
    assert ours.regatta_as("u", "Range", regatta.RangeRequest(table=name, key=b"a", range_end=b"e")) == OK
    assert ours.regatta_as("u", "Range", regatta.RangeRequest(table=name, key=b"w")) == denied
    assert ours.regatta_as("u", "Put", regatta.PutRequest(table=name, key=b"c", value=b"1")) == denied
    assert ours.regatta_as("u", "DeleteRange", regatta.DeleteRangeRequest(table=name, key=b"c")) == denied
    assert ours.regatta_as("", "Range", regatta.RangeRequest(table=name, key=b"a"))[0] == "UNAUTHENTICATED"
    assert ours.regatta_as("", "Put", regatta.PutRequest(table=name, key=b"a"))[0] == "UNAUTHENTICATED"
    stream: Any = ours.channel.unary_stream(
        "/regatta.v1.KV/IterateRange",
        regatta.RangeRequest.SerializeToString,
        regatta.RangeResponse.FromString,
    )
    everything = regatta.RangeRequest(table=name, key=b"\0", range_end=b"\0")
    assert ours.tried(lambda *args, **options: list(stream(*args, **options)), everything, "u") == denied
    assert ours.tried(lambda *args, **options: list(stream(*args, **options)), everything, "root") == OK


def test_users_of_one_table_are_nobody_in_another(ours: Server, boathouse_endpoint: str) -> None:
    del boathouse_endpoint
    call = ours.kv.Range(RANGE(key=b"a"), metadata=(("table", "default"), ("token", "garbage")), timeout=10)
    assert call.header.revision > 0
    with pytest.raises(grpc.RpcError, match="authentication is not enabled"):
        ours.auth.Authenticate(etcd.AuthenticateRequest(name="root", password="root's"), timeout=10)


def test_nested_transactions_and_compaction_are_checked(ours: Server) -> None:
    nested = TXN(
        success=[etcd.RequestOp(request_txn=TXN(failure=[etcd.RequestOp(request_put=PUT(key=b"q"))]))]
    )
    assert ours.kv_as("u", nested) == DENIED
    assert ours.tried(ours.kv.Compact, etcd.CompactionRequest(revision=1), "u") == DENIED
    assert ours.tried(ours.kv.Compact, etcd.CompactionRequest(revision=1), "") == USER_EMPTY


def test_inverted_ranges_and_permissions_are_refused(ours: Server) -> None:
    # etcd's answer to such a range depends on which permissions were granted first.
    assert ours.kv_as("u", RANGE(key=b"b", range_end=b"a")) == DENIED
    for perm in (auth_pb2.Permission(key=b""), auth_pb2.Permission(key=b"b", range_end=b"a")):
        grant = etcd.AuthRoleGrantPermissionRequest(name="other", perm=perm)
        assert ours.tried(ours.auth.RoleGrantPermission, grant, "root") == INVALID_MGMT


def test_what_no_shard_sees_is_checked_as_well(ours: Server) -> None:
    for service, method, request in (
        ("Cluster", "MemberList", etcd.MemberListRequest()),
        ("Maintenance", "Status", etcd.StatusRequest()),
        ("Maintenance", "Alarm", etcd.AlarmRequest()),
    ):
        call = getattr(stub(ours.channel, etcd, service), method)
        assert ours.tried(call, request, "u") == OK
        assert ours.tried(call, request, "") == USER_EMPTY


def test_elections_go_by_the_permissions_of_who_asks(ours: Server) -> None:
    leader = stub(ours.channel, election_pb2, "Election").Leader
    for user, text in (
        ("root", "election: no leader"),
        ("u", "etcdserver: permission denied"),
        ("", "etcdserver: user name is empty"),
    ):
        assert ours.tried(leader, election_pb2.LeaderRequest(name=b"q"), user) == ("UNKNOWN", text)


def test_the_gateway_takes_the_token_as_a_header(ours: Server, boathouse_endpoint: str) -> None:
    def asked(path: str, body: object, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(boathouse_endpoint, timeout=10)
        try:
            connection.request("POST", path, json.dumps(body), {"Grpc-Metadata-Table": TABLE, **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    status, said = asked("/v3/auth/authenticate", {"name": "u", "password": "u's"})
    assert status == 200
    token = said["token"]
    for shown in (token, f"Bearer {token}"):
        assert asked("/v3/kv/range", {"key": "YQ=="}, Authorization=shown)[0] == 200
        assert asked("/v3/kv/range", {"key": "cQ=="}, Authorization=shown)[0] == 403
    assert asked("/v3/kv/range", {"key": "YQ=="}, Authorization="garbage")[0] == 401
    status, said = asked("/v3/kv/range", {"key": "YQ=="})
    assert (status, said["error"]) == (400, "etcdserver: user name is empty")
    assert asked("/v3/auth/status", {}, Authorization=token)[0] == 403
    # Nobody's health is a secret.
    connection = http.client.HTTPConnection(boathouse_endpoint, timeout=10)
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read())["health"] == "true"
    connection.close()
    assert ours.tokens["u"] != token


def test_a_token_may_come_as_a_bearer(ours: Server) -> None:
    metadata = (("table", TABLE), ("authorization", f"Bearer {ours.tokens['u']}"))
    ours.kv.Range(RANGE(key=b"a"), metadata=metadata, timeout=10)


def test_a_watch_ends_when_its_permission_does(ours: Server) -> None:
    auth = ours.auth
    ours.ok(auth.UserAdd, etcd.AuthUserAddRequest(name="watcher", password="watcher's"), "root")
    ours.ok(auth.UserGrantRole, etcd.AuthUserGrantRoleRequest(user="watcher", role="r"), "root")
    token = ours.log_in("watcher")
    watch: Any = ours.channel.stream_stream(
        "/etcdserverpb.Watch/Watch",
        etcd.WatchRequest.SerializeToString,
        etcd.WatchResponse.FromString,
    )
    create = etcd.WatchRequest(create_request=etcd.WatchCreateRequest(key=b"a"))
    heard = watch(iter([create]), metadata=(("table", TABLE), ("token", token)), timeout=30)
    assert next(heard).created
    ours.ok(ours.kv.Put, PUT(key=b"a", value=b"before"), "root")
    assert [event.kv.value for event in next(heard).events] == [b"before"]
    ours.ok(auth.UserRevokeRole, etcd.AuthUserRevokeRoleRequest(name="watcher", role="r"), "root")
    ours.ok(ours.kv.Put, PUT(key=b"a", value=b"after"), "root")
    last = next(heard)
    assert last.canceled
    assert not last.events
    assert last.cancel_reason == "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    heard.cancel()
    ours.ok(auth.UserDelete, etcd.AuthUserDeleteRequest(name="watcher"), "root")
