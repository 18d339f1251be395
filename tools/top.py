"""`boathouse top`."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Final

import typer

from tools.admin.attachment import ClusterAttachment, EndpointAttachment
from tools.connection import attached_to, given_reach
from tools.failure import Failed

if TYPE_CHECKING:
    from pathlib import Path

    from tools.admin.attachment import Attachment

PIPE_WIDTH: Final = 120
"""Of a frame that goes to no terminal."""


def top(file: Path | None, endpoints: str | None, *, refresh_s: float, read_only: bool, once: bool) -> None:
    """Show a cluster until its user has seen enough, or one frame of it. Raises Failed."""
    with _attached(file, endpoints) as attachment:
        if once:
            return _show_once(attachment, refresh_s)
        if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
            raise Failed("this is no terminal; --once prints one frame without one")
        from tools.tui.app import Top

        Top(attachment, refresh_s=refresh_s, read_only=read_only).run()


def _attached(file: Path | None, endpoints: str | None) -> ClusterAttachment | EndpointAttachment:
    if endpoints is not None:
        return attached_to(endpoints)
    from tools.cluster_file import read_cluster

    cluster = read_cluster(file)
    reach = given_reach(is_secure=cluster.tls.client is not None)
    return ClusterAttachment(cluster, str(file) if file is not None else "", reach)


def _show_once(attachment: Attachment, refresh_s: float) -> None:
    from tools.tui.frame import frame
    from tools.tui.model import Model

    model = Model(file=attachment.file)
    model.observe(attachment.poll())
    time.sleep(refresh_s)  # rates need two looks
    model.observe(attachment.poll())
    scene = model.scene(time.time())
    assert scene is not None
    if not scene.snapshot.nodes:
        raise Failed("\n".join(scene.snapshot.problems) or "no endpoint answers")
    width = shutil.get_terminal_size((PIPE_WIDTH, 0)).columns if sys.stdout.isatty() else PIPE_WIDTH
    for line in frame(scene, width):
        typer.echo(line)
