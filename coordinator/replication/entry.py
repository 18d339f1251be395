"""The process around a replicator: its spec from the supervisor, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import structlog
import uvloop

from config.process.child import emit, fail, read_spec, refuse_optimized, set_up_logging
from config.process.events import BEAT_INTERVAL_S
from coordinator.replication.replicator import Replicator

if TYPE_CHECKING:
    from config.process.spec import ProcessSpec

log = structlog.get_logger()


async def _replicate(spec: ProcessSpec) -> None:
    """Replicate until SIGTERM, or until the supervisor is gone."""
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
    replicator = Replicator(spec.cluster, spec.cluster.node(spec.node))
    replicator.start()
    emit("ready")
    while not stopping.is_set():
        emit("beat")
        replicator.check()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), BEAT_INTERVAL_S)
    await replicator.stop()


def main() -> None:
    """Read the spec, replicate, exit 0; exit 1 with one sentence if it can't."""
    refuse_optimized()
    set_up_logging()
    spec = read_spec("replicator")
    if spec.cluster.follows is None:
        fail(f"cluster {spec.cluster.cluster} follows no other: there is nothing to replicate")
    uvloop.run(_replicate(spec))
