"""One frame as plain text, for pipes, mails and watch(1). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.tui.headline import headline
from tools.tui.page import lines
from tools.tui.views.findings import findings
from tools.tui.views.nodes import overview
from tools.tui.views.replicas import replicas
from tools.tui.views.replication import replication
from tools.tui.views.shards import shards
from tools.tui.views.tables import tables

if TYPE_CHECKING:
    from tools.tui.scene import Scene


def frame(scene: Scene, width: int) -> list[str]:
    """Headline, nodes, shards, replicas, tables, and what is wrong with what mends it."""
    made = ["  ".join(cell.text.strip() for cell in line if cell.text.strip()) for line in headline(scene)]
    pages = [overview(scene), shards(scene), replicas(scene, ""), tables(scene)]
    if (copies := replication(scene)).rows or scene.snapshot.replication is not None:
        pages.append(copies)
    for page in pages:
        made += ["", page.title.upper(), *lines(page, width)]
    if scene.findings:
        made += ["", *lines(findings(scene), width), ""]
        made += dict.fromkeys(remedy for finding in scene.findings for remedy in finding.remedies)
    return made
