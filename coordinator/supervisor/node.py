"""All processes of one node, the sockets they share, and the order in which they go down."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from config.process.names import processes_of
from config.process.report import State
from config.process.spec import ProcessSpec
from coordinator.supervisor.child import READY_WITHIN_S, Child, HandOverFailed
from coordinator.supervisor.holdings import Holdings, retire
from coordinator.supervisor.logfile import LogFile
from coordinator.supervisor.refusal import StartRefused
from coordinator.supervisor.silence import WATCH_INTERVAL_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from config import ClusterConfig
    from config.process.names import ProcessName
    from config.process.report import ProcessReport
    from coordinator.supervisor.folder import NodeFolder
    from coordinator.supervisor.ports import NodeSockets

LOG_CHECK_INTERVAL_S: Final = 10.0
_DOWN: Final = (State.STOPPED, State.FAILED)


def command_of(name: ProcessName) -> list[str]:
    """The command line of a process. -P keeps a folder named `config` or `proto` where the user stands from
    being imported in place of ours."""
    return [sys.executable, "-P", "-m", name.kind.runs]


class NodeSupervisor:
    """One node. Knows nothing of other nodes and nothing of the data."""

    def __init__(
        self,
        cluster: ClusterConfig,
        node: str,
        folder: NodeFolder,
        sockets: NodeSockets,
        on_change: Callable[[ProcessReport], None],
        command: Callable[[ProcessName], list[str]],
    ) -> None:
        self.node = node
        self.down_asked = asyncio.Event()
        """Set once someone asked for the whole node to end: nothing is started from then on."""
        self.down_done = asyncio.Event()
        """Set by whoever then stopped it."""
        self._holdings = Holdings(cluster, node)
        self._folder = folder
        self._command = command
        self._sockets = sockets
        self._on_change = on_change
        self._unix_sockets: dict[ProcessName, Path] = {}
        """Where replicas had made their unix sockets when they said that they were ready."""
        self._adjusting = asyncio.Lock()
        self._adjustments: set[asyncio.Task[None]] = set()
        self._children: dict[str, Child] = {}
        for name in processes_of(self._holdings.cluster, node):
            self._children[name.local] = self._child_of(name)

    def _child_of(self, name: ProcessName) -> Child:
        cluster, handed = self._holdings.cluster, self._handed(name)
        return Child(
            name,
            self._command(name),
            _spec(cluster, name, handed),
            _log(cluster, self._folder, name),
            cluster.supervisor,
            self._handle_change,
            inherited=(self._folder.lock_fd, *handed.values()),
            on_members=self._handle_members,
        )

    def _handed(self, name: ProcessName) -> dict[str, int]:
        return self._sockets.descriptors if name.kind.accepts_clients else {}

    @property
    def children(self) -> list[Child]:
        return list(self._children.values())

    async def start(self) -> None:
        """Start everything at once; nobody waits for anybody. Raises StartRefused if a port is not ours any more."""
        for child in self.children:
            await self._start(child)

    async def stop_rank(self, rank: int) -> None:
        """Stop the processes of one stop rank."""
        await self._stop_all([child for child in self.children if child.name.kind.stop_rank == rank])

    async def stop(self) -> None:
        """Stop rank by rank: coordinators drain their calls while the workers still answer."""
        await self._stop_in_order(self.children)

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

    async def watch_for_hangs(self) -> None:
        """Kill what lives and no longer answers, for ever."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            for child in self.children:
                child.kill_if_hung()

    async def mend_sockets(self) -> None:
        """Restart replicas whose unix socket somebody removed, one after the other: they hold their connections, but a
        coordinator that starts would not find them, and only they can make it again."""
        for child in self.children:
            is_gone = child.name in self._unix_sockets and not self._unix_sockets[child.name].exists()
            if is_gone and child.state is State.RUNNING and not self.down_asked.is_set():
                await child.stop()
                await self._start(child)
                await child.wait_settled()

    # ---- who holds what ------------------------------------------------------------------------------------

    def _handle_members(self, event: Mapping[str, Any]) -> None:
        if self._holdings.heard(event):
            task = asyncio.create_task(self._adjust(), name=f"adjust {self.node}")
            self._adjustments.add(task)
            task.add_done_callback(self._adjustments.discard)

    async def _adjust(self) -> None:
        """Run the replicas that this node holds by now, and no others."""
        async with self._adjusting:
            wanted = {name.local: name for name in processes_of(self._holdings.cluster, self.node)}
            for local, child in list(self._children.items()):
                if local in wanted:
                    child.spec = _spec(self._holdings.cluster, child.name, self._handed(child.name))
                else:
                    await self._give_up(child)
            for local, name in wanted.items():
                if local not in self._children and not self.down_asked.is_set():
                    self._children[local] = self._child_of(name)
                    await self._start(self._children[local])

    async def _give_up(self, child: Child) -> None:
        """The shard has taken this replica out: what it holds is put aside."""
        await child.stop()
        del self._children[child.name.local]
        self._unix_sockets.pop(child.name, None)
        if child.name.shard is not None:
            retire(self._holdings.cluster.replica_dir(self.node, child.name.shard))

    # ---- what the control socket asks ----------------------------------------------------------------------

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of the control socket. Raises ValueError, with a text for the user."""
        match request:
            case {"op": "status"}:
                return {"processes": [child.report().to_json() for child in self.children]}
            case {"op": "start" | "stop" | "restart" as operation, "processes": list(names)}:
                children = [self._child(name) for name in names]
                try:
                    await self._operate(operation, children)
                except (StartRefused, HandOverFailed) as error:
                    raise ValueError(str(error)) from None
                return {"processes": [child.report().to_json() for child in children]}
            case {"op": "down"}:
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
        match operation:
            case "start":
                for child in children:
                    await self._start(child)
            case "stop":
                return await self._stop_in_order(children)
            case "restart":
                # Those that hand over first, while the others still serve; the rest goes down together.
                rest = [child for child in children if not await self._hand_over(child)]
                await self._stop_in_order(rest)
                for child in rest:
                    await self._start(child)
        settled = asyncio.gather(*(child.wait_settled() for child in children))
        try:
            await asyncio.wait_for(settled, READY_WITHIN_S)
        except TimeoutError:
            pass  # the answer says how far they are

    async def _start(self, child: Child) -> None:
        if self.down_asked.is_set():
            raise ValueError(f"node {self.node} is going down")
        if child.name.kind.accepts_clients:
            self._sockets.listen()
        await child.start()

    async def _hand_over(self, child: Child) -> bool:
        return child.name.kind.hands_over and await child.hand_over()

    def _handle_change(self, report: ProcessReport) -> None:
        name = report.name
        if report.state is State.RUNNING and name.shard is not None:
            path = self._holdings.cluster.worker_socket(self.node, name.shard)
            if path.exists():
                self._unix_sockets[name] = path
        if name.kind.accepts_clients and report.state in _DOWN:
            self._refuse_if_nobody_stays(())
        self._on_change(report)

    async def _stop_in_order(self, children: list[Child]) -> None:
        for rank in sorted({child.name.kind.stop_rank for child in children}):
            await self._stop_all([child for child in children if child.name.kind.stop_rank == rank])

    async def _stop_all(self, children: Collection[Child]) -> None:
        if any(child.name.kind.accepts_clients for child in children):
            self._refuse_if_nobody_stays(children)
        await asyncio.gather(*(child.stop() for child in children))

    def _refuse_if_nobody_stays(self, going: Collection[Child]) -> None:
        """Once nobody accepts any more, new clients are to go elsewhere at once. Before the last ones stop: they finish
        their calls for seconds, and whoever connected meanwhile would wait for nothing."""
        users = [child for child in self.children if child.name.kind.accepts_clients]
        if all(child in going or child.state in _DOWN for child in users):
            self._sockets.refuse()


def _spec(cluster: ClusterConfig, name: ProcessName, sockets: dict[str, int]) -> bytes:
    spec = ProcessSpec(
        cluster=cluster, kind=name.kind.module, node=name.node, number=name.number, sockets=sockets
    )
    return spec.model_dump_json().encode()


def _log(cluster: ClusterConfig, folder: NodeFolder, name: ProcessName) -> LogFile:
    settings = cluster.supervisor
    path = folder.path / "logs" / f"{name.local}.log"
    return LogFile(path, bytes_max=settings.log_bytes_max, files_max=settings.log_files_max)
