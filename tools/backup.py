"""`boathouse backup`: tables in a folder, with the manifest and the files of Regatta's tool."""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import replace
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
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from proto.catalog import TableEntry
    from tools.admin.backup import Saved
    from tools.admin.backup_folder import Manifest

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@takes_tls
def backup(
    folder: DirOption,
    tables: TablesOption = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Add what has changed since the backup that is there.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted backup has ended.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Drop saved tables that the cluster has no longer.")
    ] = False,
    rate: RateOption = "",
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    output: OutputOption = Output.TABLE,
) -> None:
    """Save tables into a folder, each as it was at one moment.

    What is in the folder stays a whole backup until the new one is. Tables that the cluster has no longer stay in it
    until --prune. A table with a token is read with the one in BOATHOUSE_TOKEN, which may also be that of who runs the
    cluster."""
    with in_words():
        saving = _Saving(folder, endpoint, rate, incremental=incremental, resume=resume, prune=prune)
        said = saving.run(tables)
    if output.is_document:
        return print_document([_saved_row(one) for one in said], output)
    for one in said:
        typer.echo(_saved_line(one))


class _Saving:
    """One run of `boathouse backup`."""

    def __init__(
        self, folder: Path, endpoint: str, rate: str, *, incremental: bool, resume: bool, prune: bool
    ) -> None:
        self._folder = folder
        self._connection = given_connection(endpoint)
        self._rate = rate
        self._incremental = incremental
        self._resume = resume
        self._prune = prune

    def run(self, names: Sequence[str] | None) -> list[Saved]:
        """Save these tables, or all."""
        from config.durable_files import make_folder
        from tools.admin.backup import BackupClient
        from tools.admin.backup_folder import MANIFEST, UNFINISHED, write_manifest

        make_folder(self._folder)
        before = self._read(MANIFEST)
        begun = self._begun()
        entries = self._entries()
        for name in names or ():
            if name not in entries:
                raise Failed(f"there is no table {name}")
        said: list[Saved] = []
        todo = [
            entry
            for name, entry in sorted(entries.items())
            if (not names or name in names) and name not in begun.tables
        ]
        with (
            BackupClient(self._connection) as client,
            bars("saving", "keys") as progress,
            self._resumable(),
        ):
            for entry in todo:
                earlier = before.tables.get(entry.name) if self._incremental and before else None
                taken = begun.file_names | (before.file_names if before else frozenset())
                saved, one = client.save(
                    self._folder, entry, earlier, taken=taken, rate=rate_of(self._rate), progress=progress
                )
                said.append(one)
                begun = begun.with_table(saved)
                write_manifest(self._folder, begun, UNFINISHED)
        self._finish(self._with_kept(begun, before, entries), before)
        return said

    def _with_kept(self, begun: Manifest, before: Manifest | None, entries: Collection[str]) -> Manifest:
        """A folder holds one backup: what was not saved anew stays in it, also the last that is left of a table that
        was deleted, unless that is to go."""
        kept = {} if before is None else dict(before.tables)
        done = replace(begun, tables=kept | dict(begun.tables))
        gone = sorted(done.tables.keys() - set(entries))
        if gone and self._prune:
            typer.echo(f"dropped, since the cluster has no such tables: {', '.join(gone)}", err=True)
            return replace(done, tables={name: done.tables[name] for name in done.tables.keys() - set(gone)})
        if gone:
            typer.echo(
                f"kept as they were, since the cluster has no such tables: {', '.join(gone)}; "
                f"--prune drops them",
                err=True,
            )
        return done

    @contextlib.contextmanager
    def _resumable(self) -> Iterator[None]:
        """Says, if the block is left early, how to go on."""
        from tools.admin.backup_folder import UNFINISHED

        try:
            yield
        except BaseException:
            if (self._folder / UNFINISHED).exists():
                typer.echo("boathouse: interrupted; with --resume it goes on behind what is saved", err=True)
            raise

    def _read(self, name: str) -> Manifest | None:
        from tools.admin.backup_folder import read_manifest

        try:
            return read_manifest(self._folder, name)
        except FileNotFoundError:
            return None

    def _begun(self) -> Manifest:
        """What an interrupted backup had done, if this one goes on with it."""
        from tools.admin.backup_folder import UNFINISHED, Manifest, check_table

        unfinished = self._read(UNFINISHED)
        if not self._resume:
            return Manifest(_now(), "")
        if unfinished is None:
            raise Failed(f"{self._folder} holds no interrupted backup; start it without --resume")
        for table in unfinished.tables.values():
            check_table(self._folder, table)
        return unfinished

    def _entries(self) -> dict[str, TableEntry]:
        """All tables of the cluster, by name."""
        from tools.admin.tables import TablesClient

        with answered():
            return {entry.name: entry for entry in TablesClient(self._connection, LIST_TIMEOUT_S).list()}

    def _finish(self, begun: Manifest, before: Manifest | None) -> None:
        """The new manifest takes the place of the one before; then what nobody names any more goes."""
        from tools.admin.backup_folder import UNFINISHED, write_manifest

        done = replace(begun, finished=_now())
        write_manifest(self._folder, done)
        (self._folder / UNFINISHED).unlink(missing_ok=True)
        for name in (before.file_names if before else frozenset()) - done.file_names:
            (self._folder / name).unlink(missing_ok=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _saved_row(one: Saved) -> dict[str, Any]:
    return {
        "table": one.table,
        "revision": one.facts.revision,
        "keys": one.facts.keys,
        "incremental": not one.is_full,
        "why_full": one.why_full,
        "records": one.records,
        "size_bytes": one.size_bytes,
        "seconds": round(one.seconds, 3),
    }


def _saved_line(one: Saved) -> str:
    what = f"{one.records} keys" if one.is_full else f"{one.records} changes"
    why = f" (all of it: {one.why_full})" if one.why_full else ""
    took = speed(one.records, one.seconds)
    return f"saved {one.table} at revision {one.facts.revision}: {what}, {human_bytes(one.size_bytes)}, {took}{why}"
