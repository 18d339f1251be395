"""`boathouse up` with fake children: `python -m tests.unit.supervisor.fake_up FILE TRACE_FOLDER
[NAME=BEHAVIOUR...]`.

Prints what the observer hears. Processes behave as `serve` unless named, e.g. coordinator=deaf. observer=broken
gives an observer that only raises, node=NAME starts only that node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from config.loading import load
from coordinator.supervisor.refusal import StartRefused
from coordinator.supervisor.run import nodes_to_start, run

if TYPE_CHECKING:
    from config.process.names import ProcessName
    from config.process.report import ProcessReport

FAKE = Path(__file__).with_name("fake_child.py")


class _Broken:
    """An observer that fails at everything, in the ways of a terminal that is gone."""

    def starting(self) -> None:
        raise BrokenPipeError

    def changed(self, _report: ProcessReport) -> None:
        raise SystemExit(1)

    def all_running(self) -> None:
        raise OSError(5, "Input/output error")

    def stopping(self, _reason: str) -> None:
        raise ValueError("I/O operation on closed file")


class _Printer:
    def starting(self) -> None:
        _say("starting")

    def changed(self, report: ProcessReport) -> None:
        _say(f"{report.name} {report.state}")

    def all_running(self) -> None:
        _say("all running")

    def stopping(self, reason: str) -> None:
        _say(reason)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(file: Path, traces: Path, *behaviours: str) -> int:
    """Supervise until told to stop; the exit code."""
    chosen = dict(pair.split("=") for pair in behaviours)

    def command(name: ProcessName) -> list[str]:
        behaviour = chosen.get(str(name), chosen.get(name.local, "serve"))
        return [sys.executable, "-S", str(FAKE), behaviour, str(traces / str(name).replace("/", "."))]

    cluster = load(file)
    try:
        observer = _Broken() if "observer" in chosen else _Printer()
        run(cluster, nodes_to_start(cluster, chosen.get("node")), observer, command)
    except StartRefused as refusal:
        _say(f"refused: {refusal}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
