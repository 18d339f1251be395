"""Who runs the cluster: methods that reach beyond the table that they name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from config.access import ReplicationConfig
from coordinator.api.local_call import LocalCall
from coordinator.auth.authenticator import Authenticator
from coordinator.auth.bearer import Bearers
from coordinator.auth.passwords import Passwords
from coordinator.auth.table_users import TableUsers
from coordinator.catalog.table_calls import Answer, Asked
from coordinator.replication.gate import Gate
from coordinator.services.etcd_tables import EtcdTables
from coordinator.services.guard import ASKED_AT_ONCE_MAX, Guard
from proto import errors
from proto.catalog import CATALOG, TableEntry
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import METHODS, Permission
from proto.tokens import presented
from tests.unit.coordinator.running import make_config
from tests.unit.coordinator.test_bearer import with_token

if TYPE_CHECKING:
    from pathlib import Path


ADD, DEFRAGMENT = "/etcdserverpb.Cluster/MemberAdd", "/etcdserverpb.Maintenance/Defragment"
DEFAULT, OTHER = TableEntry("default", 10_001, ShardId(1)), TableEntry("other", 10_002, ShardId(2))
ROOTS = {"default": "root-of-default.1", "other": "root-of-other.2"}
SERVED = "served"


@dataclass
class Shards:
    """Tables, those of them that have users, and how these were asked for it."""

    guarded: set[str]
    tables: list[TableEntry] = field(default_factory=lambda: [CATALOG, DEFAULT, OTHER])
    gone: set[str] = field(default_factory=set)
    """Named by the catalog, and not in its shard."""
    cached: set[str] = field(default_factory=lambda: {"default"})
    """Whose name need not be looked up."""
    unread: tuple[str, ...] = ()
    without_leader: dict[str, type[Exception] | None] = field(default_factory=dict)
    """Tables, and "" for the catalog, whose shard has no leader, and what is heard of that: None is nothing at all."""
    asked: list[tuple[str, bool]] = field(default_factory=list)
    at_once: int = 0
    at_once_max: int = 0

    async def find_table(self, name: str, deadline: float, *, body_bytes: int) -> TableEntry:
        for table in self.tables:
            if table.name == name:
                return table
        raise errors.TableNotFound(name)

    def step_deadline(self, deadline: float) -> float:
        return deadline

    async def _hear(self, name: str, *, linearizable: bool) -> None:
        self.asked.append((name, linearizable))
        if linearizable and name in self.without_leader:
            error = self.without_leader[name]
            if error is None:
                await asyncio.Event().wait()
            else:
                raise error

    async def load(self, *, linearizable: bool) -> Any:
        await self._hear("", linearizable=linearizable)
        return SimpleNamespace(entries={table.name: table for table in self.tables}, unread=self.unread)

    async def read(self, asked: Asked, *, linearizable: bool) -> Answer:
        assert asked.method == frames.AUTH_RIGHTS
        table, who = asked.table, asked.who
        await self._hear(table.name, linearizable=linearizable)
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        await asyncio.sleep(0)
        self.at_once -= 1
        if table.name in self.gone:
            raise errors.TableNotFound(table.name)
        is_guarded, is_root = table.name in self.guarded, False
        if is_guarded and not who.is_system:
            if not who.token:
                raise errors.UserEmpty
            if who.token != presented(ROOTS[table.name]):
                raise errors.InvalidAuthToken
            is_root = True
        said = frames.Rights(auth_version=2 + is_guarded, root=is_root)
        return Answer(table, frames.Reply(body=said.SerializeToString()))


def ask(
    folder: Path,
    shards: Shards,
    *,
    table: str = "",
    path: str = ADD,
    body: bytes | None = None,
    has_token: bool = False,
    **shown: str,
) -> str:
    """What a caller is told who shows that: SERVED, or the error's name."""
    config = with_token(folder) if has_token else make_config(folder, nodes=1, shards=1)
    calls: Any = shards
    catalog: Any = SimpleNamespace(
        load=shards.load, tables={table.name: table for table in shards.tables if table.name in shards.cached}
    )
    nothing: Any = None
    passwords = Passwords(cost=4)
    guard = Guard(
        EtcdTables(calls, nothing, nothing, TableUsers(config)),
        Authenticator(calls, passwords, None, Gate(ReplicationConfig(), lambda: 0.0)),
        Bearers(config, config.node("n1")),
        catalog,
    )

    if body is None:
        urls = ["http://127.0.0.1:7101"]
        body = etcd.MemberAddRequest(peerURLs=urls).SerializeToString() if path == ADD else b""

    async def handler(_call: object) -> bytes:
        return SERVED.encode()

    metadata = shown | ({"table": table} if table else {})

    async def served() -> bytes | None:
        call = LocalCall((body,), metadata=metadata, deadline=0.0, peer="test")
        return await guard.guarded(path, handler)(call)

    try:
        return (asyncio.run(served()) or b"").decode()
    except errors.BoathouseError as error:
        return type(error).__name__
    finally:
        passwords.close()


def test_what_reaches_beyond_its_table_is_named() -> None:
    reaching = {path for path, method in METHODS.items() if method.permission is Permission.CLUSTER}
    assert reaching == {
        *(f"/etcdserverpb.Cluster/Member{change}" for change in ("Add", "Remove", "Update", "Promote")),
        "/etcdserverpb.Maintenance/MoveLeader",
        "/etcdserverpb.Maintenance/Defragment",
    }


def test_without_users_and_tokens_everybody_runs_the_cluster(tmp_path: Path) -> None:
    for table in ("", "default", "other", "_catalog"):
        assert ask(tmp_path, Shards(set()), table=table) == SERVED
    assert ask(tmp_path, Shards(set()), table="nowhere") == "TableNotFound"
    assert ask(tmp_path, Shards(set(), [CATALOG, OTHER]), table="other") == SERVED


