"""`etcdctl watch` as people run it, against etcd and boathouse: what it prints must be the same."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Self

import pytest

from tests.conformance.conftest import PATIENCE
from tests.waiting import wait_until
from tools.bench.systems import etcd_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = "etcdctl-watch/"


@pytest.fixture(params=["etcd", "boathouse"])
def endpoint(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_endpoint")
    return found


def etcdctl(endpoint: str, *words: str) -> str:
    command = [str(etcd_program("etcdctl")), *PATIENCE, "--endpoints", endpoint, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Watching:
    """An etcdctl that watches, until the block ends."""

    def __init__(self, folder: Path, endpoint: str, *words: str) -> None:
        self._file = (folder / "watch.out").open("w+b")
        command = [str(etcd_program("etcdctl")), *PATIENCE, "--endpoints", endpoint, "watch", *words]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._file, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._file.close()

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), line.encode() + b"\n")

    def printed(self) -> list[str]:
        self._file.flush()
        with open(self._file.name) as written:
            return written.read().splitlines()

    def wait_printed(self, lines: list[str]) -> None:
        wait_until(
            lambda: len(self.printed()) >= len(lines),
            timeout_s=20,
            what=f"{len(lines)} lines",
            interval_s=0.05,
        )
        assert self.printed() == lines


@pytest.fixture
def clean(endpoint: str) -> Iterator[None]:
    etcdctl(endpoint, "del", "--prefix", PREFIX)
    yield
    etcdctl(endpoint, "del", "--prefix", PREFIX)


@pytest.mark.usefixtures("clean")
def test_the_past_of_a_prefix_with_the_pairs_before(endpoint: str, tmp_path: Path) -> None:
    key = f"{PREFIX}a"
    put = etcdctl(endpoint, "put", key, "1", "-w", "fields")
    revision = next(line.split()[-1] for line in put.splitlines() if line.startswith('"Revision"'))
    etcdctl(endpoint, "put", key, "2")
    with Watching(tmp_path, endpoint, "--prefix", "--prev-kv", "--rev", revision, PREFIX) as watching:
        lines = ["PUT", key, "1", "PUT", key, "1", key, "2"]
        watching.wait_printed(lines)
        etcdctl(endpoint, "del", key)
        watching.wait_printed([*lines, "DELETE", key, "2", key, ""])


@pytest.mark.usefixtures("clean")
def test_several_watches_and_progress_in_one_session(endpoint: str, tmp_path: Path) -> None:
    with Watching(tmp_path, endpoint, "-i") as watching:
        watching.say(f"watch {PREFIX}a")
        watching.say(f"watch --prefix {PREFIX}b")
        watching.say("progress")
        wait_until(
            lambda: any(line.startswith("progress notify:") for line in watching.printed()),
            timeout_s=20,
            what="the progress of both watches",
        )
        etcdctl(endpoint, "put", f"{PREFIX}b1", "x")
        etcdctl(endpoint, "put", f"{PREFIX}c", "y")
        etcdctl(endpoint, "put", f"{PREFIX}a", "z")
        wait_until(lambda: "z" in watching.printed(), timeout_s=20, what="the last event")
        events = [line for line in watching.printed() if not line.startswith("progress notify:")]
        assert events == ["PUT", f"{PREFIX}b1", "x", "PUT", f"{PREFIX}a", "z"]


@pytest.mark.usefixtures("clean")
def test_a_command_runs_with_each_event(endpoint: str, tmp_path: Path) -> None:
    with Watching(tmp_path, endpoint, f"{PREFIX}a", "--", "sh", "-c", "echo $ETCD_WATCH_VALUE") as watching:
        for number in range(20):  # the first ones may come before the watch
            etcdctl(endpoint, "put", f"{PREFIX}a", str(number))
        wait_until(lambda: '"19"' in watching.printed(), timeout_s=20, what="the last value")


@pytest.mark.usefixtures("clean")
def test_a_compacted_revision(endpoint: str, tmp_path: Path) -> None:
    put = etcdctl(endpoint, "put", f"{PREFIX}a", "1", "-w", "fields")
    revision = int(next(line.split()[-1] for line in put.splitlines() if line.startswith('"Revision"')))
    etcdctl(endpoint, "compact", str(revision))
    with Watching(tmp_path, endpoint, "--rev", str(revision - 1), f"{PREFIX}a") as watching:
        said = "watch was canceled (etcdserver: mvcc: required revision has been compacted)"
        wait_until(lambda: said in watching.printed(), timeout_s=20, what=said)
