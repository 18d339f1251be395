"""The scenarios: what is started, what is done to it, and which figure is taken.

`load` is any mix; the others are the rows of the figures that the README quotes, each with the same steps for
boathouse and for what it is held against.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from config import loading
from tools.admin.moves import move_table
from tools.admin.operate import move_leader
from tools.admin.reach import Connection
from tools.admin.tables import TablesClient
from tools.bench import joining, systems
from tools.bench.backup import backup
from tools.bench.idle_watches import idle_watches
from tools.bench.leases import leases
from tools.bench.memory import Growth
from tools.bench.replication import replication
from tools.bench.report import OURS, Figure, Report
from tools.bench.restarts import restarts
from tools.bench.run import LoadFailed, Meter, measure
from tools.bench.setting import Shape, names, running
from tools.bench.upkeep import compact_and_defragment, slowest_sync
from tools.bench.watching import watching
from tools.bench.workload import key

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig
    from tools.bench.setting import Setting
    from tools.bench.workload import Workload

SETTLE_S = 5.0
"""From ready to idle: elections, first checkpoints, etcd's first compaction of its log."""
IDLE_S = 20.0
SCANS = 8
SCANNED_KEYS = 100_000
MANY_KEYS = 1_000_000
STREAMED_BYTES = 100
MOVE_EVERY_S = 1.0
MOVE_CALL_S = 60.0
"""Of one question how far a table's move is."""


def load(setting: Setting, workload: Workload, name: str, shape: Shape) -> Report:
    """Closed-loop load of any mix."""
    report = Report(name)
    for _ in range(setting.rounds):
        for system_name in names(setting, ceiling=True):
            with running(setting, system_name, shape, workload) as system:
                fill = workload.reads and system_name != "echo"
                report.add(measure(system, workload, setting.progress(system_name), fill=fill))
    return report


def puts(setting: Setting, workload: Workload) -> Report:
    """Puts on one node."""
    return load(setting, replace(workload, mix={"put": 100}), "puts, 1 node", Shape(1, 1, 1))


def gets(setting: Setting, workload: Workload) -> Report:
    """Linearizable gets on three nodes."""
    return load(setting, replace(workload, mix={"get": 100}), "linearizable gets, 3 nodes", Shape(3, 1, 3))


def range_100k(setting: Setting, workload: Workload) -> Report:
    """All of 100,000 keys in one answer, over and over, on one node."""
    scan = replace(workload, mix={"scan": 100}, key_count=SCANNED_KEYS)
    return _scans(setting, scan, "range of 100,000 keys in one answer, 1 node", scan.value_bytes)


def keys_only(setting: Setting, workload: Workload) -> Report:
    """The same of 1,000,000 keys without their values."""
    scan = replace(workload, mix={"keys": 100}, key_count=MANY_KEYS)
    return _scans(setting, scan, "keys-only range of 1,000,000 keys in one answer, 1 node", len(key(0)))


def range_stream(setting: Setting, workload: Workload) -> Report:
    """The same of 100,000 pairs of 100 B by RangeStream, which etcd has from 3.7 on."""
    scan = replace(workload, mix={"stream": 100}, key_count=SCANNED_KEYS, value_bytes=STREAMED_BYTES)
    return _scans(setting, scan, "RangeStream of 100,000 pairs of 100 B, 1 node", scan.value_bytes)


