"""Commands about processes: status, start, stop, restart, down, logs."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import psutil
import typer

from coordinator.supervisor.control import NodeControl, RequestRefused, SupervisorUnreachable
from coordinator.supervisor.process import ProcessName, ProcessReport, State
from coordinator.supervisor.targets import UnknownTarget, processes_of, resolve
from tools.admin.rolling import RestartStuck, restart_one_by_one
from tools.failure import Failed
from tools.output import Output, human_bytes, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from config import ClusterConfig
    from proto.internal import frames_pb2 as frames

CPU_SAMPLE_S: Final = 0.2
PROBE_TIMEOUT_S: Final = 1.0
OPERATION_MARGIN_S: Final = 60.0
"""Beyond the processes' own time limits: what a supervisor may take to answer on a busy machine."""
CATCH_UP_TIMEOUT_S: Final = 60.0
FOLLOW_INTERVAL_S: Final = 0.2


COLUMNS: Final = "node process state pid restarts cpu rss role leader revision".split()


# ---- status ------------------------------------------------------------------------------------------------


def status(cluster: ClusterConfig, output: Output) -> None:
    """Every process of the cluster. Raises Failed if no supervisor of it answers here."""
    rows = status_rows(cluster)
    if output is Output.JSON:
        return print_json(rows)
    print_table(COLUMNS, [_for_people(row) for row in rows])
    for row in rows:
        reason = row.get("fault") or row["reason"]
        if reason:
            typer.echo(f"{row['node']}/{row['process']}: {reason}")


def status_rows(cluster: ClusterConfig) -> list[dict[str, Any]]:
    """One row per process, as `status -o json` prints them."""
    reports = _all_reports(cluster)
    sampled = _sample_cpu(reports.values())
    answers = _ask_running(cluster, reports)
    cpu = _cpu_percent(sampled)
    leaders = _leaders(answers)
    rows = []
    for node in cluster.nodes:
        for name in processes_of(cluster, node):
            row = _process_row(cluster, name, reports.get(name), cpu)
            if name.shard is not None:
                row |= _replica_columns(cluster, answers.get(name), leaders.get(name.shard, 0))
            rows.append(row)
    return rows


def _all_reports(cluster: ClusterConfig) -> dict[ProcessName, ProcessReport]:
    reports: dict[ProcessName, ProcessReport] = {}
    reached = 0
    for node in cluster.nodes:
        try:
            reports |= {report.name: report for report in NodeControl(cluster, node).status()}
            reached += 1
        except SupervisorUnreachable:
            pass
        except RequestRefused as error:
            raise Failed(str(error)) from None
    if not reached:
        raise Failed(f"cluster {cluster.cluster} is not up here (data in {cluster.data_dir})")
    return reports


