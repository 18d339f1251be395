"""The command line as a user runs it: output, exit codes, and the words of each refusal."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from config.process.names import ProcessName
from config.process.report import State
from tests.integration.cluster import ROOT, Cluster, call_cli, is_alive, run_cli
from tests.tab import offered
from tests.waiting import wait_until
from tools.admin import checks, diagnosis
from tools.admin.cluster_source import ClusterSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.admin.snapshot import TableMove

EXAMPLES = ROOT / "config" / "examples"


@pytest.fixture(name="cluster", scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node, two shards, two tables. Every test leaves it up. Commands are called, but where it is about pipes,
    signals, or what Python itself does."""
    tables: dict[str, dict[str, Any]] = {"default": {"shard": 1}, "users": {"shard": 2, "history": 10}}
    with Cluster(tmp_path_factory.mktemp("cli"), nodes=1, shards=2, tables=tables, calls=True) as cluster:
        cluster.wait_leaders()
        yield cluster


def _out(cluster: Cluster, *arguments: str, given: bytes | None = None) -> str:
    done = cluster.cli(*arguments, given=given)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def _refusal(cluster: Cluster, *arguments: str, code: int = 1) -> str:
    done = cluster.cli(*arguments)
    assert done.returncode == code, f"exit code {done.returncode}: {done.stderr.decode()}"
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


# ---- kv ----------------------------------------------------------------------------------------------------------


def test_put_and_get(cluster: Cluster) -> None:
    revision = cluster.cli_json("kv", "put", "greeting", "hello")["revision"]
    assert _out(cluster, "kv", "get", "greeting").splitlines() == [
        "KEY       VALUE  REVISION  VERSION",
        f"greeting  hello  {revision:<8}  1",
    ]
    again = cluster.cli_json("kv", "put", "greeting", "hi", "--prev-kv")
    assert (again["revision"], base64.b64decode(again["prev_kvs"][0]["value"])) == (revision + 1, b"hello")
    assert _out(cluster, "kv", "put", "greeting", "hey") == f"put 1 key, revision {revision + 2}\n"
    old = cluster.cli_json("kv", "get", "greeting", "--rev", str(revision))
    assert [base64.b64decode(kv["value"]) for kv in old["kvs"]] == [b"hello"]


def test_bytes_pass_unharmed(cluster: Cluster) -> None:
    every_byte = bytes(range(256))
    done = cluster.cli("kv", "put", "bytes", given=every_byte, run=True)
    assert done.returncode == 0, done.stderr.decode()
    assert cluster.cli("kv", "get", "bytes", "--print-value-only", run=True).stdout == every_byte
    found = cluster.cli_json("kv", "get", "bytes")["kvs"][0]
    assert (base64.b64decode(found["key"]), base64.b64decode(found["value"])) == (b"bytes", every_byte)
    _out(cluster, "kv", "put", "--hex", "00ff", "01fe")
    assert _out(cluster, "kv", "get", "--hex", "00ff").splitlines()[1].split()[:2] == ["00ff", "01fe"]
    assert cluster.cli("kv", "get", "--hex", "00ff", "--print-value-only").stdout == b"\x01\xfe"
    raw_key = os.fsdecode(b"k\xf0")
    _out(cluster, "kv", "put", raw_key, "v")
    assert base64.b64decode(cluster.cli_json("kv", "get", raw_key)["kvs"][0]["key"]) == b"k\xf0"


def test_ranges(cluster: Cluster) -> None:
    for key in ("r/a", "r/b", "r/c", "s"):
        _out(cluster, "kv", "put", key, key.upper())

    def keys(*arguments: str) -> list[str]:
        return [base64.b64decode(kv["key"]).decode() for kv in cluster.cli_json("kv", *arguments)["kvs"]]

    assert keys("get", "r/", "--prefix") == ["r/a", "r/b", "r/c"]
    assert keys("get", "r/b", "--from-key") == ["r/b", "r/c", "s"]
    assert keys("range", "r/a", "r/c") == ["r/a", "r/b"]
    limited = cluster.cli_json("kv", "get", "r/", "--prefix", "--limit", "2", "--serializable")
    assert (len(limited["kvs"]), limited["more"], limited["count"]) == (2, True, 3)
    assert cluster.cli_json("kv", "range", "r", "s", "--keys-only")["kvs"][0]["value"] == ""
    assert _out(cluster, "kv", "get", "r/", "--prefix", "--count-only") == "3\n"
    assert _out(cluster, "kv", "get", "nothing/", "--prefix") == "KEY  VALUE  REVISION  VERSION\n"


