"""`boathouse check`: is this cluster file fine, and what does it mean?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer

from tools.cluster_file import read_cluster_to_start
from tools.output import Output, print_document, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig


NODE_COLUMNS: Final = "node host client http peer folder".split()


def check(file: Path, node: str | None, output: Output) -> None:
    """Print the placement that follows from a file. Raises Failed with every problem of the file, and of the
    certificates and keys of this node, or of those with a loopback host."""
    cluster = read_cluster_to_start(file, node)
    if node is not None and node not in cluster.nodes:
        raise typer.BadParameter(f"cluster {cluster.cluster} has no node {node}", param_hint="--node")
    if node is None and not any(each.is_loopback for each in cluster.nodes.values()):
        typer.echo(
            "certificates, keys and tokens were not looked for: every node has a host of its own; "
            "--node NAME looks for those of the node that runs here",
            err=True,
        )
    if output.is_document:
        return print_document(cluster.model_dump(mode="json") | {"placement": _placement(cluster)}, output)
    typer.echo(f"{file}: fine; cluster {cluster.cluster}, data in {cluster.data_dir}")
    if cluster.follows is not None:
        typer.echo(f"follows {cluster.follows}, whose tables it copies")
    if output is Output.WIDE:
        print_table(NODE_COLUMNS, [_node(cluster, node) for node in cluster.nodes])
    print_table(
        ["shard", "nodes", "tables"],
        [
            row | {"nodes": " ".join(row["nodes"]), "tables": " ".join(row["tables"])}
            for row in _placement(cluster)
        ],
    )


def _node(cluster: ClusterConfig, name: str) -> dict[str, Any]:
    node = cluster.node(name)
    ports = {"client": node.client_port, "http": node.http_port, "peer": node.peer_port}
    return {"node": name, "host": node.host, **ports, "folder": cluster.node_dir(name)}


def _placement(cluster: ClusterConfig) -> list[dict[str, Any]]:
    return [
        {
            "shard": shard,
            "nodes": [node.name for node in cluster.replica_nodes(shard)],
            "tables": [name for name, table in cluster.tables.items() if table.shard == shard],
        }
        for shard in range(1, cluster.shards + 1)
    ]
