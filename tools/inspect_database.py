"""`boathouse inspect`: what is in a replica's database, and is it sound? Offline, and never writing to it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import typer

from tools.admin.inspection import NotInspected, read_inspection
from tools.failure import Failed
from tools.output import Output, human_bytes, print_document, print_table
from tools.progress import working

if TYPE_CHECKING:
    from pathlib import Path


def inspect(path: Path, output: Output) -> None:
    """Print what is in the database `path`, a file or a replica's folder.

    Raises Failed if there is none, or if it is not sound."""
    try:
        with working(f"reading {path}"):
            found = read_inspection(path)
    except NotInspected as error:
        raise Failed(str(error)) from None
    if output.is_document:
        print_document(found, output)
    else:
        _print(found)
    if found["problems"]:
        count = len(found["problems"])
        raise Failed(f"{found['file']} is not sound: {count} {'problem' if count == 1 else 'problems'}")


def print_requests(path: Path) -> None:
    """Print the requests in the log of a replica's database, a line of JSON for each. Raises Failed."""
    reader = subprocess.run(  # noqa: S603 -- this interpreter, our own module
        [sys.executable, "-P", "-m", "shardworker.request_log", str(path)],
        stderr=subprocess.PIPE,
        check=False,
    )
    if reader.returncode != 0:
        raise Failed(f"{path} cannot be read: {reader.stderr.decode(errors='replace').strip()[-500:]}")


def _print(found: dict[str, Any]) -> None:
    typer.echo(f"{found['file']}: {human_bytes(found['size_bytes'])}, WAL {human_bytes(found['wal_bytes'])}")
    for name, value in found["replica"].items():
        shown = _in_a_cell(value)
        typer.echo(f"  {name.replace('_', ' '):<16} {'-' if shown == '' else shown}")
    if found["members"]:
        typer.echo("")
        columns = ["node", "name", "peer_urls", "client_urls"]
        print_table(columns, [_in_cells(member) for member in found["members"]])
    if found["tables"]:
        typer.echo("")
        print_table(list(found["tables"][0]), found["tables"])
    if found["storage"]:
        typer.echo("")
        print_table(["name", "rows", "columns"], found["storage"])
    typer.echo("")
    for problem in found["problems"]:
        typer.echo(f"problem: {problem}")
    if not found["problems"]:
        typer.echo("sound: pages, checksums, log and positions agree")


def _in_cells(member: dict[str, Any]) -> dict[str, Any]:
    return {name: _in_a_cell(value) for name, value in member.items()}


def _in_a_cell(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value
