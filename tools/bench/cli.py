"""`boathouse bench`: reads the options, runs the scenarios, prints the report."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tools.admin.certificates import make_set
from tools.bench import scenarios
from tools.bench.report import Report, machine
from tools.bench.run import LoadFailed
from tools.bench.systems import NotReady
from tools.bench.workload import BadMix, Workload, parse_mix
from tools.failure import Failed
from tools.output import Output, print_json
from tools.tls_options import takes_tls, tls_options

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ALL = "all"


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


def _tables(text: str) -> tuple[str, ...]:
    """Names, or a number of tables that the benchmark names itself."""
    if text.isdigit():
        count = int(text)
        if count == 0:
            raise typer.BadParameter("at least one table is needed")
        return ("default",) if count == 1 else tuple(f"bench-{number}" for number in range(1, count + 1))
    return tuple(part.strip() for part in text.split(",") if part.strip())


@app.command()
@takes_tls
def bench(
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            help=f"One of {', '.join(scenarios.SCENARIOS)}, or all; may be given again. Default: --mix.",
        ),
    ] = None,
    mix: Annotated[
        str, typer.Option("--mix", help="Percent of put, get, range (100 keys), scan (all) and txn.")
    ] = "put=50,get=50",
    value_size: Annotated[int, typer.Option(min=0, max=1 << 20, help="Bytes of a value.")] = 256,
    key_count: Annotated[int, typer.Option(min=1, help="Different keys.")] = 10_000,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="Requests in flight.")] = 64,
    tables: Annotated[str, typer.Option(help="How many tables, or their names.")] = "1",
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds to measure.")] = 10.0,
    requests: Annotated[int | None, typer.Option(min=1, help="Measure this many instead.")] = None,
    warmup: Annotated[float, typer.Option(min=0.0, help="Seconds of load before, not counted.")] = 2.0,
    endpoints: Annotated[
        str | None, typer.Option(help="A cluster that runs, as host:port,...; default: start one.")
    ] = None,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls", help="TLS, with certificates of clients, for what is started; keys between nodes."
        ),
    ] = False,
    nodes: Annotated[int, typer.Option(min=1, max=9, help="Nodes of the cluster to start.")] = 3,
    shards: Annotated[int, typer.Option(min=1, max=64, help="Shards of the cluster to start.")] = 1,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=9, help="Default: one on each node, at most 3.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="etcd: measure that too, with as many members.")] = None,
    ceiling: Annotated[
        bool, typer.Option(help="Measure a server that only echoes, for the most that Python could do.")
    ] = True,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Measure all systems in turn, again.")] = 1,
    seed: Annotated[int, typer.Option(help="Same seed, same requests.")] = 1,
    data_dir: Annotated[
        Path, typer.Option(help="Where the systems keep their data meanwhile: on the disk to measure.")
    ] = Path(),
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
) -> None:
    """Measure throughput and latency of a closed-loop load, beside an echo server and etcd."""
    if against not in (None, "etcd"):
        raise typer.BadParameter("only etcd is known", param_hint="--against")
    names = list(scenarios.SCENARIOS) if scenario and ALL in scenario else scenario or []
    for name in names:
        if name not in scenarios.SCENARIOS:
            known = ", ".join([*scenarios.SCENARIOS, ALL])
            raise typer.BadParameter(f"unknown scenario {name!r}: one of {known}", param_hint="--scenario")
    try:
        shares = parse_mix(mix)
    except BadMix as error:
        raise typer.BadParameter(str(error), param_hint="--mix") from None
    workload = Workload(
        mix=shares,
        value_bytes=value_size,
        key_count=key_count,
        clients=clients,
        tables=_tables(tables),
        seconds=duration,
        requests=requests,
        warmup_seconds=warmup,
        seed=seed,
    )
    shape = scenarios.Shape(nodes, shards, replicas or min(nodes, 3))
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    with (
        _scratch(data_dir) as folder,
        Progress(*columns, console=console, disable=not console.is_terminal) as display,
    ):
        setting = scenarios.Setting(
            folder=folder,
            shape=shape,
            endpoints=tuple(part.strip() for part in (endpoints or "").split(",") if part.strip()),
            tls=tls_options(),
            certificates=make_set(folder / "certs", ("localhost", "127.0.0.1"), "bench") if tls else None,
            against_etcd=against == "etcd",
            ceiling=ceiling,
            rounds=rounds,
            progress=lambda name: Bar(display, name, workload),
        )
        try:
            if names:
                reports = [scenarios.SCENARIOS[name](setting, workload) for name in names]
            else:
                reports = [scenarios.load(setting, workload, _title(workload, shape, endpoints), shape)]
        except (NotReady, LoadFailed) as error:
            raise Failed(str(error)) from None
    _print(reports, output)
    if failed := sum(report.errors for report in reports):
        raise Failed(f"{failed} requests failed")


def _title(workload: Workload, shape: scenarios.Shape, endpoints: str | None) -> str:
    mix = ", ".join(f"{share} % {work}" for work, share in workload.mix.items())
    where = endpoints or f"{shape.nodes} nodes, {shape.shards} shards, {shape.replicas} replicas"
    return f"{mix}; {workload.clients} clients, {workload.value_bytes} B values; {where}"


def _print(reports: list[Report], output: Output) -> None:
    if output is Output.JSON:
        print_json({"machine": machine(), "scenarios": [report.to_json() for report in reports]})
        return
    typer.echo(", ".join(f"{name} {value}" for name, value in machine().items()))
    for report in reports:
        report.show(typer.echo)
    sys.stdout.flush()
