"""`python -m coordinator` as its supervisor sees it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import structlog

from config import ProcessSpec
from config.process.child import set_up_logging
from tests.unit.coordinator.running import make_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from config import ClusterConfig


@contextlib.contextmanager
def coordinator(cluster: ClusterConfig, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A started process that has got its spec."""
    process = subprocess.Popen(
        [sys.executable, *options, "-m", "coordinator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    spec = ProcessSpec(cluster=cluster, kind="coordinator", node="n1")
    try:
        with contextlib.suppress(BrokenPipeError):  # it may have refused already
            process.stdin.write(spec.model_dump_json() + "\n")
            process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def event(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of the process's report."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process ended without a word"
    report: dict[str, Any] = json.loads(line)
    return report


def test_the_end_of_stdin_is_an_orderly_stop(tmp_path: Path) -> None:
    with coordinator(make_config(tmp_path, nodes=1, shards=1)) as process:
        assert event(process) == {"event": "ready"}
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=10) == 0
        assert process.stderr is not None
        for line in process.stderr.read().splitlines():
            assert json.loads(line)["level"] in {"info", "warning"}


def test_sigterm_is_an_orderly_stop(tmp_path: Path) -> None:
    with coordinator(make_config(tmp_path, nodes=1, shards=1)) as process:
        assert event(process) == {"event": "ready"}
        process.terminate()
        assert process.wait(timeout=10) == 0


def test_a_second_coordinator_on_the_port_is_one_clear_line(tmp_path: Path) -> None:
    cluster = make_config(tmp_path, nodes=1, shards=1)
    with coordinator(cluster) as first:
        assert event(first) == {"event": "ready"}
        with coordinator(cluster) as second:
            report = event(second)
            assert report["event"] == "failed"
            assert cluster.node("n1").client_endpoint in report["reason"]
            assert second.wait(timeout=10) == 1
            assert second.stderr is not None
            lines = second.stderr.read().splitlines()
            assert lines[-1] == report["reason"]
            assert not any("Traceback" in line for line in lines)


def test_a_taken_http_port_is_one_clear_line(tmp_path: Path) -> None:
    cluster = make_config(tmp_path, nodes=1, shards=1)
    node = cluster.node("n1")
    with socket.create_server((node.host, node.http_port)), coordinator(cluster) as process:
        report = event(process)
        assert report["event"] == "failed"
        assert f"can't listen on {node.http_endpoint}: another program has the port" in report["reason"]
        assert process.wait(timeout=10) == 1


def test_it_does_not_run_without_assertions(tmp_path: Path) -> None:
    with coordinator(make_config(tmp_path, nodes=1, shards=1), "-O") as process:
        assert event(process)["event"] == "failed"
        assert process.wait(timeout=10) == 1


def test_a_logged_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        set_up_logging()
        value = b"a client's own"
        try:
            value.decode().index("?")
        except ValueError:
            structlog.get_logger().exception("a call failed")
    finally:
        structlog.configure(**before)
    logged = json.loads(capsys.readouterr().err)
    assert logged["exception"][0]["exc_type"] == "ValueError"
    assert "a client's own" not in json.dumps(logged)