def test_deletes(cluster: Cluster) -> None:
    for key in ("d1", "d2", "d3"):
        _out(cluster, "kv", "put", key, "x")
    done = cluster.cli_json("kv", "del", "d1", "--prev-kv")
    assert (done["deleted"], base64.b64decode(done["prev_kvs"][0]["key"])) == (1, b"d1")
    assert cluster.cli_json("kv", "del", "d1")["deleted"] == 0
    assert _out(cluster, "kv", "del", "d2", "d9").startswith("deleted 2 keys, revision ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "k", "v", "--lease", "99999999999999999999"),
        ("get", "k", "--rev", "99999999999999999999"),
        ("get", "k", "--limit", "99999999999999999999"),
        ("get", "k", "--table", "t\u00e4ble"),
        ("put", "k", "v", "--request-id", "two\nlines"),
    ],
)
def test_what_the_wire_can_not_carry_is_wrong_usage(cluster: Cluster, arguments: tuple[str, ...]) -> None:
    assert arguments[-2] in _refusal(cluster, "kv", *arguments, code=2)


def test_transactions(cluster: Cluster, tmp_path: Path) -> None:
    script = 'version("t") = "0"\n\nput t first\nget t\n\nget t\n'
    first = cluster.cli_json("kv", "txn", given=script.encode())
    assert (first["succeeded"], [next(iter(answer)) for answer in first["responses"]]) == (
        True,
        ["put", "range"],
    )
    file = tmp_path / "txn"
    file.write_text(script)
    lines = _out(cluster, "kv", "txn", str(file)).splitlines()
    assert lines[0].startswith("failed, revision ")
    assert lines[2].split()[:2] == ["t", "first"]
    file.write_text("put t\n")
    assert _refusal(cluster, "kv", "txn", str(file)).startswith(
        f"boathouse: {file}: line 1: expected a compare"
    )
    assert "can't be read: No such file or directory" in _refusal(
        cluster, "kv", "txn", str(tmp_path / "none")
    )


def test_tables_are_apart(cluster: Cluster) -> None:
    _out(cluster, "kv", "put", "--table", "users", "who", "ada")
    assert cluster.cli_json("kv", "get", "who")["count"] == 0
    assert cluster.cli_json("kv", "get", "who", "-t", "users")["count"] == 1
    listed = {row["name"]: row for row in cluster.cli_json("table", "list")}
    assert set(listed) == {"default", "users"}
    assert (listed["users"]["shard"], listed["users"]["history"]) == (2, 10)
    heading = _out(cluster, "table", "list").splitlines()[0]
    assert heading.split() == ["NAME", "ID", "SHARD", "TYPE", "HISTORY", "OWNER", "QUOTA"]


def test_a_table_is_made_looked_at_and_deleted(cluster: Cluster) -> None:
    given = ("--shard", "2", "--history", "5", "--local", "--owner", "team a", "--quota", "2MiB")
    made = cluster.cli_json("table", "create", "päper", *given)
    described = cluster.cli_json("table", "describe", "päper")
    leader = cluster.config.node(cluster.leader(2).node).id
    assert described.pop("shard_bytes") > 0
    assert described == {
        "name": "päper", "id": made["id"], "shard": 2, "type": "local", "history": 5, "owner": "team a",
        "quota": 2 << 20,
        "keys": 0, "revision": 1, "leader": leader,
    }  # fmt: skip
    assert _out(cluster, "table", "describe", "päper").splitlines()[1].split() == ["name", "päper"]
    assert "table already exists (INVALID_ARGUMENT)" in _refusal(cluster, "table", "create", "päper")
    assert "there is no shard 9" in _refusal(cluster, "table", "create", "x", "--shard", "9")
    assert "all, none, or a number" in _refusal(cluster, "table", "create", "x", "--history", "0", code=2)
    assert "a number of bytes, or one" in _refusal(cluster, "table", "create", "x", "--quota", "2GB", code=2)
    assert "would be gone for good" in _refusal(cluster, "table", "delete", "päper", code=2)
    assert _out(cluster, "table", "delete", "päper", "--yes") == "deleted table päper\n"
    assert "there is no table päper" in _refusal(cluster, "table", "describe", "päper")
    assert "table not found (INVALID_ARGUMENT)" in _refusal(cluster, "table", "delete", "päper", "--yes")
    again = cluster.cli_json("table", "create", "päper", "--shard", "2")
    assert again["id"] > made["id"]
    _out(cluster, "table", "delete", "päper", "--yes")


