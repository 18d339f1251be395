"""`boathouse doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from tools.admin.checks import check
from tools.admin.diagnosis import diagnose
from tools.admin.findings import Severity
from tools.failure import Failed
from tools.output import Output, print_document
from tools.progress import working
from tools.status import look

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig
    from tools.admin.findings import Finding
    from tools.admin.snapshot import Snapshot


def doctor(cluster: ClusterConfig, file: Path | None, output: Output) -> None:
    """Print what is wrong, what it means and what mends it, the worst first. Raises Failed if anything is."""
    with working("looking at the cluster, its disks and ports"):
        found = findings(cluster, file, look(cluster))
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
        typer.echo(f"cluster {cluster.cluster}: nothing is wrong")


def findings(cluster: ClusterConfig, file: Path | None, snapshot: Snapshot) -> list[Finding]:
    """What is wrong, the worst first. file: whose name remedies give."""
    name = str(file) if file is not None else ""
    found = [*diagnose(snapshot, file=name), *check(cluster, snapshot, file=name)]
    return sorted(found, key=lambda finding: -finding.severity)


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
