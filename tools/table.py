"""`boathouse table`: the tables of a cluster."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.arguments import DEFAULT_ENDPOINT, EndpointOption, OutputOption, TimeoutOption
from tools.completion import table_names
from tools.connection import given_connection
from tools.failure import Failed, answered
from tools.lazy import command_group
from tools.output import Output, human_bytes, print_document, print_table
from tools.progress import working
from tools.tls_options import takes_tls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proto.catalog import TableEntry
    from tools.admin.tables import TableDescription, TablesClient

app = command_group()

NewNameArgument = Annotated[str, typer.Argument(help="Table.")]
NameArgument = Annotated[str, typer.Argument(help="Table.", autocompletion=table_names)]

COLUMNS = ["name", "id", "shard", "type", "history", "owner", "quota"]
WIDE_COLUMNS = ["keys", "revision", "leader", "shard_bytes"]


def _check_history(value: str) -> str:
    from config.values import is_history

    if not is_history(int(value) if value.isascii() and value.isdigit() else value):
        raise typer.BadParameter("all, none, or a number of revisions from 1")
    return value


def _check_quota(value: str | None) -> str | None:
    from config.values import QUOTA_WORDS

    if value is not None and _quota(value) is None:
        raise typer.BadParameter(QUOTA_WORDS)
    return value


def _quota(value: str) -> int | None:
    from config.values import quota_of

    return quota_of(int(value) if value.isascii() and value.isdigit() else value)


@app.command()
@takes_tls
def create(
    name: NewNameArgument,
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
    quota: Annotated[
        str | None,
        typer.Option(
            "--quota",
            callback=_check_quota,
            help="What it may hold: none, or bytes, also as 2GiB. Default: limits.table_quota of the cluster file.",
        ),
    ] = None,
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
        quota=None if quota is None else _quota(quota),
    )
    with _client(endpoint, timeout) as client:
        table_id = client.create(name, settings)
    if output.is_document:
        return print_document({"name": name, "id": table_id}, output)
    typer.echo(f"created table {name} with id {table_id}")


@app.command()
@takes_tls
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
    try:
        with _client(endpoint, timeout) as client:
            client.delete(name)
    except Failed as error:
        from proto.errors import COPY_NOT_DELETED

        if COPY_NOT_DELETED not in str(error):
            raise
        raise Failed(
            f"table {name} is a copy: delete it in the cluster that is copied, and it goes here too"
        ) from None
    if output.is_document:
        return print_document({"name": name}, output)
    typer.echo(f"deleted table {name}")


@app.command()
@takes_tls
def move(
    name: NameArgument,
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="Number of the shard where it is to be.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Let a table that is on its way stay.")] = False,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move a table to another shard while it is used; no request fails. What was begun goes on without this command."""
    from tools.admin.moves import move_table

    if (to is None) != cancel:
        raise typer.BadParameter("give either --to SHARD or --cancel", param_hint="--to")
    if to is None:
        with _client(endpoint, timeout) as client:
            client.cancel_move(name)
        if output.is_document:
            return print_document({"name": name}, output)
        typer.echo(f"table {name} stays")
        return
    with working(f"moving table {name} to shard {to}") as say, _client(endpoint, timeout) as client:
        moved = move_table(client, name, to, say)
    if output.is_document:
        return print_document({"name": name, "shard": to, "seconds": round(moved.seconds, 3)}, output)
    typer.echo(
        f"table {name} is in shard {to}" + (f" after {moved.seconds:.1f} s" if moved.is_new else " already")
    )


@app.command("list")
@takes_tls
def list_(
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the tables by name, with what they were made with; wide: also how they are now."""
    with _client(endpoint, timeout) as client:
        entries = client.list()
        if output is Output.WIDE:
            described = [_description(client.describe(entry)) for entry in entries]
            rows = [row | {"shard_bytes": human_bytes(row["shard_bytes"])} for row in described]
        else:
            rows = [_row(entry) for entry in entries]
    if output.is_document:
        return print_document(rows, output)
    rows = [row | {"quota": _quota_in_words(row["quota"])} for row in rows]
    print_table(output.columns(COLUMNS, WIDE_COLUMNS), rows)


@app.command()
@takes_tls
def describe(
    name: NameArgument,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a table was made with, and how it is now."""
    with _client(endpoint, timeout) as client:
        entry = next((entry for entry in client.list() if entry.name == name), None)
        if entry is None:
            raise Failed(f"there is no table {name}")
        row = _description(client.describe(entry))
    if output.is_document:
        return print_document(row, output)
    row |= {"quota": _quota_in_words(row["quota"]), "shard_bytes": human_bytes(row["shard_bytes"])}
    print_table(["what", "value"], [{"what": what, "value": value} for what, value in row.items()])


@contextlib.contextmanager
def _client(endpoint: str, timeout_s: float) -> Iterator[TablesClient]:
    """Whoever waits for it at a terminal is told."""
    from tools.admin.tables import TablesClient

    with answered(), working(f"waiting for {endpoint}"):
        yield TablesClient(given_connection(endpoint), timeout_s)


def _row(entry: TableEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "id": entry.id,
        "shard": entry.shard,
        "type": entry.type,
        "history": entry.history_word,
        "owner": entry.owner,
        "quota": entry.quota,
    }


def _quota_in_words(quota: int | None) -> str | None:
    return human_bytes(quota) if quota else "none" if quota == 0 else None


def _description(found: TableDescription) -> dict[str, Any]:
    return _row(found.entry) | {
        "keys": found.keys,
        "revision": found.revision,
        "leader": found.leader,
        "shard_bytes": found.shard_bytes,
    }
