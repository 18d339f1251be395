"""The real etcdctl against a three-node cluster."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.conftest import PATIENCE
from tools.bench.systems import etcd_program

if TYPE_CHECKING:
    from collections.abc import Callable

Etcdctl = "Callable[..., subprocess.CompletedProcess[str]]"


@pytest.fixture
def run(cluster_endpoints: tuple[str, ...]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """etcdctl with all endpoints, and what it said."""

    def call(*words: str, stdin: str = "", timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        endpoints = ",".join(cluster_endpoints)
        command = [str(etcd_program("etcdctl")), *PATIENCE, "--endpoints", endpoints, *words]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    return call


@pytest.fixture
def said(run: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Standard output of a command that has to succeed."""

    def call(*words: str, stdin: str = "", timeout_s: float = 30) -> str:
        done = run(*words, stdin=stdin, timeout_s=timeout_s)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    return call


def parsed(text: str) -> Any:
    return json.loads(text)


def test_put_get_and_del(said: Callable[..., str]) -> None:
    assert said("put", "greeting", "hello") == "OK\n"
    assert said("put", "greeting", "bye", "--prev-kv") == "OK\ngreeting\nhello\n"
    assert said("get", "greeting") == "greeting\nbye\n"
    assert said("get", "greeting", "--print-value-only") == "bye\n"
    assert said("get", "gree", "--prefix", "--keys-only") == "greeting\n\n"
    assert said("del", "greeting", "--prev-kv") == "1\ngreeting\nbye\n"
    assert said("get", "greeting") == ""
    assert said("del", "greeting") == "0\n"


def test_get_takes_limits_orders_and_revisions(said: Callable[..., str]) -> None:
    for number, value in enumerate(("z", "y", "x"), 1):
        said("put", f"sorted/{number}", value)
    revision = parsed(said("get", "sorted/", "--prefix", "-w", "json"))["header"]["revision"]
    said("put", "sorted/1", "later")
    descending = ("--sort-by", "VALUE", "--order", "DESCEND", "--print-value-only")
    assert said("get", "sorted/", "--prefix", *descending).split() == ["y", "x", "later"]
    assert said("get", "sorted/", "--prefix", "--limit", "1", "--print-value-only") == "later\n"
    assert said("get", "sorted/1", "--rev", str(revision), "--print-value-only") == "z\n"
    assert said("get", "--consistency", "s", "sorted/2", "--print-value-only") in ("y\n", "")


def test_txn_takes_the_branch_that_the_compares_choose(said: Callable[..., str]) -> None:
    said("put", "account", "10")
    transaction = 'value("account") = "{}"\n\nput account spent\n\nget account\n\n'
    assert said("txn", stdin=transaction.format("10")) == "SUCCESS\n\nOK\n"
    assert said("txn", stdin=transaction.format("10")) == "FAILURE\n\naccount\nspent\n"


def test_compaction_removes_history(
    said: Callable[..., str], run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    said("put", "history", "1")
    revision = parsed(said("put", "history", "2", "-w", "json"))["header"]["revision"]
    assert said("compaction", str(revision), "--physical") == f"compacted revision {revision}\n"
    assert said("get", "history", "--rev", str(revision), "--print-value-only") == "2\n"
    old = run("get", "history", "--rev", str(revision - 1))
    assert "required revision has been compacted" in old.stderr
    again = run("compaction", str(revision))
    assert "required revision has been compacted" in again.stderr
    ahead = run("compaction", str(revision + 1000))
    assert "required revision is a future revision" in ahead.stderr


def test_endpoint_status_names_one_leader(
    said: Callable[..., str], cluster_endpoints: tuple[str, ...]
) -> None:
    statuses = parsed(said("endpoint", "status", "-w", "json"))
    assert [status["Endpoint"] for status in statuses] == list(cluster_endpoints)
    members = {status["Status"]["header"]["member_id"] for status in statuses}
    assert len(members) == 3
    leaders = {status["Status"]["leader"] for status in statuses}
    assert len(leaders) == 1
    assert leaders <= members
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", status["Status"]["version"]) for status in statuses)
    assert all(status["Status"]["dbSize"] > 0 for status in statuses)
    assert len(said("endpoint", "status", "-w", "table").splitlines()) == 7


def test_every_endpoint_is_healthy(said: Callable[..., str]) -> None:
    healths = parsed(said("endpoint", "health", "-w", "json"))
    assert [health["health"] for health in healths] == [True, True, True]


def test_member_list_gives_urls_that_work(
    said: Callable[..., str], cluster_endpoints: tuple[str, ...]
) -> None:
    members = parsed(said("member", "list", "-w", "json"))["members"]
    assert [member["name"] for member in members] == ["n1", "n2", "n3"]
    urls = {url for member in members for url in member["clientURLs"]}
    assert {url.removeprefix("http://") for url in urls} == set(cluster_endpoints)
    assert len(parsed(said("endpoint", "status", "--cluster", "-w", "json"))) == 3


def test_large_and_binary_values_come_back(said: Callable[..., str]) -> None:
    value = "v" * 1_000_000
    assert said("put", "large", stdin=value) == "OK\n"
    assert said("get", "large", "--print-value-only").rstrip("\n") == value
    said("put", "key with\nline", "\u00e4")
    (kv,) = parsed(said("get", "key with\nline", "-w", "json"))["kvs"]
    assert base64.b64decode(kv["value"]).decode() == "\u00e4"


def test_errors_read_as_from_etcd(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert "etcdserver: key is not provided" in run("put", "", "v").stderr
    assert "etcdserver: requested lease not found" in run("put", "k", "v", "--lease", "1234").stderr
    too_large = run("put", "large", stdin="v" * 1_600_000)
    assert "etcdserver: request is too large" in too_large.stderr
    assert too_large.returncode != 0


@pytest.mark.long
def test_check_perf_passes_at_the_small_load(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A minute of 150 writes a second."""
    done = run("check", "perf", "--load=s", timeout_s=150)
    assert re.search(r"PASS: Throughput is 1[45]\d writes/s", done.stdout), done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("PASS"), done.stdout
