"""`boathouse bench`: its options. What it does is in command.py, which is imported when it runs."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from tools.arguments import OutputOption  # noqa: TC001 - typer reads annotations when it runs
from tools.output import Output
from tools.tls_options import takes_tls

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Scenario(enum.StrEnum):
    """--scenario: keys of tools.bench.scenarios.SCENARIOS, and all of them."""

    PUTS = "puts"
    GETS = "gets"
    RANGE_100K = "range-100k"
    RANGE_STREAM = "range-stream"
    KEYS_ONLY = "keys-only"
    KEYS_1M = "keys-1m"
    IDLE = "idle"
    IDLE_WATCHES = "idle-watches"
    LEASES = "leases"
    TOP = "top"
    MOVES = "moves"
    JOINS = "joins"
    RESTARTS = "restarts"
    TABLE_MOVES = "table-moves"
    COMPACTION = "compaction"
    REPLICATION = "replication"
    BACKUP = "backup"
    CHECK_PERF_S = "check-perf-s"
    CHECK_PERF_M = "check-perf-m"
    CHECK_PERF_L = "check-perf-l"
    ALL = "all"


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
        list[Scenario] | None,
        typer.Option("--scenario", help="What is measured; may be given again. Default: --mix."),
    ] = None,
    mix: Annotated[
        str,
        typer.Option(
            "--mix",
            help="Percent of put, get, range (100 keys), scan (all), keys (all, without values), stream (all, by"
            " RangeStream) and txn.",
        ),
    ] = "put=50,get=50",
    value_size: Annotated[int, typer.Option(min=0, max=1 << 20, help="Bytes of a value.")] = 256,
    key_count: Annotated[int, typer.Option(min=1, help="Different keys.")] = 10_000,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="Requests in flight.")] = 64,
    tables: Annotated[str, typer.Option(help="How many tables, or their names.")] = "1",
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds to measure.")] = 10.0,
    requests: Annotated[int | None, typer.Option(min=1, help="Measure this many instead.")] = None,
    warmup: Annotated[float, typer.Option(min=0.0, help="Seconds of load before, not counted.")] = 2.0,
    endpoints: Annotated[
        str | None,
        typer.Option(
            "--endpoints", "--endpoint", help="A cluster that runs, as host:port,...; default: start one."
        ),
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
    against: Annotated[
        str | None,
        typer.Option(
            help="etcd: measure that too, with as many members; BOATHOUSE_ETCD may name its program."
        ),
    ] = None,
    ceiling: Annotated[
        bool, typer.Option(help="Measure a server that only echoes, for the most that Python could do.")
    ] = True,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Measure all systems in turn, again.")] = 1,
    seed: Annotated[int, typer.Option(help="Same seed, same requests.")] = 1,
    data_dir: Annotated[
        Path, typer.Option(help="Where the systems keep their data meanwhile: on the disk to measure.")
    ] = Path(),
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure throughput and latency of a closed-loop load, beside an echo server and etcd."""
    from tools.bench.command import Asked
    from tools.bench.command import bench as run_bench
    from tools.bench.workload import BadMix, Workload, parse_mix

    if against not in (None, "etcd"):
        raise typer.BadParameter("only etcd is known", param_hint="--against")
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
    chosen = scenario or []
    asked = Asked(
        scenarios=[
            each.value
            for each in (Scenario if Scenario.ALL in chosen else chosen)
            if each is not Scenario.ALL
        ],
        endpoints=tuple(part.strip() for part in (endpoints or "").split(",") if part.strip()),
        nodes=nodes,
        shards=shards,
        replicas=replicas or min(nodes, 3),
        with_tls=tls,
        against_etcd=against == "etcd",
        ceiling=ceiling,
        rounds=rounds,
        data_dir=data_dir,
    )
    run_bench(asked, workload, output)
