"""The process around a coordinator: its spec from the supervisor, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

import structlog
import uvloop

from config.process.child import emit, fail, read_spec, refuse_optimized, set_up_logging
from config.process.events import BEAT_INTERVAL_S
from config.process.listeners import client_listeners
from config.process.memory import give_back_large_blocks
from coordinator.front.limits import DEFAULT
from coordinator.server import Coordinator

if TYPE_CHECKING:
    from config.process.spec import ProcessSpec

DESCRIPTORS_BESIDE_CONNECTIONS: Final = 1_000
"""Links to replicas, connections of HTTP/1.1, the libraries' own."""

log = structlog.get_logger()


async def _serve(spec: ProcessSpec) -> None:
    """Serve until SIGTERM, or until the supervisor is gone."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
    stdin = sys.stdin.fileno()

    def read_stdin() -> None:
        if not os.read(stdin, 4096):
            loop.remove_reader(stdin)
            log.info("the supervisor is gone: stopping")
            stopping.set()

    loop.add_reader(stdin, read_stdin)
    sockets = {name: socket.socket(fileno=descriptor) for name, descriptor in spec.sockets.items()}
    coordinator = Coordinator(spec.cluster, spec.cluster.node(spec.node), sockets)
    await coordinator.start()
    # What lives now lives to the end: the collector need not look at it again, and rarely at the rest, since calls
    # leave no cycles.
    gc.freeze()
    emit("ready")
    while not stopping.is_set():
        emit("beat")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), BEAT_INTERVAL_S)
    await coordinator.stop()


def _allow_descriptors() -> None:
    """As many open files as connections may be, and some; as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DEFAULT.connections_max + DESCRIPTORS_BESIDE_CONNECTIONS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Read the spec, serve, exit 0; exit 1 with one sentence if it can't."""
    refuse_optimized()
    set_up_logging()
    spec = read_spec("coordinator")
    listeners = client_listeners(spec.cluster, spec.node)
    missing = [listener.name for listener in listeners if listener.name not in spec.sockets]
    if missing:
        fail(f"the supervisor has handed over no socket named {' or '.join(missing)}")
    give_back_large_blocks()
    _allow_descriptors()
    uvloop.run(_serve(spec))
