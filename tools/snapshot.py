"""`boathouse snapshot`: files of tables, as `etcdctl snapshot save` makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path  # noqa: TC003 - typer reads it from the annotation
from typing import Annotated, Any

import typer

from tools.failure import Failed
from tools.output import Output, human_bytes, print_json

app = typer.Typer(
    help="Files of tables, as `etcdctl snapshot save` makes them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def snapshot() -> None:
    """Files of tables, as `etcdctl snapshot save` makes them."""


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What etcdctl has saved.")],
    output: Annotated[Output, typer.Option("-o", "--output", help="table or json.")] = Output.TABLE,
) -> None:
    """Read every byte of a snapshot of a table, and say what is in it."""
    found = read_snapshot(file)
    if output is Output.JSON:
        print_json(found)
        return
    size = human_bytes(found["size_bytes"])
    typer.echo(f"{file}: {size}, sound: table {found['table']} at revision {found['revision']}")
    for name in ("keys", "changes", "compacted_revision", "history", "format", "sha256"):
        typer.echo(f"  {name.replace('_', ' '):<18} {found[name]}")


def read_snapshot(file: Path) -> dict[str, Any]:
    """What shardworker.table_file finds, with its fields. Raises Failed if the file is not sound."""
    reader = subprocess.run(  # noqa: S603 -- this interpreter, our own module
        [sys.executable, "-P", "-m", "shardworker.table_file", str(file)], capture_output=True, check=False
    )
    if reader.returncode != 0:
        raise Failed(f"{file} can't be checked: {reader.stderr.decode(errors='replace').strip()[-500:]}")
    found: dict[str, Any] = json.loads(reader.stdout)
    if "error" in found:
        raise Failed(found["error"])
    return found
