"""Maintenance on etcd and on boathouse: the same sessions of etcdctl, the same hashes, the same errors."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.conftest import PATIENCE, running
from tests.conformance.versions import SAYS_WHICH_REVISION_WAS_HASHED
from tests.stubs import stub
from tools.bench import systems
from tools.snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALL_TIMEOUT_S: Final = 10.0
HASH_TABLE: Final = "probe-hash"
RESTORED_TABLE: Final = "probe-restored"


class Etcdctl:
    """etcdctl with these endpoints."""

    def __init__(self, *endpoints: str) -> None:
        self.endpoints = endpoints

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        where = ("--endpoints", ",".join(self.endpoints))
        command = [str(systems.etcd_program("etcdctl")), *PATIENCE, *where, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def said(self, *words: str) -> str:
        """Both outputs, without addresses, ids and times."""
        done = self(*words)
        text = f"{done.returncode}\n{done.stdout}{done.stderr}"
        text = re.sub(r"127\.0\.0\.1:\d+", "ENDPOINT", text)
        text = re.sub(r"memberID:\d+", "memberID:ID", text)
        return re.sub(r'(?m)^\{"level.*\n', "", text)


@pytest.fixture(scope="module")
def new_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that nothing was written to."""
    with running(systems.Etcd(tmp_path_factory.mktemp("etcd"), 1)) as system:
        yield system.endpoints[0]


@pytest.fixture(scope="module")
def new_boathouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("boathouse")
    tables = ("default", HASH_TABLE, RESTORED_TABLE)
    with running(systems.Boathouse(folder, nodes=1, shards=1, replicas=1, tables=tables)) as system:
        yield system.endpoints[0]


