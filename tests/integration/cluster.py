"""A real cluster for tests: real processes from a cluster file in a folder of the test's own, on ports from the OS.

    with Cluster(tmp_path, nodes=3, shards=2) as cluster:
        cluster.wait_leaders()
        cluster.kill(cluster.leader(1))

It ends with the block, whatever happened inside: in order if it can, else by SIGKILL of the processes it started."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import mock

import yaml

from config.loading import load
from config.process.names import ProcessName, processes_of
from config.process.report import ProcessReport, State
from tests.waiting import free_ports, wait_until
from tools import cli
from tools.admin.client import KvClient
from tools.admin.control_client import NodeControl, RequestRefused, SupervisorUnreachable
from tools.admin.probe import ask_replicas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proto.internal import frames_pb2 as frames

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 40.0
LOG_LINES_SHOWN: Final = 20
BOATHOUSE: Final = (sys.executable, "-m", "tools.cli")


class Cluster:
    """Nodes n1, n2, ... of one cluster, all on this machine."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        shards: int = 2,
        replicas: int | None = None,
        tables: Mapping[str, Mapping[str, Any]] | None = None,
        separate: bool = False,
        settings: Mapping[str, Any] | None = None,
        launcher: Sequence[str] = (),
        host: str = "127.0.0.1",
        shards_max: int = 0,
        coordinators: int = 1,
        calls: bool = False,
    ) -> None:
        """Write the cluster file; nothing runs yet. `separate` gives each node a supervisor of its own, as on several
        machines. `settings` are further keys of the file, `launcher` is what `boathouse up` is started by. There are
        ports for shards_max shards, if that is more, for grow(). `calls`: the command line is called in this process
        and not run, which is for who asks it often."""
        self.folder = folder
        self.file = folder / "cluster.yaml"
        document: dict[str, Any] = {
            "cluster": f"test-{folder.name}"[:64],
            "data_dir": str(folder / "data"),
            "nodes": {
                f"n{number}": _node(max(shards, shards_max), host, coordinators)
                for number in range(1, nodes + 1)
            },
            "shards": shards,
            **({"replicas": replicas} if replicas is not None else {}),
            **(
                {"tables": {name: dict(table) for name, table in tables.items()}}
                if tables is not None
                else {}
            ),
            **(settings or {}),
        }
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))
        self.config = load(self.file)
        self._separate = separate
        self._launcher = launcher
        self._calls = calls
        self.builds: dict[str, tuple[str, ...]] = {}
        """What starts a node, where that is another program than this build's. Only for separate ones."""
        self._supervisors: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what is not up, and wait until every process of it says that it is ready."""
        for name, nodes in self._groups().items():
            if name not in self._supervisors:
                self._supervisors[name] = self._up(name, nodes)
        self.wait_running()

    def stop(self) -> None:
        """End everything; in order, or else by force."""
        for supervisor in self._supervisors.values():
            supervisor.terminate()
        stuck = []
        for name, supervisor in self._supervisors.items():
            try:
                supervisor.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                stuck.append(name)
                self._force(name, supervisor)
        self._supervisors.clear()
        with contextlib.suppress(OSError):
            self.config.runtime_dir.rmdir()
        assert not stuck, f"supervisors that did not stop in order: {stuck}\n{self.describe()}"
        printed = "".join(path.read_text() for path in self.folder.glob("up-*.out"))
        assert "and was killed" not in printed, f"processes that did not stop in order\n{self.describe()}"

    def write_joining_node(self, node: str, number: int) -> None:
        """Write a node into the file that comes to the running cluster. Only for separate ones."""
        document = yaml.safe_load(self.file.read_text())
        document["nodes"][node] = _node(self.config.shards, "127.0.0.1") | {"id": number, "joins": True}
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))
        self.reload()

    def grow(self, shards: int) -> None:
        """Write so many shards into the cluster file; nodes that start from now on have them."""
        document = yaml.safe_load(self.file.read_text())
        self.file.write_text(yaml.safe_dump(document | {"shards": shards}, sort_keys=False))
        self.reload()

    def reload(self) -> None:
        """Read the file again, and what the nodes have learned of who holds what."""
        self.config = load(self.file)

    def stop_node(self, node: str) -> None:
        """End a node's supervisor in order. Only for separate ones."""
        supervisor = self._supervisors.pop(node)
        supervisor.terminate()
        supervisor.wait(STOP_TIMEOUT_S)

    def kill_node(self, node: str) -> None:
        """A power cut: SIGKILL to the supervisor of a node and to all its processes. Only for separate ones."""
        pids = [report.pid for report in self.reports(node) if report.pid is not None]
        supervisor = self._supervisors.pop(node)
        supervisor.kill()
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        supervisor.wait(STOP_TIMEOUT_S)
        wait_until(
            lambda: not any(map(is_alive, pids)), timeout_s=10, what=f"the processes of {node} to be gone"
        )

    def start_node(self, node: str) -> None:
        """Start the supervisor of a node that was stopped or killed; it has not brought up its processes yet."""
        self._supervisors[node] = self._up(node, [node])

    def supervisor(self, node: str) -> subprocess.Popen[bytes]:
        """The process that `boathouse up` is for this node."""
        return self._supervisors[node if self._separate else "all"]

    def output(self, node: str = "n1") -> str:
        """What `boathouse up` printed."""
        path = self.folder / f"up-{node if self._separate else 'all'}.out"
        return path.read_text() if path.exists() else ""

    def _groups(self) -> dict[str, list[str]]:
        names = list(self.config.nodes)
        return {name: [name] for name in names} if self._separate else {"all": names}

    def _up(self, name: str, nodes: Sequence[str]) -> subprocess.Popen[bytes]:
        one = ["--node", nodes[0]] if self._separate else []
        with (self.folder / f"up-{name}.out").open("ab") as output:
            return subprocess.Popen(
                [*self._launcher, *self.builds.get(name, BOATHOUSE), "up", str(self.file), *one],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )

    def _force(self, name: str, supervisor: subprocess.Popen[bytes]) -> None:
        pids = [
            report.pid
            for node in self._groups()[name]
            for report in self.reports(node)
            if report.pid is not None
        ]
        supervisor.kill()
        supervisor.wait()
        for pid in pids:
            send_signal(pid, signal.SIGKILL)

    # ---- looking ---------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of every node's coordinator."""
        return tuple(node.client_endpoint for node in self.config.nodes.values())

    def endpoint(self, node: str) -> str:
        return self.config.node(node).client_endpoint

    def reports(self, node: str | None = None) -> list[ProcessReport]:
        """The processes of a node, or of all; none of those whose supervisor does not answer."""
        found = []
        for name in self.config.nodes if node is None else [node]:
            try:
                found += NodeControl(self.config, name).status()
            except (SupervisorUnreachable, RequestRefused):
                continue
        return found

    def report(self, name: ProcessName) -> ProcessReport:
        return next(report for report in self.reports(name.node) if report.name == name)

    def pid(self, name: ProcessName) -> int:
        pid = self.report(name).pid
        assert pid is not None, f"{name} does not run: {self.report(name)}"
        return pid

    def replicas(self, shard: int) -> list[ProcessName]:
        return [ProcessName.replica(node.name, shard) for node in self.config.replica_nodes(shard)]

    def ask(self, shard: int, timeout_s: float = 1.0) -> dict[ProcessName, frames.ReplicaStatus]:
        """What the replicas of a shard say of themselves."""
        return ask_replicas(self.config, self.replicas(shard), timeout_s=timeout_s)

    def leader(self, shard: int, timeout_s: float = 20.0) -> ProcessName:
        """The replica that leads a shard and knows it; waits for there to be one."""
        return wait_until(
            lambda: self._leader_now(shard), timeout_s=timeout_s, what=f"a leader of shard {shard}"
        )

    def _leader_now(self, shard: int) -> ProcessName | None:
        leading = {
            status.term: name for name, status in self.ask(shard).items() if status.leader == status.node
        }
        return leading[max(leading)] if leading else None

    def wait_running(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every process of the file runs. Fails at once if a supervisor has ended."""
        expected = sum(len(processes_of(self.config, node)) for node in self.config.nodes)

        def all_running() -> bool:
            ended = {
                name: process.returncode
                for name, process in self._supervisors.items()
                if process.poll() is not None
            }
            assert not ended, f"supervisors ended: {ended}\n{self.describe()}"
            reports = self.reports()
            return len(reports) == expected and all(report.state is State.RUNNING for report in reports)

        try:
            wait_until(all_running, timeout_s=timeout_s, what="all processes to run", interval_s=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None

    def wait_leaders(self, timeout_s: float = 30.0) -> dict[int, ProcessName]:
        """The leader of each shard, once all replicas that answer agree on it."""

        def agreed() -> dict[int, ProcessName] | None:
            leaders = {}
            for shard in range(1, self.config.shards + 1):
                answers = self.ask(shard)
                named = {status.leader for status in answers.values()}
                if len(answers) < self.config.replicas or len(named) != 1 or not all(named):
                    return None
                leaders[shard] = ProcessName.replica(self.config.node(named.pop()).name, shard)
            return leaders

        return wait_until(agreed, timeout_s=timeout_s, what="a leader in every shard", interval_s=0.05)

    def describe(self) -> str:
        """Everything that explains a failure: what was printed, how processes are, the ends of their logs."""
        lines = [f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("up-*.out"))]
        lines += [f"{report.name} {report.state} {report.reason}" for report in self.reports()]
        for path in sorted((self.folder / "data").glob("*/logs/*.log")):
            tail = path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            lines.append(f"--- {path.relative_to(self.folder)}\n" + "\n".join(tail))
        return "\n".join(lines)

    # ---- doing -----------------------------------------------------------------------------------------------

    def kill(self, name: ProcessName) -> int:
        """SIGKILL; the pid that died."""
        pid = self.pid(name)
        send_signal(pid, signal.SIGKILL)
        return pid

    def pause(self, name: ProcessName) -> int:
        """SIGSTOP; the pid, for resume()."""
        pid = self.pid(name)
        send_signal(pid, signal.SIGSTOP)
        return pid

    def resume(self, pid: int) -> None:
        """SIGCONT."""
        send_signal(pid, signal.SIGCONT)

    def wait_restarted(self, name: ProcessName, old_pid: int, timeout_s: float = 30.0) -> ProcessReport:
        """Wait until a process runs again under another pid."""
        return wait_until(
            lambda: self.restarted(name, old_pid),
            timeout_s=timeout_s,
            what=f"{name} to run again",
            interval_s=0.05,
        )

    def restarted(self, name: ProcessName, old_pid: int) -> ProcessReport | None:
        """What runs again under another pid; None: not yet."""
        report = self.report(name)
        return report if report.state is State.RUNNING and report.pid != old_pid else None

    def client(
        self, node: str | None = None, *, table: str | None = None, timeout_s: float = 20.0
    ) -> KvClient:
        """A client of one node's coordinator, or of all in turn."""
        endpoints = self.endpoints if node is None else (self.endpoint(node),)
        return KvClient(endpoints, table, timeout_s)

    def cli(
        self, *arguments: str, given: bytes | None = None, run: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """The command line; commands that take FILE find this cluster's, kv its first node. run: as a process, even
        where it is called otherwise."""
        tell = call_cli if self._calls and not run else run_cli
        return tell(
            *arguments,
            given=given,
            BOATHOUSE_FILE=str(self.file),
            BOATHOUSE_ENDPOINT=",".join(self.endpoints),
        )

    def cli_json(self, *arguments: str, given: bytes | None = None) -> Any:
        """The document that a command prints with -o json; the command has to succeed."""
        done = self.cli(*arguments, "-o", "json", given=given)
        assert done.returncode == 0, f"{arguments}: {done.stderr.decode()}\n{self.describe()}"
        return json.loads(done.stdout)


ROOT: Final = Path(__file__).parents[2]


def run_cli(
    *arguments: str, given: bytes | None = None, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as a user would."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "tools.cli", *arguments],
        input=given if given is not None else b"",
        capture_output=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


def call_cli(
    *arguments: str, given: bytes | None = None, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The same in this process: most of what a command takes is the start of Python and its imports. Not for commands
    that send signals, wait for them, or read their standard input to its end while others run."""
    stdout, stderr = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(stream, "utf-8") for stream in (io.BytesIO(given or b""), stdout, stderr)]
    code: object = 0
    with (
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, environment),
        mock.patch.multiple(sys, argv=["boathouse", *arguments], stdin=streams[0]),
        contextlib.redirect_stdout(streams[1]),
        contextlib.redirect_stderr(streams[2]),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    for stream in streams[1:]:
        stream.flush()
    status = code if isinstance(code, int) else 1
    return subprocess.CompletedProcess(arguments, status, stdout.getvalue(), stderr.getvalue())


def is_alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send it, unless the process is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it went by itself meanwhile


def _node(shards: int, host: str, coordinators: int = 1) -> dict[str, int | str | bool]:
    client_port, http_port = free_ports(2)
    return {
        "host": host,
        "coordinators": coordinators,
        "client_port": client_port,
        "http_port": http_port,
        "peer_port": free_ports(shards, contiguous=True)[0],
    }
