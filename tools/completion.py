"""Names that a shell offers when Tab is pressed: of nodes, processes and shards as the cluster file has them, of tables
as a coordinator has them. What a command line has said so far (FILE, --endpoint, options of TLS), or the environment,
says which cluster is meant.

Whoever presses Tab waits for the answer and wants no errors between his words: a cluster that does not answer within
half a second, or a file that can't be read, has no names."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import typer  # noqa: TC002 - it looks at the annotations of completers

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig

TIMEOUT_S: Final = 0.5
VARIABLE: Final = "_BOATHOUSE_COMPLETE"
"""Of the environment: what a shell asks, in typer's words."""


class Completer(Protocol):
    """What typer takes as `autocompletion`."""

    def __call__(self, ctx: typer.Context) -> list[str]: ...


def _silent(names: Callable[[typer.Context], list[str]]) -> Completer:
    """The same names, or none where they can't be had."""

    @functools.wraps(names)
    def complete(ctx: typer.Context) -> list[str]:
        try:
            return names(ctx)
        except Exception:
            return []

    return complete


@_silent
def node_names(ctx: typer.Context) -> list[str]:
    """n1, n2, ..."""
    return list(_cluster(ctx).nodes)


@_silent
def shard_numbers(ctx: typer.Context) -> list[str]:
    """1, 2, ..."""
    return [str(number) for number in range(1, _cluster(ctx).shards + 1)]


@_silent
def target_names(ctx: typer.Context) -> list[str]:
    """Every TARGET: nodes, their processes, and shards."""
    from config.process.names import SHARDWORKER, processes_of

    cluster = _cluster(ctx)
    processes = [str(name) for node in cluster.nodes for name in processes_of(cluster, node)]
    shards = [f"{SHARDWORKER.stem}-{number}" for number in range(1, cluster.shards + 1)]
    return [*cluster.nodes, *processes, *shards]


@_silent
def table_names(ctx: typer.Context) -> list[str]:
    """Of the cluster that answers at --endpoint."""
    os.environ["GRPC_VERBOSITY"] = "NONE"  # its own words would stand between those of the user
    from tools.admin.tables import TablesClient
    from tools.arguments import DEFAULT_ENDPOINT
    from tools.connection import given_connection
    from tools.tls_options import remember

    given: dict[str, Any] = ctx.params
    remember(given)
    connection = given_connection(given.get("endpoint") or DEFAULT_ENDPOINT)
    return [entry.name for entry in TablesClient(connection, TIMEOUT_S).list()]


def _cluster(ctx: typer.Context) -> ClusterConfig:
    from config.loading import load

    file = ctx.params.get("file")
    return load(None if file is None else Path(file))


def script(shell: str) -> str:
    """What a shell has to read so that Tab asks us. Shells: bash, zsh, fish."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer's own, of its options

    return str(get_completion_script(prog_name="boathouse", complete_var=VARIABLE, shell=shell))


def prepare() -> None:
    """Before a command line is parsed: if it is a shell that asks, let typer know how to answer each of them.

    It does so by itself only where its own options install completion, into files that are the user's."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