class Side:
    """KV and Maintenance of one system."""

    def __init__(self, endpoint: str, table: str = "default") -> None:
        self.channel = grpc.insecure_channel(endpoint)
        self.kv: Any = stub(self.channel, etcd, "KV")
        self.maintenance: Any = stub(self.channel, etcd, "Maintenance")
        self._metadata = (("table", table),)

    def ask(self, method: Any, request: Any) -> Any:
        """The answer without its header, or the error."""
        try:
            answer = method(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        if SAYS_WHICH_REVISION_WAS_HASHED.is_met:
            answer.DiscardUnknownFields()
        if answer.HasField("header"):
            revision = answer.header.revision
            answer.ClearField("header")
            return revision, answer
        return answer


@pytest.fixture
def sides(new_etcd: str, new_boathouse: str) -> Iterator[tuple[Side, Side]]:
    found = Side(new_etcd), Side(new_boathouse, HASH_TABLE)
    yield found
    for side in found:
        side.channel.close()


def test_the_same_writes_have_the_same_hash(sides: tuple[Side, Side]) -> None:
    rng = random.Random(7)

    def same(service: str, method: str, request: Any) -> Any:
        wanted, given = (side.ask(getattr(getattr(side, service), method), request) for side in sides)
        assert given == wanted, request
        return wanted

    same("maintenance", "HashKV", etcd.HashKVRequest())
    same("maintenance", "HashKV", etcd.HashKVRequest(revision=-1))
    revision = compacted = 1
    for number in range(300):
        key = b"key/%d" % rng.randrange(30)
        match rng.randrange(8):
            case 0:
                end = key + b"\xff" if rng.random() < 0.3 else b""
                revision, _ = same("kv", "DeleteRange", etcd.DeleteRangeRequest(key=key, range_end=end))
            case 1:
                puts = [etcd.PutRequest(key=key + b"/%d" % n, value=b"v" * n) for n in range(3)]
                ops = [etcd.RequestOp(request_put=put) for put in puts]
                revision, _ = same("kv", "Txn", etcd.TxnRequest(success=ops))
            case _:
                put = etcd.PutRequest(key=key, value=rng.randbytes(rng.randrange(60)))
                revision, _ = same("kv", "Put", put)
        if number % 20 == 19:
            for asked in (
                0,
                revision,
                revision + 1,
                compacted - 1,
                rng.randrange(compacted + 1, revision + 1),
            ):
                same("maintenance", "HashKV", etcd.HashKVRequest(revision=asked))
        if number % 60 == 59:
            compacted = rng.randrange(compacted + 1, revision)
            same("kv", "Compact", etcd.CompactionRequest(revision=compacted, physical=True))


def test_alarms_in_a_session(new_etcd: str, new_boathouse: str) -> None:
    def session(endpoint: str) -> list[Any]:
        ctl, side = Etcdctl(endpoint), Side(endpoint)
        member = side.maintenance.Status(etcd.StatusRequest(), timeout=CALL_TIMEOUT_S).header.member_id
        heard: list[Any] = [ctl.said("alarm", "list"), ctl.said("alarm", "disarm")]
        for alarm in (etcd.NOSPACE, etcd.CORRUPT):
            raised = etcd.AlarmRequest(action=etcd.AlarmRequest.ACTIVATE, memberID=member, alarm=alarm)
            for _ in range(2):
                answer = side.maintenance.Alarm(raised, timeout=CALL_TIMEOUT_S)
                heard.append([one.alarm for one in answer.alarms])
            heard += [
                ctl.said("alarm", "list"),
                ctl.said("put", "k", "v"),
                ctl.said("get", "k"),
                ctl.said("del", "k"),
                ctl.said("endpoint", "health"),
            ]
            other = etcd.AlarmRequest(action=etcd.AlarmRequest.DEACTIVATE, alarm=alarm)
            heard.append(len(side.maintenance.Alarm(other, timeout=CALL_TIMEOUT_S).alarms))
            heard += [ctl.said("alarm", "disarm"), ctl.said("alarm", "list"), ctl.said("put", "k", "v")]
        side.channel.close()
        return [_without_durations(one) for one in heard]

    assert session(new_boathouse) == session(new_etcd)


def test_root_logs_in_to_end_an_alarm(new_etcd: str, new_boathouse: str) -> None:
    def session(endpoint: str) -> list[str]:
        ctl, side = Etcdctl(endpoint), Side(endpoint)
        root = ("--user", "root:pw")
        heard = [ctl.said("user", "add", "root:pw"), ctl.said("user", "grant-role", "root", "root")]
        for alarm in (etcd.NOSPACE, etcd.CORRUPT):
            raised = etcd.AlarmRequest(action=etcd.AlarmRequest.ACTIVATE, memberID=5, alarm=alarm)
            side.maintenance.Alarm(raised, timeout=CALL_TIMEOUT_S)
            heard.append(ctl.said("auth", "enable"))
            heard += [ctl.said(*root, *words) for words in (("put", "k", "v"), ("alarm", "disarm"))]
            heard += [ctl.said(*root, *words) for words in (("put", "k", "v"), ("auth", "disable"))]
        side.channel.close()
        return [*heard, ctl.said("user", "delete", "root")]

    assert session(new_boathouse) == session(new_etcd)


def _without_durations(said: Any) -> Any:
    return re.sub(r"took = [\d.]+\w+", "took = TIME", said) if isinstance(said, str) else said


def test_defragmentation_in_a_session(new_etcd: str, new_boathouse: str) -> None:
    assert Etcdctl(new_boathouse).said("defrag") == Etcdctl(new_etcd).said("defrag")


def test_a_snapshot_is_saved_and_says_what_is_in_it(new_boathouse: str, tmp_path: Path) -> None:
    ctl, file = Etcdctl(new_boathouse), tmp_path / "saved"
    for number in range(40):
        assert ctl("put", f"large/{number % 20}", "v" * 100_000).returncode == 0
    saved = ctl("snapshot", "save", str(file))
    assert saved.returncode == 0, saved.stderr
    assert f"Snapshot saved at {file}" in saved.stdout
    found = read_snapshot(file)
    with grpc.insecure_channel(new_boathouse) as channel:
        everything = etcd.RangeRequest(key=b"\0", range_end=b"\0", count_only=True)
        answer = stub(channel, etcd, "KV").Range(everything, timeout=CALL_TIMEOUT_S)
    assert (found["table"], found["revision"], found["keys"]) == (
        "default",
        answer.header.revision,
        answer.count,
    )
    assert found["size_bytes"] > 40 * 100_000
    words = ("snapshot", "restore", str(file), "--table", RESTORED_TABLE, "--endpoint", new_boathouse)
    restored = subprocess.run(
        [sys.executable, "-m", "tools.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr
    sides = Side(new_boathouse), Side(new_boathouse, RESTORED_TABLE)
    for asked in (0, answer.header.revision, answer.header.revision - 15):
        there, here = (
            side.ask(side.maintenance.HashKV, etcd.HashKVRequest(revision=asked)) for side in sides
        )
        assert there == here
    for side in sides:
        side.channel.close()


def test_leadership_moves_in_a_session(cluster_endpoints: tuple[str, ...]) -> None:
    """The same on etcd needs three of them; what it says there is written here."""
    ctl = Etcdctl(*cluster_endpoints)
    with grpc.insecure_channel(cluster_endpoints[0]) as channel:
        status = stub(channel, etcd, "Maintenance").Status
        members = stub(channel, etcd, "Cluster").MemberList(etcd.MemberListRequest(), timeout=5).members
        leader = status(etcd.StatusRequest(), timeout=5).leader
        target = next(one.ID for one in members if one.ID != leader)
        moved = ctl("move-leader", f"{target:x}")
        assert moved.stdout == f"Leadership transferred from {leader:x} to {target:x}\n", moved.stderr
        assert "etcdserver: bad leader transferee" in ctl("move-leader", "1234").stderr


def test_hashes_agree_between_members(cluster_endpoints: tuple[str, ...]) -> None:
    ctl = Etcdctl(*cluster_endpoints)
    assert ctl("put", "hashed", "v").returncode == 0
    lines = ctl("endpoint", "hashkv").stdout.splitlines()
    assert len(lines) == len(cluster_endpoints)
    revision = min(_revisions(cluster_endpoints))
    hashed = ctl("endpoint", "hashkv", "--rev", str(revision))
    assert len({line.rpartition(",")[2] for line in hashed.stdout.splitlines()}) == 1, hashed


def _revisions(endpoints: tuple[str, ...]) -> list[int]:
    found = []
    for endpoint in endpoints:
        with grpc.insecure_channel(endpoint) as channel:
            status = stub(channel, etcd, "Maintenance").Status(etcd.StatusRequest(), timeout=5)
            found.append(status.header.revision)
    return found
