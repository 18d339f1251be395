"""`boathouse forget`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from tools.failure import Failed
from tools.output import Output, print_document

if TYPE_CHECKING:
    from config import ClusterConfig


def forget(cluster: ClusterConfig, follower: str, output: Output) -> None:
    """Keep nothing for a follower cluster any more. Raises Failed."""
    from tools.admin import followers

    try:
        tables = asyncio.run(followers.forget(cluster, follower))
    except followers.NotForgotten as error:
        raise Failed(str(error)) from None
    if output.is_document:
        return print_document({"follower": follower, "tables": tables}, output)
    typer.echo(f"nothing is kept any more for cluster {follower}, of tables {', '.join(tables)}")
