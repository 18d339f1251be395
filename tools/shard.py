"""`boathouse shard`: who leads which shard, and moving that; and moving tables, so that all hold about as much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tools.admin.reach import Connection
from tools.arguments import FileArgument, OutputOption  # noqa: TC001 - typer reads annotations when it runs
from tools.completion import node_names, shard_numbers
from tools.connection import given_reach
from tools.failure import Failed, answered, in_words
from tools.lazy import command_group
from tools.output import Output, human_bytes, print_document, print_table
from tools.progress import working
from tools.tls_options import takes_tls

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig
    from tools.admin.shards import ShardView

app = command_group()

MOVE_CALL_TIMEOUT_S: Final = 30.0
"""Of one question how far a table's move is."""

COLUMNS: Final = "shard leader term replicas behind".split()
WIDE_COLUMNS: Final = "voters commit applied".split()


@app.command("list")
def list_(file: FileArgument = None, output: OutputOption = Output.TABLE) -> None:
    """List the shards: who leads each, and how far its replicas are."""
    from tools.admin.operate import shard_views

    cluster = _read(file)
    with working("asking the replicas of all shards"):
        documents = [document(each) for each in shard_views(cluster)]
    if output.is_document:
        return print_document(documents, output)
    print_table(output.columns(COLUMNS, WIDE_COLUMNS), [_row(each) for each in documents])


@app.command("move-leader")
def move_leader(
    shard: Annotated[int, typer.Argument(help="Number of the shard.", autocompletion=shard_numbers)],
    file: FileArgument = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Node to lead it; without one, the best.", autocompletion=node_names),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Have another replica lead a shard."""
    from tools.admin.operate import move_leader as run_move

    cluster = _read(file)
    if not 1 <= shard <= cluster.shards:
        raise typer.BadParameter(f"the cluster has shards 1 to {cluster.shards}", param_hint="SHARD")
    with in_words(), working(f"moving the leader of shard {shard}"):
        move = run_move(cluster, shard, to)
    if output.is_document:
        return print_document({"shard": move.shard, "from": move.source, "to": move.target}, output)
    if move.source == move.target:
        typer.echo(f"shard {shard} is led by {move.target} already")
    else:
        typer.echo(f"shard {shard} is led by {move.target} now, before by {move.source}")


@app.command()
def balance(
    file: FileArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Spread the leaders of all shards evenly over the nodes."""
    from tools.admin.operate import move_leader as run_move
    from tools.admin.operate import present_views
    from tools.admin.shards import plan_balance

    cluster = _read(file)
    now, views = present_views(cluster)
    moves = plan_balance(views, list(now.nodes))
    if not output.is_document and not moves:
        typer.echo("the leaders are spread as evenly as they can be")
    for move in moves:
        if not dry_run:
            with in_words(), working(f"moving the leader of shard {move.shard} to {move.target}"):
                run_move(cluster, move.shard, move.target)
        if not output.is_document:
            typer.echo(f"shard {move.shard}: {move.source} -> {move.target}")
    if output.is_document:
        print_document(
            [{"shard": move.shard, "from": move.source, "to": move.target} for move in moves], output
        )


@app.command()
@takes_tls
def rebalance(
    file: FileArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move tables until all shards hold about as much, one after the other; no request fails."""
    from tools.admin.moves import move_table
    from tools.admin.operate import shard_views
    from tools.admin.rebalance import NotKnown, placed_tables, plan_rebalance
    from tools.admin.tables import TablesClient

    cluster = _read(file)
    try:
        tables = placed_tables(shard_views(cluster))
    except NotKnown as unknown:
        raise Failed(str(unknown)) from None
    moves = plan_rebalance(tables, range(1, cluster.shards + 1))
    if not output.is_document and not moves:
        typer.echo("the tables are spread as evenly as they can be")
    client = TablesClient(_connection(cluster), MOVE_CALL_TIMEOUT_S)
    for move in moves:
        if not dry_run:
            with answered(), working(f"moving table {move.table} to shard {move.target}") as say:
                move_table(client, move.table, move.target, say)
        if not output.is_document:
            size = human_bytes(move.size_bytes)
            typer.echo(f"table {move.table} ({size}): shard {move.source} -> {move.target}")
    if output.is_document:
        rows = [
            {"table": move.table, "bytes": move.size_bytes, "from": move.source, "to": move.target}
            for move in moves
        ]
        print_document(rows, output)


def _connection(cluster: ClusterConfig) -> Connection:
    """All of the file's coordinators."""
    reach = given_reach(is_secure=cluster.tls.client is not None)
    return Connection(
        tuple(node.client_endpoint for node in cluster.nodes.values()), reach.credentials, reach.token
    )


def _read(file: Path | None) -> ClusterConfig:
    from tools.cluster_file import read_cluster

    return read_cluster(file)


def document(shard: ShardView) -> dict[str, Any]:
    """A shard, for programs."""
    leader = shard.leader
    return {
        "shard": shard.shard,
        "leader": leader.node if leader is not None else None,
        "term": shard.answers[leader].term if leader is not None else None,
        "voters": [name.node for name in shard.voters],
        "commit": shard.answers[leader].commit_index if leader is not None else None,
        "replicas": [
            {
                "node": name.node,
                "answers": name in shard.answers,
                "behind": shard.lag(name),
                "applied": shard.answers[name].applied_index if name in shard.answers else None,
                "serves": shard.serves(name),
            }
            for name in shard.replicas
        ],
    }


def _row(document: dict[str, Any]) -> dict[str, Any]:
    replicas = document["replicas"]
    return document | {
        "replicas": " ".join(replica["node"] for replica in replicas),
        "voters": " ".join(document["voters"]),
        "applied": " ".join(
            f"{replica['node']}:{replica['applied']}" for replica in replicas if replica["answers"]
        ),
        "behind": " ".join(
            f"{replica['node']}:{'away' if not replica['answers'] else replica['behind']}"
            for replica in replicas
            if not replica["answers"] or replica["behind"]
        ),
    }