def _process_row(
    cluster: ClusterConfig, name: ProcessName, report: ProcessReport | None, cpu: dict[int, tuple[float, int]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"node": name.node, "process": name.local, "kind": name.kind, "shard": name.shard}
    if report is None:
        # A node on another machine has a supervisor there; this one can't know.
        state = "down" if cluster.node(name.node).is_loopback else "elsewhere"
        return row | {
            "pid": None,
            "state": state,
            "restarts": None,
            "reason": "",
            "cpu_percent": None,
            "rss_bytes": None,
        }
    cpu_percent, rss_bytes = cpu.get(report.pid or 0, (None, None))
    return row | {
        "pid": report.pid,
        "state": str(report.state),
        "restarts": report.restarts,
        "reason": report.reason,
        "started_at": report.started_at,
        "log": report.log,
        "cpu_percent": cpu_percent,
        "rss_bytes": rss_bytes,
    }


def _ask_running(
    cluster: ClusterConfig, reports: dict[ProcessName, ProcessReport]
) -> dict[ProcessName, frames.ReplicaStatus]:
    from tools.admin.probe import ask_replicas

    names = [
        name
        for node in cluster.nodes
        for name in processes_of(cluster, node)
        if name.shard is not None and (name not in reports or reports[name].state is State.RUNNING)
    ]
    return ask_replicas(cluster, names, timeout_s=PROBE_TIMEOUT_S)


def _leaders(answers: dict[ProcessName, frames.ReplicaStatus]) -> dict[int, int]:
    """Node id of each shard's leader, as the replica of the highest term has it."""
    newest: dict[int, frames.ReplicaStatus] = {}
    for answer in answers.values():
        known = newest.get(answer.shard)
        if answer.leader and (known is None or answer.term > known.term):
            newest[answer.shard] = answer
    return {shard: answer.leader for shard, answer in newest.items()}


def _replica_columns(
    cluster: ClusterConfig, answer: frames.ReplicaStatus | None, leader: int
) -> dict[str, Any]:
    names = {node.id: node.name for node in cluster.nodes.values()}
    columns: dict[str, Any] = {"role": None, "leader": names.get(leader), "revision": None, "tables": {}}
    if answer is None:
        return columns
    tables = {table.name: table.revision for table in answer.tables if not table.name.startswith("_")}
    return columns | {
        "role": answer.role,
        "term": answer.term,
        "commit_index": answer.commit_index,
        "applied_index": answer.applied_index,
        "database_bytes": answer.database_bytes,
        "no_space": answer.no_space,
        "fault": answer.fault,
        "revision": max(tables.values(), default=None),
        "tables": tables,
    }


def _sample_cpu(reports: Any) -> tuple[float, list[psutil.Process]]:
    processes = []
    for report in reports:
        try:
            process = psutil.Process(report.pid) if report.pid else None
        except psutil.Error:
            continue
        if process is not None:
            process.cpu_percent(None)  # the first call starts the clock
            processes.append(process)
    return time.monotonic(), processes


def _cpu_percent(sampled: tuple[float, list[psutil.Process]]) -> dict[int, tuple[float, int]]:
    """CPU per cent of a core since the sample, and resident bytes, by pid."""
    since_s, processes = sampled
    time.sleep(max(0.0, CPU_SAMPLE_S - (time.monotonic() - since_s)))
    found = {}
    for process in processes:
        try:
            found[process.pid] = (process.cpu_percent(None), process.memory_info().rss)
        except psutil.Error:
            continue
    return found


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    cpu, rss = row["cpu_percent"], row["rss_bytes"]
    return row | {
        "cpu": None if cpu is None else f"{cpu:.0f}%",
        "rss": None if rss is None else human_bytes(rss),
    }


# ---- start, stop, restart ----------------------------------------------------------------------------------


def operate(cluster: ClusterConfig, operation: str, target: str, output: Output) -> None:
    """start, stop or restart what a TARGET names. Raises Failed if a process is not then as asked."""
    names = _resolve(cluster, target)
    if operation == "restart":
        reports = _restart(cluster, names, output)
    else:
        reports = [_operate_one(cluster, operation, name) for name in names]
    if output is Output.JSON:
        print_json([report.to_json() for report in reports])
    elif operation != "restart":
        for report in reports:
            typer.echo(_sentence(report))
    wanted = State.STOPPED if operation == "stop" else State.RUNNING
    amiss = [report for report in reports if report.state is not wanted]
    if amiss:
        raise Failed("\n".join(_sentence(report) for report in amiss))


def _resolve(cluster: ClusterConfig, target: str) -> list[ProcessName]:
    try:
        return resolve(cluster, target)
    except UnknownTarget as error:
        raise typer.BadParameter(str(error), param_hint="TARGET") from None


def _operate_one(cluster: ClusterConfig, operation: str, name: ProcessName) -> ProcessReport:
    limit_s = cluster.supervisor.stop_timeout_ms / 1000 + OPERATION_MARGIN_S
    try:
        return NodeControl(cluster, name.node).operate(operation, [name.local], timeout_s=limit_s)[0]
    except (SupervisorUnreachable, RequestRefused) as error:
        raise Failed(str(error)) from None


class _Hands:
    """rolling.Hands over control sockets and ZeroMQ."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster

    def restart(self, name: ProcessName) -> ProcessReport:
        return _operate_one(self._cluster, "restart", name)

    def ask(self, names: Sequence[ProcessName]) -> dict[ProcessName, frames.ReplicaStatus]:
        from tools.admin.probe import ask_replicas

        return ask_replicas(self._cluster, names, timeout_s=PROBE_TIMEOUT_S)


def _restart(cluster: ClusterConfig, names: list[ProcessName], output: Output) -> list[ProcessReport]:
    done: list[ProcessReport] = []

    def on_done(report: ProcessReport) -> None:
        done.append(report)
        if output is Output.TABLE:
            typer.echo(_sentence(report))

    for node in {name.node for name in names}:
        try:
            NodeControl(cluster, node).status()  # all of them are here, or nothing is touched
        except (SupervisorUnreachable, RequestRefused) as error:
            raise Failed(str(error)) from None
    try:
        restart_one_by_one(
            _Hands(cluster),
            names,
            lambda shard: [ProcessName(node.name, shard) for node in cluster.replica_nodes(shard)],
            timeout_s=CATCH_UP_TIMEOUT_S,
            on_done=on_done,
        )
    except RestartStuck as error:
        raise Failed(str(error)) from None
    return done


def _sentence(report: ProcessReport) -> str:
    pid = f", process {report.pid}" if report.pid else ""
    reason = f": {report.reason}" if report.reason and report.state is not State.RUNNING else ""
    return f"{report.name} is {report.state}{pid}{reason}"


# ---- down --------------------------------------------------------------------------------------------------


def down(cluster: ClusterConfig, node: str | None) -> None:
    """End the nodes that are up here, or one. Raises Failed if none is."""
    if node is not None and node not in cluster.nodes:
        raise typer.BadParameter(f"cluster {cluster.cluster} has no node {node}", param_hint="--node")
    limit_s = 2 * cluster.supervisor.stop_timeout_ms / 1000 + OPERATION_MARGIN_S
    names = list(cluster.nodes) if node is None else [node]
    ended = _down_together(cluster, names, limit_s)
    if not ended:
        what = f"cluster {cluster.cluster}" if node is None else f"node {node}"
        raise Failed(f"{what} is not up here (data in {cluster.data_dir})")
    for name in ended:
        typer.echo(f"{name} is down")


def _down_together(cluster: ClusterConfig, names: list[str], limit_s: float) -> list[str]:
    """Ask all at once: nodes of one cluster that go down one by one would elect leaders all the way."""
    from concurrent.futures import ThreadPoolExecutor

    def end(name: str) -> bool:
        try:
            NodeControl(cluster, name).down(timeout_s=limit_s)
        except SupervisorUnreachable:
            return False
        return True

    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        try:
            ended = list(pool.map(end, names))
        except RequestRefused as error:
            raise Failed(str(error)) from None
    return [name for name, was_up in zip(names, ended, strict=True) if was_up]


# ---- logs --------------------------------------------------------------------------------------------------


def logs(cluster: ClusterConfig, target: str, lines: int, follow: bool) -> None:
    """The last lines of the logs of what a TARGET names; with several, each line says whose it is."""
    names = _resolve(cluster, target)
    paths = {name: cluster.node_dir(name.node) / "logs" / f"{name.local}.log" for name in names}
    present = {name: path for name, path in paths.items() if path.exists()}
    if not present:
        raise Failed(f"no log yet: {', '.join(str(path) for path in paths.values())}")
    prefix = len(names) > 1
    positions = {name: _print_tail(name, path, lines, prefix) for name, path in present.items()}
    while follow:
        time.sleep(FOLLOW_INTERVAL_S)
        for name, path in present.items():
            positions[name] = _print_new(name, path, positions[name], prefix)


def _print_tail(name: ProcessName, path: Path, lines: int, prefix: bool) -> int:
    with path.open("rb") as file:
        for line in deque(file, maxlen=lines):
            _print_line(name, line, prefix)
        return file.tell()


def _print_new(name: ProcessName, path: Path, position: int, prefix: bool) -> int:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(position if position <= end else 0)  # shorter than before: it was rotated
        for line in file:
            _print_line(name, line, prefix)
        return file.tell()


def _print_line(name: ProcessName, line: bytes, prefix: bool) -> None:
    text = line.decode(errors="replace").rstrip("\n")
    typer.echo(f"{name}: {text}" if prefix else text)
