"""The control socket: one JSON object per line, one answer per request, over a unix socket only this user can
open.

Requests: {"op": "status"}, {"op": "start" | "stop" | "restart", "processes": ["shard-1", ...]}, {"op":
"down"}. Answers: {"ok": true, ...} or {"ok": false, "error": "one line"}."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from config.paths import RUNTIME_DIR_VARIABLE, SOCKET_PATH_BYTES_MAX
from coordinator.supervisor.folder import lock_holder
from coordinator.supervisor.process import ProcessReport
from coordinator.supervisor.refusal import StartRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from config import ClusterConfig

LINE_BYTES_MAX: Final = 4 << 20
FAREWELL_S: Final = 1.0

Handler: TypeAlias = "Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]"


# ---- the supervisor's side ---------------------------------------------------------------------------------


def prepare_runtime_dir(cluster: ClusterConfig) -> None:
    """Make the folder of the sockets, for this user alone. Raises StartRefused if someone else has it.

    Nobody removes it: supervisors of several nodes share it, and one that starts must not lose it to one that ends."""
    sockets = [cluster.control_socket(node) for node in cluster.nodes]
    longest = max(len(os.fsencode(path)) for path in sockets)
    if longest > SOCKET_PATH_BYTES_MAX:
        raise StartRefused(f"{RUNTIME_DIR_VARIABLE} is too long for unix sockets; choose a shorter path")
    for folder in (cluster.runtime_dir.parent, cluster.runtime_dir):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError as error:
            raise StartRefused(f"the socket folder {folder} can't be made: {error.strerror}") from None
        # In /tmp anyone may have made it first, and would then own our sockets.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise StartRefused(
                f"the socket folder {folder} is not this user's alone; "
                f"remove it, or set {RUNTIME_DIR_VARIABLE}"
            )


class ControlServer:
    """Answers requests on a unix socket until it is closed.

    Its owner holds the node's lock, so a socket file that is there already is a dead one."""

    def __init__(self, path: Path, handle: Handler) -> None:
        self._path = path
        self._handle = handle
        self._clients: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._busy: set[asyncio.Task[Any]] = set()
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Listen."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._converse, self._path, limit=LINE_BYTES_MAX)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening, let answers that are due go out, and hang up."""
        assert self._server is not None
        self._server.close()
        if self._busy:
            await asyncio.wait(self._busy, timeout=FAREWELL_S)
        for writer in self._clients.values():
            writer.close()
        if self._clients:
            await asyncio.wait(self._clients.keys(), timeout=FAREWELL_S)
        self._path.unlink(missing_ok=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[task] = writer
        try:
            while line := await reader.readline():
                self._busy.add(task)
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
                self._busy.discard(task)
        except (ConnectionError, ValueError):
            pass  # the client went away, or sent a line over the limit
        finally:
            self._busy.discard(task)
            del self._clients[task]
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            return {"ok": True, **await self._handle(request)}
        except ValueError as error:
            return {"ok": False, "error": str(error)}


# ---- the command line's side -------------------------------------------------------------------------------


class SupervisorUnreachable(Exception):
    """No supervisor of that node answers on this machine."""


class RequestRefused(Exception):
    """The supervisor answered with an error."""


class NodeControl:
    """Talks to the supervisor of one node. Blocking; a connection per request."""

    def __init__(self, cluster: ClusterConfig, node: str) -> None:
        self.node = node
        self._folder = cluster.node_dir(node)
        self._fallback = cluster.control_socket(node)

    def status(self) -> list[ProcessReport]:
        """All processes of the node."""
        return _reports(self._ask({"op": "status"}, timeout_s=10.0))

    def operate(self, operation: str, processes: list[str], *, timeout_s: float) -> list[ProcessReport]:
        """start, stop or restart processes by their local names; how they are afterwards."""
        return _reports(self._ask({"op": operation, "processes": processes}, timeout_s=timeout_s))

    def down(self, *, timeout_s: float) -> None:
        """End the node. Returns when all its processes are gone."""
        self._ask({"op": "down"}, timeout_s=timeout_s)

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        # The lock file knows the socket even where the environment of the supervisor was another than ours.
        path = lock_holder(self._folder).get("control", str(self._fallback))
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout_s)
                connection.connect(path)
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as stream:
                    line = stream.readline(LINE_BYTES_MAX)
        except TimeoutError:
            raise RequestRefused(
                f"the supervisor of {self.node} did not answer within {timeout_s:g} s"
            ) from None
        except OSError:
            raise SupervisorUnreachable(f"node {self.node} is not up here (data in {self._folder})") from None
        if not line:
            raise RequestRefused(f"the supervisor of {self.node} ended before it answered")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise RequestRefused(answer["error"])
        return answer


def _reports(answer: dict[str, Any]) -> list[ProcessReport]:
    return [ProcessReport.from_json(report) for report in answer["processes"]]
