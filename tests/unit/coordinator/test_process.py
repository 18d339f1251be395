"""`python -m coordinator` as its supervisor sees it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from config import ProcessSpec
from config.process.child import set_up_logging
from tests.unit.coordinator.running import make_config, sockets_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pytest

    from config import ClusterConfig


@contextlib.contextmanager
def coordinator(
    cluster: ClusterConfig, *options: str, sockets: Mapping[str, socket.socket] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A started process that has got its spec. sockets: what it shares with others; by default it has its own."""
    with contextlib.ExitStack() as stack:
        if sockets is None:
            sockets = sockets_of(cluster, "n1")
            for own in sockets.values():
                stack.enter_context(own)
        handed = {name: shared.fileno() for name, shared in sockets.items()}
        process = subprocess.Popen(
            [sys.executable, *options, "-m", "coordinator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=tuple(handed.values()),
        )
    assert process.stdin is not None
    spec = ProcessSpec(cluster=cluster, kind="coordinator", node="n1", sockets=handed)
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
    """The next line of the process's report that is no beat."""
    assert process.stdout is not None
    while True:
        line = process.stdout.readline()
        assert line, "the process ended without a word"
        report: dict[str, Any] = json.loads(line)
        if report != {"event": "beat"}:
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


def test_without_sockets_it_says_so(tmp_path: Path) -> None:
    with coordinator(make_config(tmp_path, nodes=1, shards=1), sockets={}) as process:
        report = event(process)
        assert report["event"] == "failed"
        assert "no socket named client or http" in report["reason"]
        assert process.wait(timeout=10) == 1


class Caller:
    """Calls the health service without end, on one channel and by a new connection each time."""

    def __init__(self, endpoint: str) -> None:
        self.calls = 0
        self.failed: list[str] = []
        self._endpoint = endpoint
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call), threading.Thread(target=self._connect)]

    def _call(self) -> None:
        with grpc.insecure_channel(self._endpoint, self._options()) as channel:
            while not self._stopping.is_set():
                self._check(channel)

    def _connect(self) -> None:
        while not self._stopping.is_set():
            with grpc.insecure_channel(self._endpoint, self._options()) as channel:
                self._check(channel)

    @staticmethod
    def _options() -> tuple[tuple[str, int], ...]:
        return (("grpc.use_local_subchannel_pool", 1),)

    def _check(self, channel: grpc.Channel) -> None:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            self.calls += 1
        except grpc.RpcError as error:
            self.failed.append(str(error))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def test_a_successor_takes_over_without_a_failed_call_or_a_refused_connection(tmp_path: Path) -> None:
    cluster = make_config(tmp_path, nodes=1, shards=1)
    sockets = sockets_of(cluster, "n1")
    with contextlib.ExitStack() as stack:
        for shared in sockets.values():
            stack.enter_context(shared)
        first = stack.enter_context(coordinator(cluster, sockets=sockets))
        assert event(first) == {"event": "ready"}
        caller = stack.enter_context(Caller(cluster.node("n1").client_endpoint))
        for _ in range(2):
            before = caller.calls
            wait_until(lambda before=before: caller.calls > before + 20, timeout_s=20, what="calls")  # type: ignore[misc]
            second = stack.enter_context(coordinator(cluster, sockets=sockets))
            assert event(second) == {"event": "ready"}
            first.terminate()
            assert first.wait(timeout=20) == 0
            first = second
        before = caller.calls
        wait_until(lambda: caller.calls > before + 20, timeout_s=20, what="calls of the last")
        assert not caller.failed


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
