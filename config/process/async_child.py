"""The life of a child process that works on an asyncio loop. What every child does is in config/process/child.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import structlog

from config.process.child import emit
from config.process.events import BEAT_INTERVAL_S

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()


def watch_for_the_end() -> asyncio.Event:
    """An event that is set on SIGTERM and when the supervisor is gone. Must be called on the running loop."""
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
    return stopping


async def beat_until(stopping: asyncio.Event, check: Callable[[], object]) -> None:
    """Report that this process is ready, then show that its loop turns, until it is to stop. check is called with each
    beat, and ends the process by what it raises."""
    emit("ready")
    while not stopping.is_set():
        emit("beat")
        check()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), BEAT_INTERVAL_S)
