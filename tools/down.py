"""`boathouse down`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tools.admin.operate import end_nodes
from tools.failure import Failed, in_words
from tools.progress import working

if TYPE_CHECKING:
    from config import ClusterConfig


def down(cluster: ClusterConfig, node: str | None) -> None:
    """End the nodes that are up here, or one. Raises Failed if none is."""
    if node is not None and node not in cluster.nodes:
        raise typer.BadParameter(f"cluster {cluster.cluster} has no node {node}", param_hint="--node")
    with in_words(), working("stopping the processes in order"):
        ended = end_nodes(cluster, cluster.nodes if node is None else [node])
    if not ended:
        what = f"cluster {cluster.cluster}" if node is None else f"node {node}"
        raise Failed(f"{what} is not up here (data in {cluster.data_dir})")
    for name in ended:
        typer.echo(f"{name} is down")