@pytest.mark.parametrize("urls", [[], [""], ["x"], ["http://a"], ["http://127.0.0.1:7101/p"]])
def test_whoever_adds_what_is_no_member_hears_of_that_first(tmp_path: Path, urls: list[str]) -> None:
    body = etcd.MemberAddRequest(peerURLs=urls).SerializeToString()
    for token in ("", "forged.1", ROOTS["default"]):
        assert ask(tmp_path, Shards({"default"}), body=body, token=token) == "BadMemberUrls"
    # What is wrong with it for these nodes alone is nobody's business but of who runs them.
    far = etcd.MemberAddRequest(peerURLs=["http://h:99999"]).SerializeToString()
    assert ask(tmp_path, Shards({"default"}), body=far) == "UserEmpty"


@pytest.mark.parametrize("path", [ADD, DEFRAGMENT])
def test_once_default_has_users_its_root_runs_it_whatever_table_is_named(tmp_path: Path, path: str) -> None:
    shards = Shards({"default"})
    for table in ("", "other", "_catalog"):
        assert ask(tmp_path, shards, table=table, path=path) == "UserEmpty"
        assert ask(tmp_path, shards, table=table, path=path, token=ROOTS["default"]) == SERVED
    # A client that hears of an invalid token would log in anew, and show as good a one.
    both = Shards({"default", "other"})
    assert ask(tmp_path, both, table="other", path=path, token=ROOTS["other"]) == "PermissionDenied"
    assert ask(tmp_path, both, path=path, token=ROOTS["other"]) == "InvalidAuthToken"


def test_a_table_without_users_is_no_way_around_those_of_another(tmp_path: Path) -> None:
    shards = Shards({"other"})
    for table in ("", "default", "_catalog"):
        assert ask(tmp_path, shards, table=table) == "PermissionDenied"
    assert ask(tmp_path, shards, table="other") == "UserEmpty"
    assert ask(tmp_path, shards, table="other", token=ROOTS["other"]) == SERVED
    without_default = Shards({"other"}, [CATALOG, OTHER])
    assert ask(tmp_path, without_default, table="_catalog") == "PermissionDenied"


def test_where_there_is_a_token_of_maintenance_that_or_root_of_default_is_needed(tmp_path: Path) -> None:
    token = "Bearer a token of eight or more"
    for guarded in (set[str](), {"other"}):
        shards = Shards(guarded)
        assert ask(tmp_path, shards, has_token=True) == "BearerMissing"
        assert ask(tmp_path, shards, has_token=True, table="_catalog") == "BearerMissing"
        assert ask(tmp_path, shards, has_token=True, authorization=token) == SERVED
    # Anybody may have made himself root of a table that had no users.
    assert (
        ask(tmp_path, Shards({"other"}), has_token=True, table="other", token=ROOTS["other"])
        == "BearerMissing"
    )
    shards = Shards({"default"})
    assert ask(tmp_path, shards, has_token=True, token=ROOTS["default"]) == SERVED
    assert ask(tmp_path, shards, has_token=True, authorization=token) == SERVED
    assert ask(tmp_path, shards, has_token=True) == "UserEmpty"
    assert (
        ask(tmp_path, shards, authorization=token) == "InvalidAuthToken"
    )  # where there is none, it is no token


def test_members_change_by_what_the_leaders_say(tmp_path: Path) -> None:
    shards = Shards(set())
    ask(tmp_path, shards)
    assert {linearizable for _, linearizable in shards.asked} == {True}
    assert {name for name, _ in shards.asked} == {"", "default", "other"}
    # What helps where there is no leader asks none.
    shards.asked.clear()
    ask(tmp_path, shards, path=DEFRAGMENT)
    assert {linearizable for _, linearizable in shards.asked} == {False}


@pytest.mark.parametrize("error", [errors.NoLeader, errors.ReadTimedOut, None])
def test_members_change_also_while_a_shard_has_no_leader(
    tmp_path: Path, error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be what they are changed for: the nearest replica says who may."""
    monkeypatch.setattr("coordinator.services.guard.LEADER_S", 0.05)
    for lost in ("", "default", "other"):
        assert ask(tmp_path, Shards(set(), without_leader={lost: error}, cached=set())) == SERVED
        guarded = Shards({"default", "other"}, without_leader={lost: error})
        assert ask(tmp_path, guarded) == "UserEmpty"
        assert ask(tmp_path, guarded, token=ROOTS["default"]) == SERVED


def test_a_table_that_nobody_has_asked_for_yet_decides_as_well(tmp_path: Path) -> None:
    shards = Shards({"default"}, cached=set())
    assert ask(tmp_path, shards, table="other") == "UserEmpty"
    assert ask(tmp_path, shards, table="other", token=ROOTS["default"]) == SERVED
    # One that has gone since decides nothing, and one that is unreadable here may have users.
    assert ask(tmp_path, Shards({"other"}, gone={"default"}), table="other", token=ROOTS["other"]) == SERVED
    assert ask(tmp_path, Shards(set(), unread=("new",))) == "PermissionDenied"


def test_any_number_of_tables_is_asked_a_bounded_number_at_once(tmp_path: Path) -> None:
    many = [TableEntry(f"t{number}", 20_000 + number, ShardId(1)) for number in range(3 * ASKED_AT_ONCE_MAX)]
    shards = Shards({many[-1].name}, [CATALOG, DEFAULT, *many], gone={many[0].name})
    assert ask(tmp_path, shards) == "PermissionDenied"
    assert shards.at_once_max == ASKED_AT_ONCE_MAX
