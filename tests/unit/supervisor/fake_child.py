"""A child process that behaves as told: `python fake_child.py BEHAVIOUR [TRACE]`.

It writes what happens to it to TRACE, one word and the time per line, so that tests see order across
processes."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def main(behaviour: str, trace: Path | None) -> int:
    """Behave; the exit code."""

    def note(word: str) -> None:
        if trace is not None:
            with trace.open("a") as file:
                file.write(f"{word} {time.monotonic()}\n")

    def end(_number: int, _frame: FrameType | None) -> None:
        note("term")
        if behaviour == "slow-stop":
            threading.Event().wait(0.3)
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
            sys.stdout.write(json.dumps({"event": "failed", "reason": "the disk is made of cheese"}) + "\n")
            return 1
        case "mute":
            pass
        case "noisy":
            sys.stdout.write("not json\n" + "x" * (2 << 20) + "\n[1]\n")
            sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
        case _:
            sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
    sys.stdout.flush()
    while sys.stdin.readline():
        pass
    if behaviour == "slow-eof":
        threading.Event().wait(1.0)
    note("eof")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None))
