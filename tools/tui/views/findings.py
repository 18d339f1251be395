"""What is wrong, in one list. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.tui.page import Cell, Column, Page, Row
from tools.tui.views import cells

if TYPE_CHECKING:
    from tools.admin.findings import Finding
    from tools.tui.scene import Scene

COLUMNS: Final = (Column(" "), Column("SUBJECT"), Column("WHAT IS WRONG", takes_rest=True))


def findings(scene: Scene) -> Page:
    """The worst first."""
    rows = [_row(finding) for finding in scene.findings]
    return Page(
        "findings",
        COLUMNS,
        rows,
        "nothing is wrong that a look can show; `boathouse doctor` also tries disks and ports",
    )


def _row(finding: Finding) -> Row:
    mark = cells.of_severity(finding.severity)
    return Row(
        key=f"{finding.code} {finding.subject}",
        cells=(
            Cell(mark.text, mark.style, sort=-float(finding.severity)),
            Cell(finding.subject),
            Cell(finding.says),
        ),
        findings=(finding,),
    )
