"""`boathouse start`, `stop` and `restart`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from config.process.report import ProcessReport, State
from tools.admin.control_client import RequestRefused, SupervisorUnreachable
from tools.admin.operate import ControlOperator, restartable, rolling_restart
from tools.admin.rolling import QuorumNeeded, RestartStuck
from tools.admin.targets import everything
from tools.connection import given_reach
from tools.failure import Failed, SeenByClients, in_words
from tools.output import Output, print_document
from tools.progress import working
from tools.target import targeted

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig
    from config.process.names import ProcessName
    from tools.admin.canary import Canary, Sighting
    from tools.admin.rolling import Step


def start(cluster: ClusterConfig, target: str, output: Output) -> None:
    """Start what a TARGET names. Raises Failed if a process does not run then."""
    each(targeted(cluster, target), ControlOperator(cluster).start, "starting", State.RUNNING, output)


def stop(cluster: ClusterConfig, target: str, output: Output) -> None:
    """Stop what a TARGET names. Raises Failed if a process is not down then."""
    each(targeted(cluster, target), ControlOperator(cluster).stop, "stopping", State.STOPPED, output)


def each(
    names: list[ProcessName],
    act: Callable[[ProcessName], ProcessReport],
    what: str,
    wanted: State,
    output: Output,
) -> None:
    """One after the other. One whose supervisor can't be asked does not hold up those of other nodes."""
    reports: list[ProcessReport] = []
    unreached: list[str] = []
    with working(what) as say:
        for name in names:
            say(f"{what} {name}")
            try:
                reports.append(act(name))
            except (SupervisorUnreachable, RequestRefused) as error:
                unreached.append(str(error))
    _show(reports, output)
    amiss = [_sentence(report) for report in reports if report.state is not wanted]
    if amiss or unreached:
        raise Failed("\n".join(dict.fromkeys([*amiss, *unreached])))


def restart(
    cluster: ClusterConfig,
    target: str | None,
    output: Output,
    *,
    force: bool,
    older_than: datetime | None,
    dry_run: bool,
) -> None:
    """Restart what a TARGET names, None for everything, one at a time; say of each when it is done, and in the end what
    clients saw. Of them only what was started before older_than (UTC). Raises Failed."""
    names = everything(cluster) if target is None else targeted(cluster, target)
    before = None if older_than is None else older_than.replace(tzinfo=UTC).timestamp()
    with in_words():
        names = restartable(cluster, names, before)
        rolling = rolling_restart(cluster, force=force)
        if dry_run:
            return _show_plan(rolling.plan(names), output)
        if not names:
            return _show_nothing(output)
        from tools.admin.canary import Canary

        canary = Canary(cluster, given_reach(is_secure=cluster.tls.client is not None))
        under_watch(canary, rolling.run, names, output)


def under_watch(
    watching: Canary,
    run: Callable[[list[ProcessName], Callable[[ProcessReport], None]], None],
    names: list[ProcessName],
    output: Output,
) -> None:
    """Have `run` restart them, and print what is done and, whether or not it gets to its end, what clients saw of it.
    Raises what `run` does, and SeenByClients."""
    done: list[ProcessReport] = []

    def on_done(report: ProcessReport) -> None:
        done.append(report)
        say(f"restarting: {len(done)} of {len(names)} are done")
        if not output.is_document:
            typer.echo(_sentence(report))

    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    stuck: RestartStuck | None = None
    with working(f"restarting: 0 of {len(names)} are done") as say, watching as canary:
        try:
            run(names, on_done)
        except RestartStuck as error:
            again = f"; to go on where this ended, repeat it with --older-than {began}" if done else ""
            stuck = type(error)(f"{error}{again}")
    if done or not isinstance(stuck, QuorumNeeded):  # else nothing was touched
        _show_done(done, canary.sighting(), output)
    if stuck is not None:
        raise stuck
    if failed := canary.sighting().failed:
        raise SeenByClients(f"all of it was restarted, but {failed} requests of clients failed meanwhile")


def _show_done(done: list[ProcessReport], sighting: Sighting, output: Output) -> None:
    if not output.is_document:
        return typer.echo(str(sighting))
    print_document(
        {"processes": [report.to_json() for report in done], "clients": sighting.to_json()}, output
    )


def _show_nothing(output: Output) -> None:
    if output.is_document:
        return print_document({"processes": [], "clients": None}, output)
    typer.echo("everything was started after that already")


def _show_plan(steps: list[Step], output: Output) -> None:
    if output.is_document:
        return print_document([step.to_json() for step in steps], output)
    for number, step in enumerate(steps, start=1):
        typer.echo(f"{number}. {step}")


def _show(reports: list[ProcessReport], output: Output) -> None:
    if output.is_document:
        return print_document([report.to_json() for report in reports], output)
    for report in reports:
        typer.echo(_sentence(report))


def _sentence(report: ProcessReport) -> str:
    pid = f", process {report.pid}" if report.pid else ""
    reason = f": {report.reason}" if report.reason and report.state is not State.RUNNING else ""
    return f"{report.name} is {report.state}{pid}{reason}"
