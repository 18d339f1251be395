"""`boathouse start`, `stop` and `restart`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from config.process.report import ProcessReport, State
from tools.admin.operate import ControlOperator, restart_rolling
from tools.failure import Failed, in_words
from tools.output import Output, print_json
from tools.target import targeted

if TYPE_CHECKING:
    from config import ClusterConfig


def start(cluster: ClusterConfig, target: str, output: Output) -> None:
    """Start what a TARGET names. Raises Failed if a process does not run then."""
    with in_words():
        reports = [ControlOperator(cluster).start(name) for name in targeted(cluster, target)]
    _show(reports, output, State.RUNNING)


def stop(cluster: ClusterConfig, target: str, output: Output) -> None:
    """Stop what a TARGET names. Raises Failed if a process is not down then."""
    with in_words():
        reports = [ControlOperator(cluster).stop(name) for name in targeted(cluster, target)]
    _show(reports, output, State.STOPPED)


def restart(cluster: ClusterConfig, target: str, output: Output) -> None:
    """Restart what a TARGET names, one at a time, and say of each when it is done. Raises Failed."""
    done: list[ProcessReport] = []

    def on_done(report: ProcessReport) -> None:
        done.append(report)
        if output is Output.TABLE:
            typer.echo(_sentence(report))

    with in_words():
        restart_rolling(cluster, targeted(cluster, target), on_done)
    if output is Output.JSON:
        print_json([report.to_json() for report in done])


def _show(reports: list[ProcessReport], output: Output, wanted: State) -> None:
    if output is Output.JSON:
        print_json([report.to_json() for report in reports])
    else:
        for report in reports:
            typer.echo(_sentence(report))
    amiss = [report for report in reports if report.state is not wanted]
    if amiss:
        raise Failed("\n".join(_sentence(report) for report in amiss))


def _sentence(report: ProcessReport) -> str:
    pid = f", process {report.pid}" if report.pid else ""
    reason = f": {report.reason}" if report.reason and report.state is not State.RUNNING else ""
    return f"{report.name} is {report.state}{pid}{reason}"
