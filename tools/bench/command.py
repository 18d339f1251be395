"""`boathouse bench`: runs the scenarios and prints the report."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tools.admin.backup import BackupFailed
from tools.admin.certificates import make_set
from tools.admin.client import CallFailed
from tools.admin.leadership import NotMoved
from tools.admin.membership import ChangeStuck
from tools.bench import scenarios
from tools.bench.report import Report, machine
from tools.bench.run import LoadFailed
from tools.bench.setting import Setting, Shape
from tools.bench.systems import NotReady
from tools.failure import Failed
from tools.output import Output, print_document
from tools.tls_options import tls_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tools.bench.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be measured, beside the load."""

    scenarios: Sequence[str]
    """Keys of scenarios.SCENARIOS; none: the load as it is."""
    endpoints: tuple[str, ...]
    """Of a cluster that runs; none: one is started, of the shape that follows."""
    nodes: int
    shards: int
    replicas: int
    with_tls: bool
    against_etcd: bool
    ceiling: bool
    rounds: int
    data_dir: Path


class Bar:
    """One system's line of the progress display; silent where there is no terminal."""

    def __init__(self, display: Progress, name: str, load: Workload) -> None:
        self.display = display
        self.load = load
        total = load.requests or load.seconds
        self.task = display.add_task(name, total=total, said="starting")

    def filled(self, keys: int, of: int) -> None:
        """Keys put in so far."""
        self.display.update(self.task, completed=keys, total=of, said=f"{keys:,} of {of:,} keys put in")

    def measured(self, requests: int, errors: int) -> None:
        """Answers so far."""
        task = self.display.tasks[self.task]
        done = requests if self.load.requests else min(task.elapsed or 0.0, self.load.seconds)
        total = self.load.requests or self.load.seconds
        said = f"{requests:,} answers, {errors:,} errors"
        self.display.update(self.task, completed=done, total=total, said=said)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="boathouse-bench-", dir=parent.absolute()))
    except OSError as error:
        raise Failed(
            f"can't make a folder in {parent}: {error.strerror}; choose another by --data-dir"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bench(asked: Asked, workload: Workload, output: Output) -> None:
    """Measure, print, and raise Failed if requests failed."""
    shape = Shape(asked.nodes, asked.shards, asked.replicas)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    with (
        _scratch(asked.data_dir) as folder,
        Progress(*columns, console=console, disable=not console.is_terminal) as display,
    ):
        certificates = (
            make_set(folder / "certs", ("localhost", "127.0.0.1"), "bench") if asked.with_tls else None
        )
        setting = Setting(
            folder=folder,
            endpoints=asked.endpoints,
            tls=tls_options(),
            certificates=certificates,
            against_etcd=asked.against_etcd,
            ceiling=asked.ceiling,
            rounds=asked.rounds,
            progress=lambda name: Bar(display, name, workload),
        )
        with _in_words():
            if asked.scenarios:
                reports = [scenarios.SCENARIOS[name](setting, workload) for name in asked.scenarios]
            else:
                reports = [scenarios.load(setting, workload, _title(workload, asked), shape)]
    _print(reports, output)
    if failed := sum(report.errors for report in reports):
        raise Failed(f"{failed} requests failed")


@contextmanager
def _in_words() -> Iterator[None]:
    """Within the block, whatever keeps a scenario from its end ends the command."""
    try:
        yield
    except (NotReady, LoadFailed, NotMoved, ChangeStuck, CallFailed, BackupFailed) as error:
        raise Failed(str(error)) from None
    except grpc.RpcError as error:
        raise Failed(f"a call failed: {error.details()} ({error.code().name})") from None


def _title(workload: Workload, asked: Asked) -> str:
    mix = ", ".join(f"{share} % {work}" for work, share in workload.mix.items())
    shape = f"{asked.nodes} nodes, {asked.shards} shards, {asked.replicas} replicas"
    where = ",".join(asked.endpoints) or shape
    return f"{mix}; {workload.clients} clients, {workload.value_bytes} B values; {where}"


def _print(reports: list[Report], output: Output) -> None:
    if output.is_document:
        print_document({"machine": machine(), "scenarios": [report.to_json() for report in reports]}, output)
        return
    typer.echo(", ".join(f"{name} {value}" for name, value in machine().items()))
    for report in reports:
        report.show(typer.echo)
    sys.stdout.flush()
