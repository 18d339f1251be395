"""All processes of one node, and the order in which they go down."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from config import ProcessSpec
from coordinator.supervisor.child import Child
from coordinator.supervisor.logfile import LogFile
from coordinator.supervisor.targets import processes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from config import ClusterConfig
    from coordinator.supervisor.folder import NodeFolder
    from coordinator.supervisor.process import ProcessName, ProcessReport

LOG_CHECK_INTERVAL_S: Final = 10.0
ANSWER_WITHIN_S: Final = 30.0
"""How long `start` and `restart` wait for a process to be ready before they answer with what it is."""


def command_of(name: ProcessName) -> list[str]:
    """The command line of a process. -P keeps a folder named `config` or `proto` where the user stands from
    being imported in place of ours."""
    return [sys.executable, "-P", "-m", name.kind]


class NodeSupervisor:
    """One node. Knows nothing of other nodes and nothing of the data."""

    def __init__(
        self,
        cluster: ClusterConfig,
        node: str,
        folder: NodeFolder,
        on_change: Callable[[ProcessReport], None],
        command: Callable[[ProcessName], list[str]] = command_of,
    ) -> None:
        self.node = node
        self.down_asked = asyncio.Event()
        """Set from when someone asked for the whole node to end until it has: meanwhile nothing is started."""
        self.down_done = asyncio.Event()
        """Set by whoever then stopped it. Not for ever: the node can be started again while others are up."""
        self._cluster = cluster
        self._children: dict[str, Child] = {}
        for name in processes_of(cluster, node):
            self._children[name.local] = Child(
                name,
                command(name),
                _spec(cluster, name),
                _log(cluster, folder, name),
                cluster.supervisor,
                on_change,
                inherited=(folder.lock_fd,),
            )

    @property
    def children(self) -> list[Child]:
        return list(self._children.values())

    async def start(self) -> None:
        """Start everything at once; nobody waits for anybody."""
        await asyncio.gather(*(child.start() for child in self.children))

    async def stop(self) -> None:
        """First the coordinator, which drains its calls while the workers still answer; then the workers."""
        await self.stop_coordinators()
        await self.stop_workers()

    async def stop_coordinators(self) -> None:
        await _stop_all(child for child in self.children if child.name.shard is None)

    async def stop_workers(self) -> None:
        await _stop_all(child for child in self.children if child.name.shard is not None)

    def kill(self) -> None:
        """No more patience: SIGKILL to all. stop() still has to collect them."""
        for child in self.children:
            child.send(signal.SIGKILL)

    async def watch_logs(self) -> None:
        """Keep log files below their size, for ever."""
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)
            for child in self.children:
                child.log.maybe_rotate()

    # ---- what the control socket asks ----------------------------------------------------------------------

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of the control socket. Raises ValueError, with a text for the user."""
        match request:
            case {"op": "status"}:
                return {"processes": [child.report().to_json() for child in self.children]}
            case {"op": "start" | "stop" | "restart" as operation, "processes": list(names)}:
                children = [self._child(name) for name in names]
                await self._operate(operation, children)
                return {"processes": [child.report().to_json() for child in children]}
            case {"op": "down"}:
                if not self.down_asked.is_set():
                    self.down_done.clear()
                    self.down_asked.set()
                await self.down_done.wait()
                return {}
            case _:
                raise ValueError(f"this supervisor does not know the request {request.get('op')!r}")

    def _child(self, name: object) -> Child:
        child = self._children.get(name) if isinstance(name, str) else None
        if child is None:
            raise ValueError(f"node {self.node} has no process {name}")
        return child

    async def _operate(self, operation: str, children: list[Child]) -> None:
        if operation in ("stop", "restart"):
            await _stop_all(child for child in children if child.name.shard is None)
            await _stop_all(child for child in children if child.name.shard is not None)
        if operation in ("start", "restart"):
            for child in children:
                if self.down_asked.is_set():
                    raise ValueError(f"node {self.node} is going down")
                self.down_done.clear()
                await child.start()
            settled = asyncio.gather(*(child.wait_settled() for child in children))
            try:
                await asyncio.wait_for(settled, ANSWER_WITHIN_S)
            except TimeoutError:
                pass  # the answer says how far they are


async def _stop_all(children: Iterable[Child]) -> None:
    await asyncio.gather(*(child.stop() for child in children))


def _spec(cluster: ClusterConfig, name: ProcessName) -> bytes:
    kind: Any = name.kind
    return (
        ProcessSpec(cluster=cluster, kind=kind, node=name.node, shard=name.shard).model_dump_json().encode()
    )


def _log(cluster: ClusterConfig, folder: NodeFolder, name: ProcessName) -> LogFile:
    settings = cluster.supervisor
    path = folder.path / "logs" / f"{name.local}.log"
    return LogFile(path, bytes_max=settings.log_bytes_max, files_max=settings.log_files_max)
