"""`boathouse table`: the tables of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.failure import Failed
from tools.kv import DEFAULT_ENDPOINT, EndpointOption, TimeoutOption, given_endpoints
from tools.output import Output, human_bytes, print_json, print_table

if TYPE_CHECKING:
    from proto.catalog import TableEntry
    from tools.admin.tables import TablesClient

app = typer.Typer(help="Tables of a running cluster.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(help="Table.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="table or json.")]

COLUMNS = ["name", "id", "shard", "type", "history", "owner"]


@app.callback()
def table() -> None:
    """Tables of a running cluster."""


def _check_history(value: str) -> str:
    if value not in ("all", "none") and not (value.isascii() and value.isdigit() and int(value) >= 1):
        raise typer.BadParameter("all, none, or a number of revisions from 1")
    return value


@app.command()
def create(
    name: NameArgument,
    shard: Annotated[
        int | None, typer.Option("--shard", min=1, help="Where it lives. Default: where there is least.")
    ] = None,
    history: Annotated[
        str,
        typer.Option(
            "--history", callback=_check_history, help="Revisions kept readable: all, none, or a number."
        ),
    ] = "all",
    local: Annotated[bool, typer.Option("--local", help="Follower clusters leave it alone.")] = False,
    owner: Annotated[str, typer.Option("--owner", help="Whose it is, for people.")] = "",
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a table; it can be used on every node when this returns."""
    from proto.catalog import TableSettings, history_number
    from proto.ids import ShardId

    settings = TableSettings(
        shard=None if shard is None else ShardId(shard),
        history=history_number(history if history in ("all", "none") else int(history)),  # type: ignore[arg-type]
        is_local=local,
        owner=owner,
    )
    table_id = _client(endpoint, timeout).create(name, settings)
    if output is Output.JSON:
        return print_json({"name": name, "id": table_id})
    typer.echo(f"created table {name} with id {table_id}")


@app.command()
def delete(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, with all that is in it, for good.")] = False,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a table and all that is in it, for good."""
    if not yes:
        raise typer.BadParameter(
            f"table {name} and all that is in it would be gone for good", param_hint="--yes"
        )
    _client(endpoint, timeout).delete(name)
    if output is Output.JSON:
        return print_json({"name": name})
    typer.echo(f"deleted table {name}")


@app.command("list")
def list_(
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the tables by name, with what they were made with."""
    rows = [_row(entry) for entry in _client(endpoint, timeout).list()]
    if output is Output.JSON:
        return print_json(rows)
    print_table(COLUMNS, rows)


@app.command()
def describe(
    name: NameArgument,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a table was made with, and how it is now."""
    from tools.admin.tables import UnknownTable

    try:
        found = _client(endpoint, timeout).describe(name)
    except UnknownTable:
        raise Failed(f"there is no table {name}") from None
    row = _row(found.entry) | {
        "keys": found.keys,
        "revision": found.revision,
        "leader": found.leader,
        "shard_bytes": found.shard_bytes,
    }
    if output is Output.JSON:
        return print_json(row)
    row["shard_bytes"] = human_bytes(found.shard_bytes)
    print_table(["what", "value"], [{"what": what, "value": value} for what, value in row.items()])


def _client(endpoint: str, timeout_s: float) -> TablesClient:
    from tools.admin.tables import TablesClient

    return TablesClient(given_endpoints(endpoint), timeout_s)


def _row(entry: TableEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "id": entry.id,
        "shard": entry.shard,
        "type": entry.type,
        "history": entry.history_word,
        "owner": entry.owner,
    }
