"""TARGET, as the command line takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tools.admin.targets import UnknownTarget, resolve

if TYPE_CHECKING:
    from config import ClusterConfig
    from config.process.names import ProcessName


def targeted(cluster: ClusterConfig, target: str) -> list[ProcessName]:
    """The processes that it names; wrong usage if that is none."""
    try:
        return resolve(cluster, target)
    except UnknownTarget as error:
        raise typer.BadParameter(str(error), param_hint="TARGET") from None
