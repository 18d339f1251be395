"""`boathouse snapshot`: files of tables, as `etcdctl snapshot save` makes them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path  # noqa: TC003 - typer reads it from the annotation
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from tools.arguments import DEFAULT_ENDPOINT, EndpointOption, OutputOption, TimeoutOption
from tools.failure import Failed
from tools.lazy import command_group
from tools.output import Output, human_bytes, print_document
from tools.progress import working
from tools.tls_options import takes_tls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proto.boathouse import restore_pb2 as load

LOAD_BYTES: Final = 1 << 20
"""Of one piece of a table that is restored, about."""

app = command_group()


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What etcdctl has saved.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Read every byte of a snapshot of a table, and say what is in it."""
    found = read_snapshot(file)
    if output.is_document:
        print_document(found, output)
        return
    size = human_bytes(found["size_bytes"])
    typer.echo(f"{file}: {size}, sound: table {found['table']} at revision {found['revision']}")
    for name in (
        "keys",
        "changes",
        "leases",
        "users",
        "roles",
        "compacted_revision",
        "history",
        "format",
        "sha256",
    ):
        typer.echo(f"  {name.replace('_', ' '):<18} {found[name]}")


@app.command()
@takes_tls
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What etcdctl has saved.")],
    table: Annotated[str, typer.Option("--table", help="The table to fill; a new one, with nothing in it.")],
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Fill a new table with what a snapshot holds: all of its past, at the same revisions, its leases with what was
    left of them, its users and roles.

    Let nobody write to the table until this has ended."""
    from tools.kv import open_client

    revision = 0
    loaded_bytes = 0
    with (
        working(f"reading {file}") as say,
        _reader(file, LOAD_BYTES) as (_, pieces),
        open_client(endpoint, table, timeout) as client,
    ):
        for piece in pieces:
            revision = client.load(piece).revision
            loaded_bytes += piece.ByteSize()
            say(f"restored {human_bytes(loaded_bytes)} into table {table}")
    typer.echo(f"table {table} is at revision {revision}, as the one in {file}")


def read_snapshot(file: Path) -> dict[str, Any]:
    """What shardworker.table_file finds, with its fields. Raises Failed if the file is not sound."""
    with working(f"reading {file}"), _reader(file) as (found, _):
        return found


@contextlib.contextmanager
def _reader(
    file: Path, piece_bytes: int | None = None
) -> Iterator[tuple[dict[str, Any], Iterator[load.LoadRequest]]]:
    """What is in a file, and its pieces if they are to be of some size. Raises Failed if the file is not sound."""
    words = [sys.executable, "-P", "-m", "shardworker.table_file", str(file)]
    if piece_bytes is not None:
        words.append(str(piece_bytes))
    with subprocess.Popen(words, stdout=subprocess.PIPE) as reader:  # noqa: S603 -- this interpreter, our own module
        assert reader.stdout is not None
        try:
            said = reader.stdout.readline()
            if not said:
                raise Failed(f"{file} can't be checked: the process that does it has failed")
            found: dict[str, Any] = json.loads(said)
            if "error" in found:
                raise Failed(found["error"])
            yield found, _pieces(reader.stdout)
        finally:
            reader.terminate()


def _pieces(stream: IO[bytes]) -> Iterator[load.LoadRequest]:
    """The last one has the table's facts: a stream that is cut short leaves a table without them, and says so."""
    from proto.boathouse import restore_pb2 as load

    ended = False
    while not ended:
        size = int.from_bytes(stream.read(8))
        data = stream.read(size)
        if not size or len(data) < size:
            raise Failed(
                "the file's pieces end too early; the table is not whole: delete it and restore again"
            )
        piece = load.LoadRequest.FromString(data)
        ended = piece.HasField("facts")
        yield piece
