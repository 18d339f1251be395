"""The control socket's client: what a program of an operator asks the supervisors of a machine. The server, and the
protocol, are in coordinator/supervisor/control_server.py."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from config.process.report import ProcessReport
from coordinator.supervisor.folder import living_holder, lock_holder

if TYPE_CHECKING:
    from config import ClusterConfig

STATUS_TIMEOUT_S: Final = 3.0
CONNECT_WITHIN_S: Final = 3.0
"""A supervisor that lives makes its socket again within a second or so, if somebody removed it."""
ANSWER_BYTES_MAX: Final = 4 << 20
_POLL_S: Final = 0.05


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
        """All processes of the node. Asked so often that it does not wait long."""
        return _reports(self._ask({"op": "status"}, timeout_s=STATUS_TIMEOUT_S))

    def operate(self, operation: str, processes: list[str], *, timeout_s: float) -> list[ProcessReport]:
        """start, stop or restart processes by their local names; how they are afterwards."""
        return _reports(self._ask({"op": operation, "processes": processes}, timeout_s=timeout_s))

    def down(self, *, timeout_s: float) -> None:
        """End the node. Returns when all its processes are gone."""
        self._ask({"op": "down"}, timeout_s=timeout_s)

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        try:
            with self._connected() as connection:
                connection.settimeout(timeout_s)
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as stream:
                    line = stream.readline(ANSWER_BYTES_MAX)
        except TimeoutError:
            raise RequestRefused(
                f"the supervisor of {self.node} did not answer within {timeout_s:g} s"
            ) from None
        except OSError:
            line = b""
        if not line:
            raise RequestRefused(f"the supervisor of {self.node} ended before it answered")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise RequestRefused(f"the supervisor of {self.node} answered something else than JSON") from None
        if not answer["ok"]:
            raise RequestRefused(answer["error"])
        return answer

    def _connected(self) -> socket.socket:
        """A connection. Raises SupervisorUnreachable, or RequestRefused if it lives and can't be reached."""
        deadline_s = time.monotonic() + CONNECT_WITHIN_S
        while True:
            # The lock file knows the socket even where the environment of the supervisor was another than ours.
            path = lock_holder(self._folder).get("control", str(self._fallback))
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(CONNECT_WITHIN_S)
                connection.connect(path)
            except OSError as error:
                connection.close()
                holder = living_holder(self._folder)
                if holder is None:
                    raise SupervisorUnreachable(
                        f"node {self.node} is not up here (data in {self._folder}); "
                        f"`boathouse up FILE --node {self.node}` starts it"
                    ) from None
                if time.monotonic() > deadline_s:
                    raise RequestRefused(
                        f"the supervisor of {self.node} lives (process {holder}), but its socket {path} "
                        f"can't be reached: {error.strerror or error}"
                    ) from None
            else:
                return connection
            time.sleep(_POLL_S)


def _reports(answer: dict[str, Any]) -> list[ProcessReport]:
    try:
        return [ProcessReport.from_json(report) for report in answer["processes"]]
    except (KeyError, TypeError, ValueError):
        raise RequestRefused(
            "the supervisor speaks another version of the control protocol; start it again with this one"
        ) from None