def _scans(setting: Setting, workload: Workload, title: str, row_bytes: int) -> Report:
    """One client reads all of the keys, over and over. row_bytes: which an answer has of each at least."""
    scan = replace(workload, clients=1, requests=SCANS, warmup_seconds=1.0, tables=("default",))
    report = Report(title, compared="rows_per_second")
    for _ in range(setting.rounds):
        for name in names(setting, ceiling=False):
            progress = setting.progress(name)
            with running(setting, name, Shape(1, 1, 1), scan) as system:
                measure(system, replace(scan, mix={"get": 100}, warmup_seconds=0.0), progress, fill=True)
                with Growth(system) as growth:
                    outcome = measure(system, scan, progress, fill=False)
            if outcome.received_bytes < SCANS * scan.key_count * row_bytes:
                why = "; ".join(outcome.errors) or f"{outcome.received_bytes} bytes in all"
                raise LoadFailed(f"{name} left keys out of its answer: {why}")
            report.outcomes.append(outcome)
            rows = outcome.per_second * scan.key_count
            took_ms = outcome.histogram.percentile_ms(50)
            report.figures += [
                Figure(name, "rows_per_second", rows, "rows/s"),
                Figure(name, "took", took_ms, "ms", f"median of {SCANS}"),
                Figure(
                    name, "largest_growth", growth.largest_mb, "MB", "of a process, from before the first"
                ),
            ]
    return report


def keys_1m(setting: Setting, workload: Workload) -> Report:
    """Memory with a million keys, and how soon they can be read after a start."""
    many = replace(
        workload,
        mix={"get": 100},
        key_count=MANY_KEYS,
        tables=("default",),
        seconds=3.0,
        warmup_seconds=0.5,
    )
    report = Report("1,000,000 keys, 1 node", compared="rss_after_fill")
    for name in names(setting, ceiling=False):
        with running(setting, name, Shape(1, 1, 1), many) as system:
            report.outcomes.append(measure(system, many, setting.progress(name), fill=True))
            report.figures.append(Figure(name, "rss_after_fill", _rss(system), "MB", "largest process"))
            if isinstance(system, systems.Running):
                continue  # not ours to restart
            system.stop()
            started = time.monotonic()
            system.start()
            took = time.monotonic() - started
            report.figures.append(Figure(name, "start_to_first_read", took, "s", "linearizable"))
            again = replace(many, seconds=2.0)
            measure(system, again, setting.progress(name), fill=False)
            report.figures.append(Figure(name, "rss_after_start", _rss(system), "MB", "after 2 s of gets"))
    return report


def _rss(system: systems.System) -> float:
    """Of the process that holds the keys."""
    processes = system.processes()
    holders = {name: p for name, p in processes.items() if name.startswith(("shardworker", "etcd"))}
    return max((p.memory_info().rss / 1e6 for p in (holders or processes).values()), default=0.0)


def idle(setting: Setting, workload: Workload) -> Report:
    """What a cluster of three nodes and four shards costs while nobody asks."""
    report = Report("idle, 3 nodes, 4 shards, 3 replicas", compared="cpu")
    for name in names(setting, ceiling=False):
        with running(setting, name, Shape(3, 4, 3), workload) as system:
            time.sleep(SETTLE_S)
            meter = Meter(system)
            time.sleep(IDLE_S)
            usage = meter.read(IDLE_S)
        total = sum(one.cpu_percent for one in usage.values())
        report.figures.append(Figure(name, "cpu", total, "% of one core", f"{len(usage)} processes"))
        for kind in sorted({process.split()[0] for process in usage}):
            rss = [one.rss_bytes / 1e6 for process, one in usage.items() if process.split()[0] == kind]
            cpu = [one.cpu_percent for process, one in usage.items() if process.split()[0] == kind]
            note = f"largest of {len(rss)}; all of them use {sum(cpu):.1f} % of a core"
            report.figures.append(Figure(name, f"rss_of_{kind}", max(rss), "MB", note))
    return report


