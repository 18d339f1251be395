"""What the real etcdctl does with leases, locks and elections, word by word, on etcd and on a three-node cluster."""

from __future__ import annotations

import re
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.conformance.conftest import PATIENCE
from tests.waiting import wait_until
from tools.bench.systems import etcd_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 30


@pytest.fixture(params=["etcd_endpoint", "cluster_endpoints"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """etcdctl with the endpoints of a system."""
    endpoints = request.getfixturevalue(request.param)
    if not isinstance(endpoints, str):
        endpoints = ",".join(endpoints)
    return [str(etcd_program("etcdctl")), *PATIENCE, "--endpoints", endpoints]


@pytest.fixture
def said(command: list[str]) -> Callable[..., str]:
    """What a command of etcdctl prints."""

    def call(*words: str) -> str:
        done = subprocess.run(
            [*command, *words], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        return done.stdout + done.stderr

    return call


class Running:
    """An etcdctl that goes on, and what it has printed."""

    def __init__(self, command: list[str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))

    def hears(self, count: int) -> list[str]:
        wait_until(lambda: len(self.lines) >= count, timeout_s=15, what=f"{count} lines of etcdctl")
        return self.lines

    def end(self) -> None:
        """Interrupt it, as a user does; it gives back what it holds."""
        self.process.terminate()
        self.process.wait(TIMEOUT_S)
        self._reader.join()


@pytest.fixture
def start(command: list[str]) -> Iterator[Callable[..., Running]]:
    begun: list[Running] = []

    def call(*words: str) -> Running:
        begun.append(Running([*command, *words]))
        return begun[-1]

    yield call
    for running in begun:
        running.end()


def test_lease(said: Callable[..., str]) -> None:
    granted = said("lease", "grant", "100")
    found = re.fullmatch(r"lease ([0-9a-f]+) granted with TTL\(100s\)\n", granted)
    assert found is not None, granted
    lease = found[1]
    assert said("put", "leased", "v", "--lease", lease) == "OK\n"
    assert lease in said("lease", "list")
    told = said("lease", "timetolive", lease, "--keys")
    assert re.fullmatch(
        rf"lease {lease} granted with TTL\(100s\), remaining\(9\ds\), attached keys\(\[leased\]\)\n", told
    )
    assert said("lease", "keep-alive", "--once", lease) == f"lease {lease} keepalived with TTL(100)\n"
    assert said("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert said("get", "leased") == ""
    assert said("lease", "timetolive", lease) == f"lease {lease} already expired\n"
    assert "requested lease not found" in said("lease", "revoke", lease)
    assert "requested lease not found" in said("lease", "keep-alive", "--once", lease)


def test_lock(said: Callable[..., str], start: Callable[..., Running]) -> None:
    assert said("lock", "job", "echo", "locked") == "locked\n"
    holder = start("lock", "job")
    first = holder.hears(1)[0]
    assert re.fullmatch(r"job/[0-9a-f]+", first)
    waiter = start("lock", "job")
    wait_until(
        lambda: len(said("get", "job/", "--prefix", "--keys-only").split()) == 2,
        timeout_s=10,
        what="the second to stand in line",
    )
    assert waiter.lines == []
    holder.end()
    assert waiter.hears(1)[0] not in ("", first)


def test_elect(said: Callable[..., str], start: Callable[..., Running]) -> None:
    leader = start("elect", "office", "one")
    key, value = leader.hears(2)[:2]
    assert re.fullmatch(r"office/[0-9a-f]+", key)
    assert value == "one"
    observer = start("elect", "--listen", "office")
    assert observer.hears(2)[:2] == [key, "one"]
    candidate = start("elect", "office", "two")
    wait_until(
        lambda: len(said("get", "office/", "--prefix", "--keys-only").split()) == 2,
        timeout_s=10,
        what="the second candidate",
    )
    assert candidate.lines == []
    leader.end()
    assert candidate.hears(2)[1] == "two"
    assert observer.hears(4)[3] == "two"
