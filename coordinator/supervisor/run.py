"""`boathouse up`, without its words: claims the nodes' folders, starts their processes, waits, stops them in
order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol

from config.process.names import STOP_RANKS
from config.process.report import State
from coordinator.supervisor.control_server import ControlServer
from coordinator.supervisor.folder import NodeFolder
from coordinator.supervisor.node import NodeSupervisor, command_of
from coordinator.supervisor.ports import NodeSockets
from coordinator.supervisor.refusal import StartRefused
from coordinator.supervisor.runtime_dir import RuntimeDir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from config import ClusterConfig
    from config.process.names import ProcessName
    from config.process.report import ProcessReport

P = ParamSpec("P")

SOCKETS_CHECK_INTERVAL_S: Final = 1.0


class Observer(Protocol):
    """Who wants to know, while `run` runs: the terminal."""

    def starting(self) -> None:
        """Nothing stands in the way; the processes start now."""

    def changed(self, report: ProcessReport) -> None:
        """A process is in another state than before."""

    def all_running(self) -> None:
        """Every process has said that it is ready; comes at most once."""

    def stopping(self, reason: str) -> None:
        """The end has begun."""


def nodes_to_start(cluster: ClusterConfig, node: str | None) -> list[str]:
    """The nodes that `up` runs here: the one named, or all with a loopback host.

    Raises StartRefused if that is none."""
    if node is not None:
        if node not in cluster.nodes:
            raise StartRefused(
                f"cluster {cluster.cluster} has no node {node}; it has {', '.join(cluster.nodes)}"
            )
        return [node]
    local = [name for name, config in cluster.nodes.items() if config.is_loopback]
    if not local:
        raise StartRefused(
            f"no node of cluster {cluster.cluster} has a loopback host; name the one to start with --node"
        )
    return local


def run(
    cluster: ClusterConfig,
    nodes: list[str],
    observer: Observer,
    command: Callable[[ProcessName], list[str]] = command_of,
) -> None:
    """Run these nodes until SIGINT, SIGTERM, SIGHUP or `boathouse down`. When it returns, no process is left.

    A second signal kills what has not stopped yet; signals that were ignored when we were started, as nohup does, stay
    ignored. Raises StartRefused before anything is started."""
    os.umask(0o077)  # whatever is made from here on, logs and sockets included, is for this user alone
    with contextlib.ExitStack() as claimed:
        claims, folders, sockets = {}, {}, {}
        for node in nodes:
            claims[node] = claimed.enter_context(contextlib.ExitStack())
            folders[node] = NodeFolder.claim(cluster, node)
            claims[node].callback(folders[node].release)
        for node in nodes:
            sockets[node] = NodeSockets.bind(cluster, node)
            claims[node].callback(sockets[node].close)
        runtime_dir = RuntimeDir(cluster)
        runtime_dir.prepare()
        claimed.callback(runtime_dir.release)
        shielded = _Shielded(observer)
        shielded.starting()
        supervisors = [
            NodeSupervisor(cluster, node, folders[node], sockets[node], shielded.changed, command)
            for node in nodes
        ]
        asyncio.run(_Supervision(cluster, supervisors, claims, runtime_dir, shielded).run())


class _Shielded:
    """An observer that can do us no harm: a terminal that is gone, or a full disk behind it, ends neither a process nor
    the watch over it."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def starting(self) -> None:
        self._tell(self._observer.starting)

    def changed(self, report: ProcessReport) -> None:
        self._tell(self._observer.changed, report)

    def all_running(self) -> None:
        self._tell(self._observer.all_running)

    def stopping(self, reason: str) -> None:
        self._tell(self._observer.stopping, reason)

    def _tell(self, method: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        with contextlib.suppress(Exception, SystemExit):
            method(*args, **kwargs)


class _Supervision:
    """The nodes that one `up` runs, from the first start to the last stop."""

    def __init__(
        self,
        cluster: ClusterConfig,
        nodes: list[NodeSupervisor],
        claims: Mapping[str, contextlib.ExitStack],
        runtime_dir: RuntimeDir,
        observer: Observer,
    ) -> None:
        """claims: what we hold of each node, its folder and its ports; closed once it is down."""
        self._nodes = nodes
        self._claims = claims
        self._runtime_dir = runtime_dir
        self._observer = observer
        self._servers = {
            node.node: ControlServer(cluster.control_socket(node.node), node.handle) for node in nodes
        }
        self._stop = asyncio.Event()
        self._signalled = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._handle_signal, number)
        # The processes first: their start takes the longest, and the rest can happen meanwhile.
        await asyncio.gather(*(node.start() for node in self._nodes))
        background = [
            asyncio.create_task(self._announce()),
            asyncio.create_task(self._keep_sockets()),
            *(asyncio.create_task(self._end_when_asked(node)) for node in self._nodes),
            *(asyncio.create_task(node.watch_logs()) for node in self._nodes),
            *(asyncio.create_task(node.watch_for_hangs()) for node in self._nodes),
        ]
        await self._stop.wait()
        for node in self._nodes:
            node.down_asked.set()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        # Rank by rank over all nodes: a coordinator drains calls that any node's worker may have to answer.
        for rank in STOP_RANKS:
            await asyncio.gather(*(node.stop_rank(rank) for node in self._nodes))
        for node in self._nodes:
            node.down_done.set()
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    def _handle_signal(self, number: signal.Signals) -> None:
        if self._signalled:
            self._observer.stopping(f"{number.name} again: killing what is left")
            for node in self._nodes:
                node.kill()
        else:
            self._observer.stopping(f"{number.name}: stopping in order")
            self._signalled = True
            self._stop.set()

    async def _announce(self) -> None:
        children = [child for node in self._nodes for child in node.children]
        states = await asyncio.gather(*(child.wait_settled() for child in children))
        if all(state is State.RUNNING for state in states):
            self._observer.all_running()

    async def _keep_sockets(self) -> None:
        """Listen for the command line, for ever. The sockets may lie below /tmp, where system services and people
        remove what looks old: what is gone is made again."""
        while True:
            # What fails, because somebody else has the name for instance, is tried again.
            with contextlib.suppress(OSError, StartRefused):
                self._runtime_dir.prepare_again()
                for server in list(self._servers.values()):
                    await server.listen()
                for node in list(self._nodes):
                    await node.mend_sockets()
            await asyncio.sleep(SOCKETS_CHECK_INTERVAL_S)

    async def _end_when_asked(self, node: NodeSupervisor) -> None:
        """A node's way out while others stay, `boathouse down --node`. Whoever asked may then do with its folder and
        its ports what he likes: recover it, or start it by another `up`. The last one ends the supervisor."""
        await node.down_asked.wait()
        self._observer.stopping(f"{node.node}: stopping as asked")
        await node.stop()
        self._claims[node.node].close()
        self._nodes.remove(node)
        node.down_done.set()
        await self._servers[node.node].close()
        del self._servers[node.node]
        if not self._servers:
            self._stop.set()