def top(setting: Setting, workload: Workload) -> Report:
    """What `boathouse top` costs, on three nodes and 16 shards, a look a second."""
    report = Report("boathouse top, 3 nodes, 16 shards, a look a second", compared="cpu")
    with running(replace(setting, endpoints=()), OURS, Shape(3, 16, 3), workload) as system:
        assert isinstance(system, systems.Boathouse)
        time.sleep(SETTLE_S)
        given = system.tls.to_json().items()
        options = {f"BOATHOUSE_{name.upper()}": path for name, path in given if path is not None}
        with watching(system.cluster_file, options) as watcher:
            cost = watcher.cpu_percent(IDLE_S)
            report.figures.append(Figure(OURS, "cpu", cost, "% of one core", "of the program that shows it"))
            system.stop()
            cost = watcher.cpu_percent(IDLE_S)
            report.figures.append(Figure(OURS, "cpu_while_down", cost, "% of one core", "no replica answers"))
    return report


def check_perf(setting: Setting, workload: Workload, size: str) -> Report:
    """`etcdctl check perf`: a minute of puts by etcd's own client, on three nodes."""
    report = Report(f"etcdctl check perf --load {size}, 3 nodes, 3 replicas", compared="writes_per_second")
    for _ in range(setting.rounds):
        for name in names(setting, ceiling=False):
            with running(setting, name, Shape(3, 1, 3), replace(workload, tables=("default",))) as system:
                report.figures += _check_perf(system, size)
    return report


