"""`boathouse promote` and `boathouse fence`."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import typer

from tools.failure import Failed
from tools.output import Output, print_document, print_table
from tools.progress import working

if TYPE_CHECKING:
    from config import ClusterConfig
    from tools.admin.promotion import Prospect


def promote(cluster: ClusterConfig, output: Output, *, yes: bool, force: bool) -> None:
    """Make a follower cluster lead, or one that gave way, once it is known what that costs. Raises Failed."""
    from tools.admin.promotion import NotPromoted

    try:
        asyncio.run(_promote(cluster, output, yes=yes, force=force))
    except NotPromoted as error:
        raise Failed(str(error)) from None


async def _promote(cluster: ClusterConfig, output: Output, *, yes: bool, force: bool) -> None:
    from tools.admin.promotion import Promotion

    async with Promotion.opened(cluster) as promotion:
        with working("looking at both clusters' tables"):
            prospect = await promotion.prospect()
        if cluster.follows is None and prospect.leads and not prospect.copies:
            raise Failed(f"cluster {cluster.cluster} leads already, and follows no other")
        if not output.is_document:
            _show(prospect, force=force)
        if prospect.leads and not prospect.copies:
            return _tell(cluster, prospect, output)
        if prospect.unreachable and not (force or prospect.leads):
            raise Failed(
                f"cluster {prospect.leader} can't be asked to give way ({prospect.unreachable}), and may take writes"
                " that would be lost; --force promotes all the same, and it gives way once it hears of it"
            )
        if not yes:
            _ask(cluster)
        with working(f"promoting cluster {cluster.cluster}"):
            await promotion.promote(prospect, wait=not force, say=partial(typer.echo, err=output.is_document))
    _tell(cluster, prospect, output)
    if cluster.follows is None:
        typer.echo(
            f"cluster {prospect.leader} is not told: if it has led, `boathouse fence --leader {cluster.cluster} --epoch"
            f" {prospect.epoch}` there makes it give way",
            err=output.is_document,
        )


def _tell(cluster: ClusterConfig, prospect: Prospect, output: Output) -> None:
    if output.is_document:
        print_document(
            {
                "cluster": cluster.cluster,
                "epoch": prospect.epoch,
                "leader_before": prospect.leader,
                "unreachable": prospect.unreachable or None,
                "tables": [
                    {
                        "name": standing.name,
                        "revision": standing.revision,
                        "lacks": standing.lacks,
                        "would_lose": standing.why or None,
                    }
                    for standing in prospect.standings
                ],
            },
            output,
        )
    else:
        typer.echo(f"cluster {cluster.cluster} leads since epoch {prospect.epoch}")


def _show(prospect: Prospect, *, force: bool) -> None:
    print_table(
        ["table", "revision", "would lose"],
        [
            {
                "table": standing.name,
                "revision": "-" if standing.revision is None else standing.revision,
                "would lose": standing.why or "nothing as of now",
            }
            for standing in prospect.standings
        ],
    )
    if prospect.leads:
        return
    if prospect.unreachable:
        typer.echo(f"cluster {prospect.leader} can't be asked: {prospect.unreachable}")
        report = prospect.report
        if report is not None:
            ago = max(0.0, time.time() - report.at_s)
            typer.echo(
                f"{ago:.0f} s ago the copies were up to {report.lag_revisions} revisions behind, and not known to be"
                f" level for {report.lag_s:.0f} s; what was written there since is not here"
            )
            for name, why in report.refused.items():
                typer.echo(f"table {name} is not copied, and all of it would be lost: {why}")
    elif force:
        typer.echo(
            f"cluster {prospect.leader} answers, and gives way at once: what is not here by then is lost"
        )
    else:
        typer.echo(
            f"cluster {prospect.leader} answers: it takes no writes from then on, and nothing is lost of what it has"
        )


def _ask(cluster: ClusterConfig) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("what it costs is shown above; nobody can be asked here", param_hint="--yes")
    typer.confirm(f"promote cluster {cluster.cluster}?", abort=True)


def fence(cluster: ClusterConfig, leader: str, epoch: int, output: Output, *, yes: bool) -> None:
    """Have a cluster that led take no writes any more. Raises Failed."""
    from tools.admin.promotion import NotPromoted

    if not yes:
        raise typer.BadParameter(
            f"the replicated tables of cluster {cluster.cluster} would take no writes any more, until it follows"
            f" cluster {leader} or is promoted itself",
            param_hint="--yes",
        )
    try:
        asyncio.run(_fence(cluster, leader, epoch))
    except NotPromoted as error:
        raise Failed(str(error)) from None
    if output.is_document:
        return print_document({"cluster": cluster.cluster, "leader": leader, "epoch": epoch}, output)
    typer.echo(
        f"cluster {cluster.cluster} has given way to cluster {leader}, which leads since epoch {epoch}"
    )


async def _fence(cluster: ClusterConfig, leader: str, epoch: int) -> None:
    from proto.catalog import Lead
    from tools.admin.promotion import Promotion

    async with Promotion.opened(cluster) as promotion:
        await promotion.give_way(Lead(epoch, leader))
