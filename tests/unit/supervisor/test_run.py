"""A whole supervisor with fake children: the order of stopping, the control socket, and what happens when it
dies."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from config.loading import load
from config.process.report import State
from coordinator.supervisor.folder import living_holder
from coordinator.supervisor.refusal import StartRefused
from coordinator.supervisor.run import nodes_to_start
from coordinator.supervisor.runtime_dir import RuntimeDir
from tests.waiting import free_ports, wait_until
from tools.admin.control_client import NodeControl, RequestRefused, SupervisorUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from config import ClusterConfig

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "config" / "examples"


class FakeUp:
    """Supervisors of one cluster with fake children."""

    def __init__(
        self, folder: Path, nodes: int = 1, supervisor: str = "stop_timeout_ms: 5000", coordinators: int = 1
    ) -> None:
        self.file = folder / "cluster.yaml"
        self.traces = folder / "traces"
        self.traces.mkdir()
        self._output = folder / "output"
        lines = [f"cluster: fake\ndata_dir: {folder / 'data'}\nnodes:\n"]
        for number in range(1, nodes + 1):
            client_port, http_port = free_ports(2)
            peer_port = free_ports(2, contiguous=True)[0]
            lines.append(
                f"  n{number}: {{client_port: {client_port}, http_port: {http_port}, peer_port: {peer_port}, "
                f"coordinators: {coordinators}}}\n"
            )
        lines.append(f"shards: 2\nreplicas: {1 if nodes < 3 else 3}\nsupervisor: {{{supervisor}}}\n")
        self.file.write_text("".join(lines))
        self.cluster: ClusterConfig = load(self.file)
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *behaviours: str, signals: str = "--default-signal") -> subprocess.Popen[bytes]:
        """`signals` says to `env` what is ignored from the start; by default nothing, whoever runs the tests."""
        command = [
            *("env", signals),
            sys.executable,
            "-m",
            "tests.unit.supervisor.fake_up",
            str(self.file),
            str(self.traces),
            *behaviours,
        ]
        with self._output.open("ab") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        self._started.append(process)
        return process

    def start_and_wait(self, *behaviours: str, signals: str = "--default-signal") -> subprocess.Popen[bytes]:
        before = self.output().count("all running")
        process = self.start(*behaviours, signals=signals)
        self.wait_output("all running", before + 1)
        return process

    def wait_output(self, line: str, count: int = 1) -> None:
        wait_until(
            lambda: self.output().count(line) >= count, timeout_s=30, what=f"{line!r} from the supervisor"
        )

    def output(self) -> list[str]:
        return self._output.read_text().splitlines() if self._output.exists() else []

    def words(self, name: str) -> list[str]:
        return [line.split()[0] for line in self._lines(name)]

    def time_of(self, name: str, word: str) -> float:
        return next(float(line.split()[1]) for line in self._lines(name) if line.startswith(word + " "))

    def _lines(self, name: str) -> list[str]:
        path = self.traces / name.replace("/", ".")
        return path.read_text().splitlines() if path.exists() else []

    def pids(self) -> list[int]:
        reports = NodeControl(self.cluster, "n1").status()
        return [report.pid for report in reports if report.pid is not None]

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()  # its children see the end of their stdin
            process.wait()
        with contextlib.suppress(OSError):
            self.cluster.runtime_dir.rmdir()


@pytest.fixture(name="up")
def _up(tmp_path: Path) -> Iterator[FakeUp]:
    up = FakeUp(tmp_path)
    yield up
    up.close()


@pytest.fixture(name="three")
def _three(tmp_path: Path) -> Iterator[FakeUp]:
    up = FakeUp(tmp_path, nodes=3)
    yield up
    up.close()


def _end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_coordinators_before_workers(three: FakeUp, number: signal.Signals) -> None:
    process = three.start_and_wait("n2/coordinator=slow-stop")
    assert _end(process, number) == 0
    coordinators = [f"{node}/coordinator" for node in three.cluster.nodes]
    workers = [f"{node}/shard-{shard}" for node in three.cluster.nodes for shard in (1, 2)]
    for name in (*coordinators, *workers):
        assert three.words(name) == ["start", "term", "end"]
    last_coordinator = max(three.time_of(name, "end") for name in coordinators)
    first_worker = min(three.time_of(name, "term") for name in workers)
    assert last_coordinator < first_worker
    assert f"{number.name}: stopping in order" in three.output()


def test_nothing_is_left_behind(up: FakeUp) -> None:
    process = up.start_and_wait()
    assert up.cluster.control_socket("n1").is_socket()
    assert _end(process) == 0
    assert list(up.cluster.runtime_dir.iterdir()) == []
    process = up.start_and_wait()
    assert _end(process) == 0


def test_a_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    up = FakeUp(tmp_path, supervisor="stop_timeout_ms: 300")
    process = up.start_and_wait("shard-1=deaf")
    pids = up.pids()
    assert _end(process) == 0
    assert up.words("n1/shard-1") == ["start"]
    assert not any(_is_alive(pid) for pid in pids)
    up.close()


def test_a_second_signal_does_not_wait(up: FakeUp) -> None:
    process = up.start_and_wait("coordinator=deaf", "shard-2=deaf")
    pids = up.pids()
    process.send_signal(signal.SIGINT)
    wait_until(
        lambda: "SIGINT: stopping in order" in up.output(), timeout_s=10, what="the first signal to be heard"
    )
    assert _end(process, signal.SIGINT) == 0
    assert "SIGINT again: killing what is left" in up.output()
    assert not any(_is_alive(pid) for pid in pids)


def test_children_of_a_killed_supervisor_end_by_themselves_and_a_new_one_waits_for_them(up: FakeUp) -> None:
    process = up.start_and_wait("shard-1=slow-eof")
    process.kill()
    process.wait()
    process = up.start()
    wait_until(
        lambda: up.output().count("all running") == 2, timeout_s=30, what=f"a second start: {up.output()}"
    )
    for name in ("n1/coordinator", "n1/shard-1", "n1/shard-2"):
        assert up.words(name) == ["start", "eof", "start"]
    assert _end(process) == 0


def test_a_second_up_is_refused_and_harms_nothing(up: FakeUp) -> None:
    first = up.start_and_wait()
    second = up.start()
    assert second.wait(30) == 1
    refusal = next(line for line in up.output() if line.startswith("refused"))
    assert refusal == (
        f"refused: node n1 is up already: process {first.pid} holds {up.cluster.node_dir('n1')}; "
        f"`boathouse down` stops it"
    )
    assert [report.state for report in NodeControl(up.cluster, "n1").status()] == [State.RUNNING] * 3
    assert _end(first) == 0


def test_a_taken_port_is_refused_and_nothing_started(up: FakeUp) -> None:
    port = up.cluster.node("n1").client_port
    with socket.create_server(("127.0.0.1", port)):
        process = up.start()
        assert process.wait(30) == 1
    assert any(
        f"refused: 127.0.0.1:{port} (nodes.n1.client_port) is already in use" in line for line in up.output()
    )
    assert list(up.traces.iterdir()) == []


def test_status_tells_of_every_process(up: FakeUp) -> None:
    process = up.start_and_wait()
    reports = NodeControl(up.cluster, "n1").status()
    assert [str(report.name) for report in reports] == ["n1/shard-1", "n1/shard-2", "n1/coordinator"]
    assert all(report.pid is not None and _is_alive(report.pid) for report in reports)
    assert {(report.state, report.restarts, report.reason) for report in reports} == {(State.RUNNING, 0, "")}
    log = Path(reports[0].log)
    assert log == up.cluster.node_dir("n1") / "logs" / "shard-1.log"
    assert log.read_text() == "spec of n1\n"
    assert _end(process) == 0


def test_a_killed_child_comes_back_and_the_rest_stays(up: FakeUp) -> None:
    process = up.start_and_wait()
    control = NodeControl(up.cluster, "n1")
    before = {report.name: report.pid for report in control.status()}
    victim = control.status()[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(
        lambda: (now := control.status()[0]).state is State.RUNNING and now.restarts == 1,
        timeout_s=10,
        what="a restart",
    )
    after = {report.name: report.pid for report in control.status()}
    assert after.pop(victim.name) != before.pop(victim.name)
    assert after == before
    assert control.status()[0].reason == "killed by SIGKILL"
    assert _end(process) == 0


def test_stop_start_and_restart_by_request(up: FakeUp) -> None:
    process = up.start_and_wait()
    control = NodeControl(up.cluster, "n1")
    stopped = control.operate("stop", ["shard-2"], timeout_s=10)
    assert [(str(report.name), report.state) for report in stopped] == [("n1/shard-2", State.STOPPED)]
    assert [report.state for report in control.status()] == [State.RUNNING, State.STOPPED, State.RUNNING]
    started = control.operate("start", ["shard-2"], timeout_s=10)[0]
    assert (started.state, started.restarts) == (State.RUNNING, 1)
    again = control.operate("restart", ["shard-2"], timeout_s=10)[0]
    assert (again.state, again.restarts) == (State.RUNNING, 2)
    assert again.pid != started.pid
    assert up.words("n1/shard-2") == ["start", "term", "end"] * 2 + ["start"]
    assert _end(process) == 0


def test_new_clients_are_refused_as_soon_as_the_last_coordinator_is_to_stop(up: FakeUp) -> None:
    process = up.start_and_wait("coordinator=slow-stop")
    port = up.cluster.node("n1").client_port
    socket.create_connection(("127.0.0.1", port)).close()
    with ThreadPoolExecutor(1) as pool:
        stop = pool.submit(NodeControl(up.cluster, "n1").operate, "stop", ["coordinator"], timeout_s=20)
        wait_until(lambda: "term" in up.words("n1/coordinator"), timeout_s=10, what="the stop to begin")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert "end" not in up.words("n1/coordinator")
        assert stop.result()[0].state is State.STOPPED
    NodeControl(up.cluster, "n1").operate("start", ["coordinator"], timeout_s=20)
    socket.create_connection(("127.0.0.1", port)).close()
    assert _end(process) == 0


def test_down_ends_the_supervisor_and_answers_when_all_is_over(up: FakeUp) -> None:
    process = up.start_and_wait("shard-1=slow-stop")
    pids = up.pids()
    NodeControl(up.cluster, "n1").down(timeout_s=20)
    assert not any(_is_alive(pid) for pid in pids)
    assert process.wait(10) == 0
    with pytest.raises(SupervisorUnreachable, match="node n1 is not up here"):
        NodeControl(up.cluster, "n1").status()


def test_down_of_one_node_leaves_the_others(three: FakeUp) -> None:
    process = three.start_and_wait()
    NodeControl(three.cluster, "n2").down(timeout_s=20)
    assert living_holder(three.cluster.node_dir("n2")) is None, "`boathouse recover n2` has to be possible"
    with pytest.raises(SupervisorUnreachable, match="node n2 is not up here"):
        NodeControl(three.cluster, "n2").status()
    assert {report.state for report in NodeControl(three.cluster, "n1").status()} == {State.RUNNING}
    NodeControl(three.cluster, "n1").down(timeout_s=20)
    NodeControl(three.cluster, "n3").down(timeout_s=20)
    assert process.wait(10) == 0


def test_a_node_that_is_down_is_started_by_another_up_beside_the_first(three: FakeUp) -> None:
    first = three.start_and_wait()
    NodeControl(three.cluster, "n2").down(timeout_s=20)
    second = three.start("node=n2")
    three.wait_output("all running", 2)
    control = NodeControl(three.cluster, "n2")
    assert {report.state for report in control.status()} == {State.RUNNING}
    assert living_holder(three.cluster.node_dir("n2")) == second.pid
    assert _end(first) == 0, "the first one's end is none of the second one's business"
    assert {report.state for report in control.status()} == {State.RUNNING}
    socket.create_connection(("127.0.0.1", three.cluster.node("n2").client_port)).close()
    control.down(timeout_s=20)
    assert second.wait(10) == 0


def test_a_restart_under_way_starts_nothing_on_a_node_that_goes_down(three: FakeUp) -> None:
    process = three.start_and_wait("n2/shard-1=slow-stop")
    control = NodeControl(three.cluster, "n2")
    with ThreadPoolExecutor(1) as pool:
        restart = pool.submit(control.operate, "restart", ["shard-1"], timeout_s=20)
        wait_until(lambda: "term" in three.words("n2/shard-1"), timeout_s=10, what="the restart to begin")
        control.down(timeout_s=20)
        with pytest.raises(RequestRefused, match="node n2 is going down"):
            restart.result()
    assert three.words("n2/shard-1") == ["start", "term", "end"]
    assert _end(process) == 0


NONSENSE = {
    b"{}": "this supervisor does not know the request None",
    b'{"op": "dance"}': "this supervisor does not know the request 'dance'",
    b'{"op": "stop"}': "this supervisor does not know the request 'stop'",
    b'{"op": "stop", "processes": ["shard-9"]}': "node n1 has no process shard-9",
    b'{"op": "stop", "processes": [7]}': "node n1 has no process 7",
    b"[]": "a request is a JSON object",
    b"hello": "Expecting value: line 1 column 1 (char 0)",
}


def test_nonsense_on_the_control_socket_gets_an_answer(up: FakeUp) -> None:
    process = up.start_and_wait()
    for line, error in NONSENSE.items():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(up.cluster.control_socket("n1")))
            for _ in range(2):  # and the conversation goes on
                connection.sendall(line + b"\n")
                assert json.loads(connection.recv(4096)) == {"ok": False, "error": error}
    assert _end(process) == 0
    assert not any("Traceback" in line for line in up.output())


def test_a_client_that_stays_connected_does_not_hold_up_the_end(up: FakeUp) -> None:
    process = up.start_and_wait()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(up.cluster.control_socket("n1")))
        assert _end(process) == 0
    assert not any("Traceback" in line for line in up.output())


def test_a_client_that_goes_away_has_still_asked(up: FakeUp) -> None:
    process = up.start_and_wait("shard-1=slow-stop")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(up.cluster.control_socket("n1")))
        connection.sendall(b'{"op": "restart", "processes": ["shard-1"]}\n')
        wait_until(lambda: "term" in up.words("n1/shard-1"), timeout_s=10, what="the restart to begin")
    control = NodeControl(up.cluster, "n1")
    wait_until(
        lambda: (now := control.status()[0]).state is State.RUNNING and now.restarts == 1,
        timeout_s=20,
        what="the process to run again",
    )
    assert _end(process) == 0
    assert not any("Traceback" in line for line in up.output())


def test_a_refused_request_says_why(up: FakeUp) -> None:
    process = up.start_and_wait()
    with pytest.raises(RequestRefused, match="node n1 has no process shard-9"):
        NodeControl(up.cluster, "n1").operate("stop", ["shard-9"], timeout_s=10)
    assert _end(process) == 0


def test_only_this_user_reaches_the_control_socket(up: FakeUp) -> None:
    process = up.start_and_wait()
    assert up.cluster.runtime_dir.stat().st_mode & 0o077 == 0
    assert up.cluster.control_socket("n1").stat().st_mode & 0o077 == 0
    assert _end(process) == 0


def test_a_socket_folder_that_others_can_write_is_refused(
    up: FakeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    monkeypatch.setenv("BOATHOUSE_RUNTIME_DIR", str(folder))
    with pytest.raises(StartRefused, match="is not this user's alone"):
        RuntimeDir(up.cluster).prepare()


def test_a_socket_folder_that_is_too_deep_is_refused(
    up: FakeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOATHOUSE_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with pytest.raises(StartRefused, match="too long for unix sockets"):
        RuntimeDir(up.cluster).prepare()


def test_the_command_line_finds_a_supervisor_with_another_runtime_dir(
    up: FakeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = up.start_and_wait()
    monkeypatch.setenv("BOATHOUSE_RUNTIME_DIR", "/nowhere")
    assert len(NodeControl(up.cluster, "n1").status()) == 3
    assert _end(process) == 0


# ---- signals, observers and cleaned folders ------------------------------------------------------------------


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(up: FakeUp) -> None:
    process = up.start_and_wait(signals="--ignore-signal=HUP")
    process.send_signal(signal.SIGHUP)
    assert {report.state for report in NodeControl(up.cluster, "n1").status()} == {State.RUNNING}
    assert _end(process) == 0
    assert not any("SIGHUP" in line for line in up.output())


def test_an_observer_that_breaks_ends_nothing(up: FakeUp) -> None:
    process = up.start("observer=broken")
    control = NodeControl(up.cluster, "n1")
    running = {State.RUNNING}
    wait_until(
        lambda: {report.state for report in control.status()} == running,
        timeout_s=20,
        what="all to run",
        not_yet=(SupervisorUnreachable, RequestRefused),
    )
    victim = control.status()[0].pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: (now := control.status()[0]).state is State.RUNNING and now.restarts == 1,
        timeout_s=20,
        what="the killed process to run again",
    )
    assert _end(process) == 0


def test_sockets_that_somebody_cleaned_away_are_made_again(up: FakeUp) -> None:
    process = up.start_and_wait()
    shutil.rmtree(up.cluster.runtime_dir)
    control = NodeControl(up.cluster, "n1")
    assert len(control.status()) == 3  # the client gives the supervisor the moment that it needs
    assert up.cluster.runtime_dir.stat().st_mode & 0o077 == 0
    up.cluster.control_socket("n1").unlink()
    control.down(timeout_s=20)
    assert process.wait(10) == 0


def test_a_replica_whose_socket_is_gone_makes_it_again(up: FakeUp) -> None:
    socket_path = up.cluster.worker_socket("n1", 1)
    process = up.start_and_wait(f"shard-1=ipc:{socket_path}")
    control = NodeControl(up.cluster, "n1")
    socket_path.unlink()
    wait_until(lambda: control.status()[0].restarts, timeout_s=20, what="the replica to be restarted")
    wait_until(socket_path.exists, timeout_s=10, what="the socket again")
    assert [report.restarts for report in control.status()][1:] == [0, 0]
    assert _end(process) == 0


def test_a_hung_supervisor_is_named_and_not_taken_for_one_that_is_down(up: FakeUp) -> None:
    process = up.start_and_wait()
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(RequestRefused, match="the supervisor of n1 did not answer within 3 s"):
            NodeControl(up.cluster, "n1").status()
    finally:
        process.send_signal(signal.SIGCONT)
    assert _end(process) == 0


# ---- sockets that outlive processes --------------------------------------------------------------------------


@pytest.fixture(name="pair")
def _pair(tmp_path: Path) -> Iterator[FakeUp]:
    """A node with two coordinators that accept."""
    up = FakeUp(tmp_path, coordinators=2)
    yield up
    up.close()


class Callers:
    """Connects without pause to the client port; what it hears is the pid of who accepted."""

    def __init__(self, up: FakeUp) -> None:
        self.heard: list[bytes] = []
        self.failures: list[str] = []
        self._port = up.cluster.node("n1").client_port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_more(self, count: int = 20) -> None:
        target = len(self.heard) + count
        wait_until(lambda: len(self.heard) >= target, timeout_s=20, what=f"{count} more answers")

    def call(self) -> bytes:
        with socket.create_connection(("127.0.0.1", self._port), timeout=20) as connection:
            return connection.recv(20)

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                self.heard.append(self.call())
            except OSError as error:
                self.failures.append(repr(error))
                return


ACCEPTING = ("n1/coordinator-1=accept", "n1/coordinator-2=accept")


def test_no_connection_is_refused_while_coordinators_are_killed_and_restarted(pair: FakeUp) -> None:
    process = pair.start_and_wait(*ACCEPTING)
    control = NodeControl(pair.cluster, "n1")
    names = ["coordinator-1", "coordinator-2"]
    before = {report.pid for report in control.status()[2:]}
    assert [str(report.name) for report in control.status()[2:]] == [f"n1/{name}" for name in names]
    with Callers(pair) as callers:
        callers.wait_more()
        after = {report.pid for report in control.operate("restart", names, timeout_s=30)}
        assert not before & after
        callers.wait_more()
        for pid in after:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: [report.restarts for report in control.status()[2:]] == [2, 2],
            timeout_s=20,
            what="both to be started again",
        )
        callers.wait_more()
    # A connection that a killed process had accepted may end without a word; none was refused.
    assert callers.failures == []
    heard = {int(pid) for pid in callers.heard if pid}
    assert heard & before
    assert heard & after
    assert heard - before - after
    assert _end(process) == 0


def test_a_node_whose_coordinators_are_all_stopped_refuses(pair: FakeUp) -> None:
    process = pair.start_and_wait(*ACCEPTING)
    control = NodeControl(pair.cluster, "n1")
    callers = Callers(pair)
    control.operate("stop", ["coordinator-1"], timeout_s=20)
    assert callers.call()
    control.operate("stop", ["coordinator-2"], timeout_s=20)
    with pytest.raises(ConnectionRefusedError):
        callers.call()
    control.operate("start", ["coordinator-2"], timeout_s=20)
    assert int(callers.call()) == control.status()[3].pid
    assert _end(process) == 0
    with pytest.raises(ConnectionRefusedError):
        callers.call()


def test_a_hand_over_that_fails_is_an_error_and_changes_nothing(up: FakeUp) -> None:
    process = up.start_and_wait("coordinator=serve,cannot")
    control = NodeControl(up.cluster, "n1")
    before = control.status()[2]
    with pytest.raises(
        RequestRefused, match="n1/coordinator goes on as it was: its successor the disk is made of cheese"
    ):
        control.operate("restart", ["coordinator"], timeout_s=20)
    after = control.status()[2]
    assert (after.state, after.pid) == (State.RUNNING, before.pid)
    assert _end(process) == 0


def test_a_replica_stops_before_it_starts_again(up: FakeUp) -> None:
    """Two processes must never have one database open."""
    process = up.start_and_wait("shard-1=late")
    NodeControl(up.cluster, "n1").operate("restart", ["shard-1"], timeout_s=20)
    assert up.words("n1/shard-1") == ["start", "ready", "term", "end", "start", "ready"]
    assert _end(process) == 0


# ---- which nodes -------------------------------------------------------------------------------------------


def test_up_starts_the_nodes_on_loopback(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        "nodes:\n  a: {host: 10.0.0.1}\n  b: {}\n  c: {host: '::1'}\nreplicas: 1\ninsecure: true\n"
    )
    cluster = load(file)
    assert nodes_to_start(cluster, None) == ["b", "c"]
    assert nodes_to_start(cluster, "a") == ["a"]
    with pytest.raises(StartRefused, match="cluster boathouse has no node d; it has a, b, c"):
        nodes_to_start(cluster, "d")


def test_up_without_a_loopback_node_asks_which(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("nodes: {a: {host: 10.0.0.1}}\ninsecure: true\n")
    with pytest.raises(StartRefused, match="name the one to start with --node"):
        nodes_to_start(load(file), None)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
