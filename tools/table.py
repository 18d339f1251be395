"""`boathouse table`: the tables of a cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tools.kv import DEFAULT_ENDPOINT, EndpointOption, TimeoutOption
from tools.output import Output, print_json, print_table
from tools.tls_options import takes_tls

app = typer.Typer(help="Tables of a running cluster.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def table() -> None:
    """Tables of a running cluster."""


@app.command("list")
@takes_tls
def list_(
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: Annotated[Output, typer.Option("-o", "--output", help="table or json.")] = Output.TABLE,
) -> None:
    """List the tables by name, with their ids and shards."""
    rows = _tables(endpoint, timeout)
    if output is Output.JSON:
        return print_json(rows)
    print_table(["name", "id", "shard", "history"], rows)


def _tables(endpoint: str, timeout_s: float) -> list[dict[str, Any]]:
    """The catalog is a table like any other, so it is read like one."""
    from proto import catalog
    from proto.etcd import rpc_pb2 as rpc
    from tools.kv import open_client

    with open_client(endpoint, catalog.CATALOG_NAME, timeout_s) as client:
        response = client.range(rpc.RangeRequest(key=catalog.TABLES_PREFIX, range_end=catalog.TABLES_END))
    entries = [catalog.parse_row(kv.key, kv.value) for kv in response.kvs]
    return [
        {"name": entry.name, "id": entry.id, "shard": entry.shard, "history": entry.history_word}
        for entry in entries
    ]
