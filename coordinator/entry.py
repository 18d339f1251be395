"""The process around a coordinator: its spec from the supervisor, its signals, its end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

import structlog

from config.process.child import emit, fail, read_spec, refuse_optimized, set_up_logging
from coordinator.server import Coordinator, PortTaken

if TYPE_CHECKING:
    from config import ProcessSpec

log = structlog.get_logger()


async def _serve(spec: ProcessSpec) -> None:
    """Serve until SIGTERM, or until the supervisor is gone. Raises PortTaken."""
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
    coordinator = Coordinator(spec.cluster, spec.cluster.node(spec.node))
    await coordinator.start()
    # What lives now lives to the end: the collector need not look at it again, and rarely at the rest, since calls
    # leave no cycles.
    gc.freeze()
    emit("ready")
    await stopping.wait()
    await coordinator.stop()


def main() -> None:
    """Read the spec, serve, exit 0; exit 1 with one sentence if the port is taken."""
    refuse_optimized()
    set_up_logging()
    spec = read_spec("coordinator")
    try:
        asyncio.run(_serve(spec))
    except PortTaken as error:
        fail(str(error))
