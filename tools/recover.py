"""`boathouse recover`: a shard goes on with one replica, because the majority of its voters is lost for good."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from coordinator.supervisor.folder import living_holder
from tools.failure import Failed
from tools.output import Output, print_document
from tools.progress import working

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config import ClusterConfig


def recover(
    cluster: ClusterConfig,
    node: str,
    shard: int | None,
    output: Output,
    *,
    lost: Sequence[str],
    dry_run: bool,
) -> None:
    """Make a stopped node's replicas all of their shards, those that have lost the majority of their voters. lost:
    voters that can't be asked, and are known to be lost. Raises Failed: nothing was done, or as much as was said."""
    from tools.admin.recovery import NotRecovered

    if node not in cluster.nodes:
        raise typer.BadParameter(f"cluster {cluster.cluster} has no node {node}", param_hint="NODE")
    pid = living_holder(cluster.node_dir(node))
    if pid is not None:
        raise Failed(f"node {node} is up (process {pid}); `boathouse down --node {node}` stops it")
    held = cluster.shards_of(node) if shard is None else (shard,)
    if not held:
        raise Failed(f"{node} holds no shard")
    try:
        _recover(cluster, node, held, output, lost=frozenset(lost), dry_run=dry_run)
    except NotRecovered as error:
        raise Failed(str(error)) from None


def _recover(
    cluster: ClusterConfig,
    node: str,
    held: Sequence[int],
    output: Output,
    *,
    lost: frozenset[str],
    dry_run: bool,
) -> None:
    from tools.admin.recovery import go_on_alone, look_at

    with working(f"looking at what {node} holds") as say:
        survivors, others = look_at(cluster, node, held, lost, say)
    if not survivors:
        raise Failed("\n".join(others))
    if not output.is_document:
        for line in (*others, *map(str, survivors)):
            typer.echo(line)
    if not dry_run:
        with working("going on alone") as say:
            for survivor in survivors:
                say(f"shard {survivor.shard} goes on alone")
                go_on_alone(cluster, survivor)
    if output.is_document:
        print_document([asdict(survivor) for survivor in survivors], output)
    elif not dry_run:
        gone = ", ".join(sorted({name for survivor in survivors for name in survivor.lost_voters}))
        typer.echo(
            f"done. Start {node}. What {gone} had is of no more use: their replicas end if they come back with it. "
            "Remove their data, start them, and add them with `boathouse node add`"
        )
