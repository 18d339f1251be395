"""A child process that behaves as told: `python fake_child.py BEHAVIOUR [TRACE]`.

It writes what happens to it to TRACE, one word and the time per line, so that tests see order across
processes. A behaviour "A,B" is A at the first start and B at every later one."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

BEAT_S = 0.02
stopping = threading.Event()


def main(behaviours: str, trace: Path | None) -> int:
    """Behave; the exit code."""
    is_first = trace is None or not trace.exists()
    first, _, later = behaviours.partition(",")
    behaviour = first if is_first or not later else later

    def note(word: str) -> None:
        if trace is not None:
            with trace.open("a") as file:
                file.write(f"{word} {time.monotonic()}\n")

    def end(_number: int, _frame: FrameType | None) -> None:
        note("term")
        stopping.set()
        if behaviour == "slow-stop":
            threading.Event().wait(0.3)
        if behaviour == "beat":
            threading.Event().wait(0.6)
        note("end")
        sys.exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else end)
    note("start")
    spec = json.loads(sys.stdin.readline())
    sys.stderr.write(f"spec of {spec['node']}\n")
    match behaviour:
        case "crash":
            sys.stderr.write("first\nsecond: no luck today\n")
            return 3
        case "cannot":
            emit("failed", reason="the disk is made of cheese")
            return 1
        case "again":
            emit("restart", reason="is rebuilt from the leader")
            return 75
        case "mute":
            pass
        case "late":
            threading.Event().wait(0.3)
            note("ready")
            emit("ready")
        case "noisy":
            sys.stdout.write("not json\n" + "x" * (2 << 20) + "\n[1]\n")
            emit("ready")
        case "beat":
            emit("ready")
            threading.Thread(target=beat, daemon=True).start()
        case _ if behaviour.startswith("ipc:"):
            socket.socket(socket.AF_UNIX).bind(behaviour.removeprefix("ipc:"))
            emit("ready")
        case "accept":
            threading.Thread(target=accept, args=(spec["sockets"]["client"],), daemon=True).start()
            emit("ready")
        case _:
            emit("ready")
    sys.stdout.flush()
    while sys.stdin.readline():
        pass
    if behaviour == "slow-eof":
        threading.Event().wait(1.0)
    note("eof")
    return 0


def emit(event: str, **details: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
    sys.stdout.flush()


def beat() -> None:
    """Beat until the process stops, or is paused."""
    while not stopping.wait(BEAT_S):
        emit("beat")


def accept(descriptor: int) -> None:
    """Tell whoever connects our pid."""
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(True)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(str(os.getpid()).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None))