def test_one_request_id_writes_once(cluster: Cluster) -> None:
    first = cluster.cli_json("kv", "put", "once", "1", "--request-id", "my-write")
    assert (
        cluster.cli_json("kv", "put", "once", "1", "--request-id", "my-write")["revision"]
        == first["revision"]
    )
    assert cluster.cli_json("kv", "get", "once")["kvs"][0]["version"] == 1


def test_the_server_s_words_reach_the_user(cluster: Cluster) -> None:
    assert "required revision is a future revision" in _refusal(cluster, "kv", "get", "k", "--rev", "999999")
    assert "table not found (NOT_FOUND)" in _refusal(cluster, "kv", "get", "k", "--table", "no_such")
    assert "table _catalog is read-only" in _refusal(cluster, "kv", "put", "k", "v", "--table", "_catalog")
    assert "(INVALID_ARGUMENT)" in _refusal(cluster, "kv", "get", "")


def test_nobody_listening_is_one_line() -> None:
    done = run_cli("kv", "get", "k", "--endpoint", "127.0.0.1:1", "--timeout", "0.5")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("boathouse: 127.0.0.1:1: ")
    assert done.stderr.count(b"\n") == 1


def test_another_endpoint_is_tried(cluster: Cluster) -> None:
    endpoints = f"127.0.0.1:1,{cluster.endpoints[0]}"
    assert run_cli("kv", "put", "k", "v", "--endpoint", endpoints).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("kv", "get", "a", "--prefix", "--from-key"),
        ("kv", "del", "a", "b", "--prefix"),
        ("kv", "get", "--hex", "xy"),
        ("kv", "get", "a", "--limit", "-1"),
        ("kv", "get", "a", "-o", "xml"),
        ("kv", "put"),
        ("kv", "get", "a", "--endpoint", ","),
        ("status", "--colour"),
        ("dance",),
        ("restart", "n9"),
        ("stop", "n1/shard-7"),
        ("logs", "shard-0"),
        ("down", "--node", "n9"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(cluster: Cluster, arguments: tuple[str, ...]) -> None:
    _refusal(cluster, *arguments, code=2)


# ---- what it prints ----------------------------------------------------------------------------------------------

LISTINGS = (
    ("kv", "get", "listed"),
    ("table", "list"),
    ("table", "describe", "users"),
    ("shard", "list"),
    ("status",),
    ("version",),
    ("restart", "--all", "--dry-run"),
)
MOVING = {
    "cpu_percent",
    "rss_bytes",
    "wal_bytes",
    "database_bytes",
    "sync_p99_us",
    "commit",
    "commit_index",
} | {
    "applied",
    "applied_index",
    "shard_bytes",
}
"""What two looks at a cluster may see differently."""


def _still(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _still(each) for name, each in value.items() if name not in MOVING}
    return [_still(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_json_and_yaml_say_the_same_and_wide_says_more(cluster: Cluster, words: tuple[str, ...]) -> None:
    _out(cluster, "kv", "put", "listed", "für 水")
    as_yaml = yaml.safe_load(_out(cluster, *words, "-o", "yaml"))
    assert _still(as_yaml) == _still(cluster.cli_json(*words))
    usual, wide = (_out(cluster, *words, "-o", output).splitlines()[0] for output in ("table", "wide"))
    assert usual.split() == wide.split()[: len(usual.split())]


def test_a_wide_table_says_how_the_tables_are(cluster: Cluster) -> None:
    _out(cluster, "kv", "put", "sized", "1", "--table", "users")
    heading, *rows = _out(cluster, "table", "list", "-o", "wide").splitlines()
    assert heading.split()[7:] == ["KEYS", "REVISION", "LEADER", "SHARD", "BYTES"]
    users = next(row.split() for row in rows if row.startswith("users "))
    described = cluster.cli_json("table", "describe", "users")
    assert users[7:10] == [str(described[name]) for name in ("keys", "revision", "leader")]


def test_doctor_and_check_in_every_notation(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever this machine's disk does: it has other users, and is no part of the cluster.
    monkeypatch.setattr(checks, "sync_time_s", lambda folder: 0.001)
    monkeypatch.setattr(diagnosis, "sync_is_slow", lambda snapshot, replica: False)
    assert yaml.safe_load(_out(cluster, "doctor", "-o", "yaml")) == []
    assert cluster.cli_json("doctor") == []
    assert _out(cluster, "doctor").startswith("cluster ")
    check = ("check", str(EXAMPLES / "three-nodes.yaml"), "-o")
    assert yaml.safe_load(call_cli(*check, "yaml").stdout) == json.loads(call_cli(*check, "json").stdout)
    assert call_cli(*check, "wide").stdout.decode().splitlines()[1].split() == (
        "NODE HOST CLIENT HTTP PEER FOLDER".split()
    )


def test_ctrl_c_has_its_own_exit_code(cluster: Cluster) -> None:
    command = [sys.executable, "-P", "-m", "tools.cli", "kv", "txn", "--endpoint", cluster.endpoints[0]]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    process.stdin.write(b"# more than a pipe holds: it is reading when this returns\n" * 10_000)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, b"")


def test_tab_offers_the_tables_that_there_are(cluster: Cluster) -> None:
    endpoint = cluster.endpoints[0]
    assert offered("table", "describe", "", BOATHOUSE_ENDPOINT=endpoint) == ["default", "users"]
    assert offered("kv", "get", "k", "--endpoint", endpoint, "--table", "u") == ["users"]


# ---- processes ---------------------------------------------------------------------------------------------------


def test_status_lists_every_process(cluster: Cluster) -> None:
    _out(cluster, "kv", "put", "counted", "1")
    rows = {(row["node"], row["process"]): row for row in cluster.cli_json("status")}
    assert set(rows) == {("n1", "shard-1"), ("n1", "shard-2"), ("n1", "coordinator")}
    for (_, process), row in rows.items():
        assert (row["state"], row["restarts"]) == ("running", 0)
        assert is_alive(row["pid"])
        assert row["rss_bytes"] > 1 << 20
        assert row["cpu_percent"] >= 0
        assert (row["kind"], row["shard"]) == (
            ("coordinator", None) if process == "coordinator" else ("shardworker", int(process[-1]))
        )
    shard = rows["n1", "shard-1"]
    assert (shard["role"], shard["leader"]) == ("leader", "n1")
    assert (
        shard["revision"]
        == shard["tables"]["default"]
        == cluster.cli_json("kv", "get", "counted")["revision"]
    )
    table = _out(cluster, "status").splitlines()
    assert table[0].split() == [
        "NODE",
        "PROCESS",
        "STATE",
        "PID",
        "RESTARTS",
        "CPU",
        "RSS",
        "ROLE",
        "LEADER",
        "REVISION",
    ]
    assert len(table) == 4


def test_a_table_on_its_way_to_another_shard_is_told(cluster: Cluster) -> None:
    """It is there within a third of a second, so it goes there and back until somebody has seen it go."""
    assert cluster.cli("table", "create", "mover", "--shard", "1").returncode == 0
    seen: list[TableMove] = []
    with ClusterSource(cluster.config, supervisor_timeout_s=5) as source, ThreadPoolExecutor(1) as pool:
        for way in range(20):
            words = ("table", "move", "mover", "--to", str(2 - way % 2))
            moved = pool.submit(cluster.cli, *words, run=True)
            while not moved.done():
                seen += [table.move for table in source.poll().tables if table.move is not None]
            assert moved.result().returncode == 0
            if seen:
                break
        assert seen[0].target == 2 - way % 2
        wait_until(
            lambda: not any(table.move for table in source.poll().tables), timeout_s=10, what="its end"
        )
    assert cluster.cli("table", "delete", "mover", "--yes").returncode == 0


def test_stop_start_and_restart(cluster: Cluster) -> None:
    assert _out(cluster, "stop", "n1/shard-2") == "n1/shard-2 is stopped\n"
    row = next(row for row in cluster.cli_json("status") if row["process"] == "shard-2")
    assert (row["state"], row["pid"], row["role"]) == ("stopped", None, None)
    assert _out(cluster, "start", "shard-2").startswith("n1/shard-2 is running, process ")
    before = {report.name: report.pid for report in cluster.reports()}
    plan = cluster.cli_json("restart", "--all", "--dry-run")
    assert [(step["process"], step["pauses_shard"]) for step in plan] == [
        ("shard-1", True),
        ("shard-2", True),
        ("coordinator", False),
    ]
    # What clients see is looked at from a process of its own.
    restarted = cluster.cli("restart", "n1", run=True)
    assert restarted.returncode == 0, restarted.stderr.decode()
    *lines, sighting = restarted.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["n1/shard-1", "n1/shard-2", "n1/coordinator"]
    assert sighting.startswith("clients saw 0 failed, slowest ")
    assert all(
        report.state is State.RUNNING and report.pid != before[report.name] for report in cluster.reports()
    )
    told = json.loads(cluster.cli("restart", "n1/coordinator", "-o", "json", run=True).stdout)
    assert told["processes"][0]["state"] == "running"
    assert told["clients"]["failed"] == 0
    assert told["clients"]["probes"] > 0
    cluster.wait_leaders()


def test_logs(cluster: Cluster) -> None:
    with (cluster.config.node_dir("n1") / "logs" / "shard-2.log").open("a") as log:
        log.write("the last line\n")
    assert _out(cluster, "logs", "n1/shard-2", "-n", "1") == "the last line\n"
    lines = _out(cluster, "logs", "n1", "-n", "1").splitlines()
    assert "n1/shard-2: the last line" in lines
    assert {line.split(":")[0] for line in lines} <= {"n1/shard-1", "n1/shard-2", "n1/coordinator"}
    cluster.wait_leaders()
    events = [
        json.loads(line)
        for line in _out(cluster, "logs", "n1/shard-1", "--json").splitlines()
        if line[0] == "{"
    ]
    assert events
    assert all(event["node"] == "n1" and event["shard"] == 1 for event in events), events
    elected = next(event for event in events if event["event"] == "leadership")
    assert elected["term"] > 0
    assert " leadership  " in _out(cluster, "logs", "n1/shard-1")
    told = [json.loads(line) for line in _out(cluster, "logs", "n1/coordinator", "--json").splitlines()]
    assert all(event["node"] == "n1" for event in told), told


def test_down(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=3, shards=1)
    with cluster:
        pids = [report.pid for report in cluster.reports() if report.pid is not None]
        assert _out(cluster, "down").splitlines() == ["n1 is down", "n2 is down", "n3 is down"]
        assert not any(map(is_alive, pids))
        assert cluster.supervisor("n1").wait(10) == 0
        assert _refusal(cluster, "down").startswith(
            f"boathouse: cluster {cluster.config.cluster} is not up here"
        )
        assert _refusal(cluster, "status").startswith(
            f"boathouse: cluster {cluster.config.cluster} is not up here"
        )
        assert _refusal(cluster, "restart", "n1").startswith("boathouse: node n1 is not up here")


def test_up_says_how_to_talk_to_it(cluster: Cluster) -> None:
    lines = cluster.output().splitlines()
    assert lines[0] == (
        f"cluster {cluster.config.cluster}: 1 node, 2 shards with 1 replica each, data in {cluster.config.data_dir}"
    )
    assert lines[1].startswith("ready after ")
    assert lines[1].endswith(f"both APIs on {cluster.endpoints[0]}")
    assert f"  boathouse kv get greeting --endpoint {cluster.endpoints[0]}" in lines


def test_stop_of_what_has_failed_is_done(tmp_path: Path) -> None:
    """It is down, as was asked."""
    settings = {"supervisor": {"crashes_max": 1}}
    with Cluster(tmp_path, nodes=1, shards=1, settings=settings) as cluster:
        name = ProcessName.replica("n1", 1)
        cluster.kill(name)
        wait_until(lambda: cluster.report(name).state is State.FAILED, timeout_s=20, what="it to have failed")
        assert _out(cluster, "stop", "n1/shard-1") == "n1/shard-1 is stopped\n"
        assert _out(cluster, "start", "n1/shard-1").startswith("n1/shard-1 is running, process ")


def test_a_proxy_for_the_world_does_not_catch_this_machine(cluster: Cluster) -> None:
    nowhere = "http://127.0.0.1:1"
    done = run_cli(
        *("kv", "put", "proxied", "no", "--timeout", "10", "--endpoint", f"http://{cluster.endpoints[0]}/"),
        http_proxy=nowhere,
        https_proxy=nowhere,
        grpc_proxy=nowhere,
        no_proxy="",
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_transaction_may_begin_with_a_byte_order_mark(cluster: Cluster) -> None:
    script = '\ufeffversion("marked") = "0"\n\nput marked yes\n'
    assert cluster.cli_json("kv", "txn", given=script.encode())["succeeded"]


def test_a_hung_supervisor_hides_only_its_own_node(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=2, shards=1, replicas=1, separate=True) as cluster:
        cluster.supervisor("n2").send_signal(signal.SIGSTOP)
        try:
            done = cluster.cli("status", "-o", "json")
        finally:
            cluster.supervisor("n2").send_signal(signal.SIGCONT)
        assert done.returncode == 1
        assert done.stderr == b"boathouse: the supervisor of n2 did not answer within 3 s\n"
        states = {f"{row['node']}/{row['process']}": row["state"] for row in json.loads(done.stdout)}
        assert states == {"n1/shard-1": "running", "n1/coordinator": "running", "n2/coordinator": "unknown"}


def test_logs_go_on_over_rotation_and_removal(cluster: Cluster) -> None:
    log = cluster.config.node_dir("n1") / "logs" / "shard-1.log"
    command = [
        sys.executable,
        "-P",
        "-m",
        "tools.cli",
        "logs",
        "n1/shard-1",
        str(cluster.file),
        "-n",
        "50",
        "-f",
    ]
    with log.open("a") as file:
        file.write("before\n")
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert follower.stdout is not None
    # The process whose log this is may have something to say in between.
    shown = iter(follower.stdout.readline, b"")
    try:
        assert b"before\n" in shown
        log.write_text("moved aside\n")
        assert b"moved aside\n" in shown
        log.unlink()
        log.write_text("half of a ")
        with log.open("a") as file:
            file.write("line\n")
        assert b"half of a line\n" in shown
    finally:
        follower.send_signal(signal.SIGINT)
        _, errors = follower.communicate(timeout=20)
    assert (follower.returncode, errors) == (0, b"")


# ---- without a cluster -------------------------------------------------------------------------------------------


def test_check_shows_where_shards_would_be() -> None:
    done = call_cli("check", str(EXAMPLES / "three-nodes.yaml"))
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].endswith(f"fine; cluster demo, data in {ROOT / 'boathouse-data' / 'three-nodes'}")
    assert lines[2].split() == ["1", "n1", "n2", "n3", "default"]
    document = json.loads(call_cli("check", str(EXAMPLES / "three-nodes.yaml"), "-o", "json").stdout)
    assert document["placement"][1] == {"shard": 2, "nodes": ["n2", "n3", "n1"], "tables": ["users"]}
    assert document["raft"]["tick_ms"] == 100


def test_check_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("nodes:\n  n1: {}\n  n2: {http_port: 1, peer_port: 7201}\nshard: 2\n")
    done = call_cli("check", "cluster.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"boathouse: cluster.yaml:4: shard: unknown key; did you mean shards?\n"


def test_up_with_a_bad_file_says_what_check_says(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("nodes:\n  n1: {}\nreplicas: 3\n")
    up, check = (run_cli(command, "cluster.yaml", cwd=tmp_path) for command in ("up", "check"))
    assert up.returncode == check.returncode == 1
    assert up.stderr == check.stderr


def test_check_says_that_it_did_not_look_for_keys_and_does_for_a_node() -> None:
    """A file of several hosts, on a machine that is perhaps none of them."""
    file = str(EXAMPLES / "systemd" / "cluster.yaml")
    done = call_cli("check", file)
    assert done.returncode == 0
    assert b"certificates, keys and tokens were not looked for" in done.stderr
    done = call_cli("check", file, "--node", "n2")
    assert done.returncode == 1
    assert b"tls.client.key: /etc/boathouse/certs/server-key.pem can't be read" in done.stderr
    assert b"tls.peer.keys: /etc/boathouse/keys" in done.stderr
    done = call_cli("check", file, "--node", "n9")
    assert done.returncode == 2
    assert b"cluster harbour has no node n9" in done.stderr


def test_a_restart_of_everything_takes_one_file() -> None:
    done = call_cli("restart", "--all", "a.yaml", "b.yaml", BOATHOUSE_FILE="c.yaml")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--all takes a FILE alone, and a.yaml comes before it" in done.stderr
    for words in (("a.yaml",), ()):
        done = call_cli("restart", "--all", *words, BOATHOUSE_FILE="c.yaml")
        assert (done.returncode, done.stderr.split(b":")[1]) == (1, b" a.yaml" if words else b" c.yaml")


def test_check_says_whom_a_cluster_follows() -> None:
    done = call_cli("check", str(EXAMPLES / "follower-cluster.yaml"))
    assert b"follows cluster harbour at 127.0.0.1:2379, 127.0.0.1:2389, 127.0.0.1:2399" in done.stdout


def test_inspect_reads_what_a_cluster_left(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1, shards=1) as cluster:
        assert cluster.cli("kv", "put", "k", "v").returncode == 0
    folder = cluster.config.replica_dir("n1", 1)
    done = call_cli("inspect", str(folder))
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines()[-1].startswith("sound: ")
    assert json.loads(call_cli("inspect", str(folder), "-o", "json").stdout)["problems"] == []
    done = call_cli("inspect", str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


def test_version() -> None:
    assert run_cli("version").stdout.decode().splitlines()[1].split()[0] == "boathouse"
    assert set(json.loads(call_cli("version", "-o", "json").stdout)) >= {
        "boathouse",
        "python",
        "sqlite",
        "grpcio",
    }


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("boathouse version > /dev/full", 1, "the output can't be written: No space left on device"),
        ("boathouse version >&-", 1, "the output can't be written: Bad file descriptor"),
        ("boathouse kv put k <&-", 1, "stdin: can't be read: Bad file descriptor"),
        ("boathouse version -o json | head -c 1", 0, None),
        (
            "mkdir gone; cd gone; rmdir ../gone; boathouse up",
            1,
            "built-in default: data_dir: is relative, and the working directory is gone; change to one that exists",
        ),
        (
            "mkdir $'\\377'; cd $'\\377'; boathouse up",
            1,
            "built-in default: data_dir: its path has to be UTF-8 text; choose another folder",
        ),
        ("boathouse check $'\\377.yaml'", 1, "\\udcff.yaml: can't be read: No such file or directory"),
    ],
)
def test_a_broken_surrounding_is_one_line(tmp_path: Path, command: str, code: int, words: str | None) -> None:
    program = f"{shlex.quote(sys.executable)} -P -m tools.cli"
    done = subprocess.run(
        ["bash", "-c", f'boathouse() {{ {program} "$@"; }}; {command}'],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.decode() == ("" if words is None else f"boathouse: {words}\n")


@pytest.mark.parametrize("option", [("--endpoint", "127.0.0.1:99999"), ("--timeout", "nan")])
def test_what_is_no_port_and_no_time_is_wrong_usage(option: tuple[str, str]) -> None:
    done = call_cli("kv", "get", "k", *option)
    assert done.returncode == 2
    assert option[0] in done.stderr.decode()


def test_without_a_command_it_shows_them() -> None:
    done = run_cli()
    assert done.returncode == 2
    assert b"restart" in done.stdout + done.stderr


def test_up_waits_for_nothing_heavy() -> None:
    """A start-up budget, as a list of what may not be imported before processes are spawned."""
    heavy = "{'grpc', 'psutil', 'zmq', 'apsw', 'structlog', 'rich'}"
    probe = f"import sys, tools.cli, tools.up; print(*sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True, cwd=ROOT).stdout
        == b"\n"
    )