def _check_perf(system: systems.System, size: str) -> list[Figure]:
    command = [str(systems.etcd_program("etcdctl")), "--endpoints", ",".join(system.endpoints)]
    for option, path in system.tls.to_json().items():
        command += [f"--{option}", path] if path is not None else []
    done = subprocess.run(  # noqa: S603 - etcd's own client
        [*command, "check", "perf", f"--load={size}"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    said = done.stdout + done.stderr
    found = re.search(r"Throughput (?:is|too low:) (\d+) writes/s", said)
    if found is None:
        raise LoadFailed(f"etcdctl check perf on {system.name} gave no throughput: {said[-500:]}")
    verdicts = re.findall(r"^.*?((?:PASS|FAIL|Slowest|Stddev)\b.*)$", said, re.MULTILINE)
    note = "; ".join(verdict.strip() for verdict in verdicts)
    return [Figure(system.name, "writes_per_second", float(found[1]), "/s", note)]


def moves(setting: Setting, workload: Workload) -> Report:
    """Puts on three nodes while the leader changes once a second, as planned."""
    puts_meanwhile = replace(workload, mix={"put": 100}, tables=("default",), requests=None)
    report = Report("planned moves of the leader under puts, 3 nodes", compared="slowest")
    with running(replace(setting, endpoints=()), OURS, Shape(3, 1, 3), puts_meanwhile) as system:
        assert isinstance(system, systems.Boathouse)
        over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            moved = pool.submit(_move_leaders, loading.load(system.cluster_file), over)
            try:
                outcome = measure(system, puts_meanwhile, setting.progress(OURS), fill=False)
            finally:
                over.set()
            note = f"{moved.result()} moves, the first requests included"
    report.outcomes.append(outcome)
    report.figures.append(Figure(OURS, "slowest", outcome.histogram.percentile_ms(100), "ms", note))
    return report


def _move_leaders(cluster: ClusterConfig, over: threading.Event) -> int:
    """Move the leader of shard 1 once a second until it is over; how often it moved. Raises NotMoved."""
    count = 0
    while not over.wait(MOVE_EVERY_S):
        move_leader(cluster, 1, None)
        count += 1
    return count


def table_moves(setting: Setting, workload: Workload) -> Report:
    """Puts into a table of --key-count keys on three nodes, while it moves between two shards."""
    puts_meanwhile = replace(workload, mix={"put": 100}, tables=("default",), requests=None)
    title = f"moves of a table of {workload.key_count:,} keys under puts, 3 nodes, 2 shards"
    report = Report(title, compared="slowest")
    with running(replace(setting, endpoints=()), OURS, Shape(3, 2, 3), puts_meanwhile) as system:
        measure(system, replace(puts_meanwhile, seconds=1.0), setting.progress(OURS), fill=True)
        credentials = system.tls.credentials() if setting.certificates is not None else None
        client = TablesClient(Connection(tuple(system.endpoints), credentials, ""), MOVE_CALL_S)
        over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            moved = pool.submit(_move_table, client, over)
            try:
                outcome = measure(system, puts_meanwhile, setting.progress(OURS), fill=False)
            finally:
                over.set()
            took_s = moved.result()
    report.outcomes.append(outcome)
    note = f"{len(took_s)} moves begun, of {', '.join(f'{each:.1f}' for each in took_s)} s"
    report.figures.append(Figure(OURS, "slowest", outcome.histogram.percentile_ms(100), "ms", note))
    report.figures.append(Figure(OURS, "longest_pause", outcome.longest_pause_ms, "ms", "of all clients"))
    return report


def _move_table(client: TablesClient, over: threading.Event) -> list[float]:
    """Move the table to the other shard and back until it is over; how long each move took."""
    took_s = []
    while not over.wait(MOVE_EVERY_S):
        (entry,) = [each for each in client.list() if each.name == "default"]
        took_s.append(move_table(client, "default", 3 - entry.shard).seconds)
    return took_s


def compaction(setting: Setting, workload: Workload) -> Report:
    """Puts on three nodes while 1,000,000 changes are compacted and the nodes defragmented."""
    report = Report(
        "1,000,000 changes compacted and defragmented under puts, 3 nodes", compared="longest_pause"
    )
    report.figures.append(slowest_sync(setting.folder))
    for _ in range(setting.rounds):
        for name in names(setting, ceiling=False):
            with running(setting, name, Shape(3, 1, 3), replace(workload, tables=("default",))) as system:
                outcome, figures = compact_and_defragment(system, workload, setting.progress(name))
            report.outcomes.append(outcome)
            report.figures += figures
    return report


def joins(setting: Setting, workload: Workload) -> Report:
    """Puts on three nodes while a fourth comes, and catches up with many keys."""
    keys = max(workload.key_count, joining.KEYS_MIN)
    puts_meanwhile = replace(
        workload,
        mix={"put": 100},
        tables=("default",),
        key_count=keys,
        requests=None,
        seconds=max(workload.seconds, joining.MEASURED_S_MIN),
    )
    report = Report(f"a node joins under puts, 3 nodes, {keys:,} keys", compared="rate_kept")
    with running(replace(setting, endpoints=()), OURS, Shape(3, 1, 3), puts_meanwhile) as system:
        assert isinstance(system, systems.Boathouse)
        timeline = joining.Timeline(setting.progress(OURS))
        joining.write_node(system)
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(joining.join, system, timeline)
            try:
                outcome = measure(system, puts_meanwhile, timeline, fill=True)
            finally:
                timeline.began.set()
            joined = coming.result()
    before = timeline.rate(joined.steady_at, joined.began_at)
    meanwhile = timeline.rate(joined.began_at, joined.voted_at)
    report.outcomes.append(outcome)
    note = f"{meanwhile:,.0f} puts/s while it caught up, {before:,.0f} before"
    report.figures.append(Figure(OURS, "rate_kept", meanwhile / before, "of the rate before", note))
    caught_up_s = joined.voted_at - joined.began_at
    report.figures.append(Figure(OURS, "caught_up_in", caught_up_s, "s", "from its start to its vote"))
    return report


SCENARIOS: dict[str, Callable[[Setting, Workload], Report]] = {
    "puts": puts,
    "gets": gets,
    "range-100k": range_100k,
    "range-stream": range_stream,
    "keys-only": keys_only,
    "keys-1m": keys_1m,
    "idle": idle,
    "idle-watches": idle_watches,
    "leases": leases,
    "top": top,
    "moves": moves,
    "joins": joins,
    "restarts": restarts,
    "table-moves": table_moves,
    "compaction": compaction,
    "replication": replication,
    "backup": backup,
    **{f"check-perf-{size}": partial(check_perf, size=size) for size in "sml"},
}
