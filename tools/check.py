"""`boathouse check`: is this cluster file fine, and what does it mean?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from tools.cluster_file import read_cluster_to_start
from tools.output import Output, print_json, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig


def check(file: Path, output: Output) -> None:
    """Print the placement that follows from a file. Raises Failed with every problem of the file."""
    cluster = read_cluster_to_start(file)
    if output is Output.JSON:
        return print_json(cluster.model_dump(mode="json") | {"placement": _placement(cluster)})
    typer.echo(f"{file}: fine; cluster {cluster.cluster}, data in {cluster.data_dir}")
    if cluster.follows is not None:
        typer.echo(f"follows {cluster.follows}, whose tables it copies")
    print_table(
        ["shard", "nodes", "tables"],
        [
            row | {"nodes": " ".join(row["nodes"]), "tables": " ".join(row["tables"])}
            for row in _placement(cluster)
        ],
    )


def _placement(cluster: ClusterConfig) -> list[dict[str, Any]]:
    return [
        {
            "shard": shard,
            "nodes": [node.name for node in cluster.replica_nodes(shard)],
            "tables": [name for name, table in cluster.tables.items() if table.shard == shard],
        }
        for shard in range(1, cluster.shards + 1)
    ]
