"""`boathouse shell` as its user has it: on a terminal, with history and Tab, and from a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.cluster import ROOT, Cluster, run_cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(name="cluster", scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    tables: dict[str, dict[str, Any]] = {"default": {"shard": 1}, "users": {"shard": 1}}
    with Cluster(tmp_path_factory.mktemp("shell"), nodes=1, shards=1, tables=tables) as cluster:
        cluster.wait_leaders()
        yield cluster


class Terminal:
    """A shell that somebody types into."""

    def __init__(self, cluster: Cluster, state: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tools.cli", "shell", "--endpoint", cluster.endpoints[0]],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            env={**os.environ, "XDG_STATE_HOME": str(state), "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"},
        )
        os.close(theirs)
        self._said = ""

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_says(self, pattern: str) -> None:
        """Whatever was said up to there is done with."""
        deadline_s = time.monotonic() + 30
        while (found := re.search(pattern, self._said)) is None:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline_s - time.monotonic()))
            assert ready, f"no {pattern!r} in {self._said!r}"
            self._said += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(self._ours, 4096).decode())
        self._said = self._said[found.end() :]


@contextlib.contextmanager
def _terminal(cluster: Cluster, state: Path) -> Iterator[Terminal]:
    terminal = Terminal(cluster, state)
    try:
        terminal.wait_says("default>")
        yield terminal
    finally:
        terminal.close()


def _piped(cluster: Cluster, script: str) -> subprocess.CompletedProcess[bytes]:
    return cluster.cli("shell", given=script.encode())


def test_on_a_terminal(cluster: Cluster, tmp_path: Path) -> None:
    with _terminal(cluster, tmp_path) as shell:
        shell.type("put greeting 'hello there'\r")
        shell.wait_says("put 1 key, revision ")
        shell.type("get greet\t")
        shell.wait_says("get greeting")  # the only key that begins so
        shell.type("\r")
        shell.wait_says("hello there")
        shell.type("get\r")
        shell.wait_says("Missing argument")  # and it goes on
        shell.type('txn\rversion("greeting") > "0"\r\rput told yes\rput also "so"\r\r\r')
        shell.wait_says("succeeded, revision ")
        shell.type("del greeting\x03")  # given up
        shell.type("table us\t")
        shell.wait_says("table users")
        shell.type("\r")
        shell.wait_says("users>")
        shell.type("consistency serializable\r")
        shell.wait_says(r"users \(serializable\)>")
        shell.type("put who\rann\r")
        shell.wait_says("put 1 key, revision ")
        shell.type(" put password secret\r")
        shell.wait_says("put 1 key, revision ")
        shell.type("get who\r")
        shell.wait_says("who +ann")
        shell.wait_says(r"users \(serializable\)>")
        shell.type("\x04")
        assert shell.process.wait(20) == 0
    assert cluster.cli("kv", "get", "told", "--print-value-only").stdout == b"yes"
    history = tmp_path / "boathouse" / "shell-history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.parent.stat().st_mode & 0o777 == 0o700
    kept = history.read_text()
    assert "get who" in kept
    assert "secret" not in kept, "a line that begins with a space is the user's secret"
    history.chmod(0o644)  # as if somebody had been careless
    with _terminal(cluster, tmp_path) as shell:
        shell.type("\x1b[A\r")  # the line before, which finds nothing in this table
        shell.wait_says("get who")
        shell.wait_says("KEY +VALUE")
    assert history.stat().st_mode & 0o777 == 0o600


def test_from_a_pipe(cluster: Cluster) -> None:
    done = _piped(
        cluster,
        "# comments and empty lines are nothing\n\n"
        "put piped 'two words'  # so is this\n"
        "get piped --print-value-only\n"
        "txn\n"
        'value("piped") = "two words"\n'
        "\n"
        "put piped three\n"
        "\n"
        "\n"
        "table users\n"
        "output json\n"
        "get piped\n",
    )
    assert done.stderr == b""
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("put 1 key, revision ")
    assert lines[1].startswith("two wordssucceeded, revision ")
    assert '  "count": 0,' in lines, "another table"
    assert cluster.cli("kv", "get", "piped", "--print-value-only").stdout == b"three"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("put a 1\nget\nput a 2\n", "line 2: Missing argument"),
        ("table none\nput a 2", "line 2: {endpoint}: etcdserver: table not found (NOT_FOUND)"),
        ("dance\nput a 2", "line 1: dance: no such command"),
        ("put a '2\n", "line 1: No closing quotation"),
        ("consistency strong\n", "line 1: strong: one of linearizable, serializable"),
        ("txn\nput a 2\n", "line 2: stdin: line 1: "),
    ],
)
def test_the_first_line_that_fails_ends_a_script(cluster: Cluster, script: str, words: str) -> None:
    cluster.cli("kv", "put", "a", "0")
    done = _piped(cluster, script)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("boathouse: " + words.format(endpoint=cluster.endpoints[0]))
    assert cluster.cli("kv", "get", "a", "--print-value-only").stdout != b"2"


def test_what_is_switched_says_what_it_is_switched_to() -> None:
    done = run_cli("shell", given=b"output\noutput json\noutput\nconsistency\ntable\n")
    assert (done.stderr, done.stdout.decode().split()) == (b"", ["table", "json", "linearizable", "default"])


def test_exit_leaves_the_rest_alone(cluster: Cluster) -> None:
    done = _piped(cluster, "exit\nput never 1\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert cluster.cli("kv", "get", "never", "--count-only").stdout == b"0\n"
