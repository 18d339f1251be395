"""`boathouse doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

from tools.admin.checks import check
from tools.admin.cluster_source import ClusterSource
from tools.admin.diagnosis import diagnose
from tools.failure import Failed
from tools.output import Output, print_document

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig
    from tools.admin.diagnosis import Finding

SUPERVISOR_TIMEOUT_S: Final = 7.0


def doctor(cluster: ClusterConfig, file: Path | None, output: Output) -> None:
    """Print what is wrong, what it means and what mends it, the worst first. Raises Failed if anything is."""
    name = str(file) if file is not None else ""
    with ClusterSource(cluster, supervisor_timeout_s=SUPERVISOR_TIMEOUT_S) as source:
        snapshot = source.poll()
    findings = [*diagnose(snapshot, file=name), *check(cluster, snapshot, file=name)]
    findings.sort(key=lambda finding: -finding.severity)
    if output.is_document:
        print_document([_document(finding) for finding in findings], output)
    else:
        for finding in findings:
            code = f" ({finding.code.value}, {finding.subject})" if output is Output.WIDE else ""
            typer.echo(f"{finding.severity.name.lower()}: {finding.says}{code}")
            typer.echo(f"    {finding.meaning}")
            typer.echo(f"    mend: {finding.remedy}")
    if findings:
        raise Failed(f"{len(findings)} {'thing is' if len(findings) == 1 else 'things are'} wrong")
    if not output.is_document:
        typer.echo(f"cluster {cluster.cluster}: nothing is wrong")


def _document(finding: Finding) -> dict[str, str]:
    return {
        "code": finding.code.value,
        "severity": finding.severity.name.lower(),
        "subject": finding.subject,
        "says": finding.says,
        "meaning": finding.meaning,
        "remedy": finding.remedy,
    }
