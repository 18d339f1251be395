"""`boathouse doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from tools.admin.checks import check
from tools.admin.diagnosis import diagnose
from tools.admin.findings import Code, Finding, Severity, finding
from tools.admin.snapshot import DOWN
from tools.cluster_file import read_cluster
from tools.connection import attached_to
from tools.failure import Failed
from tools.output import Output, print_document
from tools.progress import working
from tools.status import look

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from config import ClusterConfig
    from tools.admin.snapshot import Snapshot


def doctor(file: Path | None, endpoints: str | None, output: Output) -> None:
    """Print what is wrong, what it means and what mends it, the worst first. Raises Failed if anything is."""
    if endpoints is None:
        cluster = read_cluster(file)
        with working("looking at the cluster, its disks and ports"):
            snapshot = look(cluster)
            if file is None and _never_was(cluster, snapshot):
                raise Failed(
                    "there is no built-in cluster here: name a cluster file, or --endpoints of a cluster that runs"
                )
            found = findings(cluster, file, snapshot)
        name = cluster.cluster
    else:
        with working("asking the coordinators"), attached_to(endpoints) as attachment:
            snapshot = attachment.poll()
        if not snapshot.nodes:
            raise Failed("\n".join(snapshot.problems) or "no endpoint answers")
        found = _by_severity([*diagnose(snapshot, file=attachment.file), *_unseen(snapshot, attachment.file)])
        name = snapshot.cluster
    _print(name, found, output)


def _never_was(cluster: ClusterConfig, snapshot: Snapshot) -> bool:
    """Nothing of it runs, and it has no data: nobody means this one."""
    is_up = any(process.state != DOWN for process in snapshot.processes)
    return not is_up and not cluster.data_dir.exists()


def _unseen(snapshot: Snapshot, file: str) -> Iterator[Finding]:
    """What there is no way to from endpoints."""
    if snapshot.is_etcd:
        return
    says = "disks, folders, ports and certificates were not tried"
    yield finding(Code.NOT_TRIED, snapshot.cluster, says, file=file, where="on each host")
    if snapshot.is_measured_by_defaults:
        says = "the coordinators do not tell what the cluster file says of limits"
        yield finding(Code.LIMITS_UNKNOWN, snapshot.cluster, says, file=file)


def _print(cluster: str, found: Sequence[Finding], output: Output) -> None:
    if output.is_document:
        print_document([document(finding) for finding in found], output)
    else:
        for finding in found:
            code = f" ({finding.code.value}, {finding.subject})" if output is Output.WIDE else ""
            typer.echo(f"{finding.severity.name.lower()}: {finding.says}{code}")
            typer.echo(f"    {finding.meaning}")
            for remedy in finding.remedies:
                typer.echo(f"    mend: {remedy}")
    wrong = sum(finding.severity > Severity.NOTE for finding in found)
    if wrong:
        raise Failed(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong")
    if not output.is_document:
        typer.echo(f"cluster {cluster}: nothing is wrong")


def findings(cluster: ClusterConfig, file: Path | None, snapshot: Snapshot) -> list[Finding]:
    """What is wrong, the worst first. file: whose name remedies give."""
    name = str(file) if file is not None else ""
    return _by_severity([*diagnose(snapshot, file=name), *check(cluster, snapshot, file=name)])


def _by_severity(found: Iterable[Finding]) -> list[Finding]:
    return sorted(found, key=lambda each: -each.severity)


def document(finding: Finding) -> dict[str, Any]:
    """A finding, for programs."""
    return {
        "code": finding.code.value,
        "severity": finding.severity.name.lower(),
        "subject": finding.subject,
        "says": finding.says,
        "meaning": finding.meaning,
        "remedies": list(finding.remedies),
    }
