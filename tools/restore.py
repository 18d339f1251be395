"""`boathouse restore`: saved tables in the place of what a cluster holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.arguments import DEFAULT_ENDPOINT, EndpointOption, OutputOption
from tools.backup_options import (
    LIST_TIMEOUT_S,
    DirOption,
    RateOption,
    TablesOption,
    in_words,
    rate_of,
    speed,
)
from tools.bars import bars
from tools.connection import given_connection
from tools.failure import Failed, answered
from tools.output import Output, human_bytes, print_document
from tools.tls_options import takes_tls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tools.admin.backup import Restored
    from tools.admin.backup_folder import SavedTable

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@takes_tls
def restore(
    folder: DirOption,
    tables: TablesOption = None,
    name: Annotated[
        str | None, typer.Option("--as", help="Restore the one --table under this name instead.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Yes, in the place of what these tables hold now.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Only read every byte of the backup.")] = False,
    rate: RateOption = "",
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put saved tables in the place of what the cluster's tables of these names hold; those that are missing are made.

    All files are checked before the first byte is sent. A table is replaced at once when all of it has come, and stays
    as it is if that fails. Its revision goes on rising, and nothing older can be read."""
    if name is not None and len(tables or ()) != 1:
        raise typer.BadParameter("goes with exactly one --table", param_hint="--as")
    with in_words():
        wanted = _checked(folder, tables)
        if verify:
            return _show_verified(folder, wanted, output)
        names = {table.name: name or table.name for table in wanted}
        if not yes:
            _refuse_filled(endpoint, list(names.values()))
        said = _restore(folder, wanted, names, endpoint, rate)
    if output.is_document:
        return print_document([_restored_row(one) for one in said], output)
    for one in said:
        typer.echo(_restored_line(one))


def _checked(folder: Path, names: Sequence[str] | None) -> list[SavedTable]:
    """The tables that are to be restored, every byte of theirs being what was written."""
    from tools.admin.backup_folder import check_table, read_manifest

    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        raise Failed(f"{folder} holds no backup: there is no manifest.json") from None
    for name in names or ():
        if name not in manifest.tables:
            raise Failed(f"{folder} holds no table {name}")
    wanted = [table for name, table in sorted(manifest.tables.items()) if not names or name in names]
    for table in wanted:
        check_table(folder, table)
    return wanted


def _show_verified(folder: Path, tables: Sequence[SavedTable], output: Output) -> None:
    from tools.admin.backup_folder import size_bytes

    rows: list[dict[str, Any]] = [
        {
            "table": table.name,
            "revision": None if table.facts is None else table.facts.revision,
            "keys": None if table.facts is None else table.facts.keys,
            "files": len(table.pieces),
            "size_bytes": size_bytes(folder, table),
        }
        for table in tables
    ]
    if output.is_document:
        return print_document(rows, output)
    for row in rows:
        told = (
            "made by Regatta"
            if row["revision"] is None
            else f"{row['keys']} keys at revision {row['revision']}"
        )
        typer.echo(f"{row['table']}: sound, {told}, {human_bytes(row['size_bytes'])} in {row['files']} files")


def _refuse_filled(endpoint: str, names: Sequence[str]) -> None:
    """Raises Failed if one of these tables holds anything."""
    from tools.admin.tables import TablesClient

    client = TablesClient(given_connection(endpoint), LIST_TIMEOUT_S)
    with answered():
        counts = {entry.name: client.describe(entry).keys for entry in client.list() if entry.name in names}
    for name, keys in counts.items():
        if keys:
            raise Failed(f"table {name} holds {keys} keys, which would be replaced; --yes does it")


def _restore(
    folder: Path, tables: Sequence[SavedTable], names: dict[str, str], endpoint: str, rate: str
) -> list[Restored]:
    from tools.admin.backup import BackupClient

    said: list[Restored] = []
    with BackupClient(given_connection(endpoint)) as client, bars("restoring", "bytes") as progress:
        for table in tables:
            try:
                said.append(
                    client.restore(folder, table, names[table.name], rate=rate_of(rate), progress=progress)
                )
            except Exception:
                done = ", ".join(one.table for one in said) or "none"
                typer.echo(f"boathouse: tables that were restored before: {done}", err=True)
                raise
    return said


def _restored_row(one: Restored) -> dict[str, Any]:
    return {
        "table": one.table,
        "revision": one.revision,
        "keys": one.keys,
        "size_bytes": one.size_bytes,
        "seconds": round(one.seconds, 3),
    }


def _restored_line(one: Restored) -> str:
    if one.keys is None:
        return f"restored {one.table} from {human_bytes(one.size_bytes)} in {one.seconds:.1f} s"
    return f"restored {one.table} at revision {one.revision}: {one.keys} keys, {speed(one.keys, one.seconds)}"
