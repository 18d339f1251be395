"""What lies in a replica's folder, by name.

    lock                        held by the process that has the replica open
    replica-00000001.db         the database, with SQLite's -wal and -shm beside it
    replica-00000002.db         its successor, once a snapshot was installed
    snapshot-<number>.tmp       a copy for a peer; means nothing to this replica
    receive-<stream>.tmp        a copy being received
    lost-<replica>-<epoch>-...  a WAL that was found without its database; kept for whoever finds that

Beside the folder lies the record of its birth (birth.py).

The highest generation is the replica. A WAL is bound to its database by name only: SQLite would replay an old
one into a new file of the same name. So a database is never replaced under its name; an installed snapshot
gets a name that never existed before, and the one rename that gives it that name is the moment it becomes the
replica."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.store.files import Files

_DATABASE = re.compile(r"replica-(\d{8})\.db")
_REPLICA_FILE = re.compile(r"replica-(\d{8})\.db(-wal|-shm|-journal)?")
_COPY_BYTES = 1 << 20

_PASSING_FILE = re.compile(r"(snapshot|receive)-.*")


def database_file(folder: Path, generation: int) -> Path:
    return folder / f"replica-{generation:08d}.db"


def wal_of(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def side_files(file: Path) -> list[Path]:
    """What SQLite may keep beside a database file."""
    return [file.with_name(file.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


def current_generation(folder: Path, files: Files) -> int | None:
    """The generation that is the replica; None if there is none yet."""
    found = [int(match[1]) for name in files.names(folder) if (match := _DATABASE.fullmatch(name))]
    return max(found, default=None)


def set_logs_aside(folder: Path, files: Files, prefix: str) -> None:
    """Rename each WAL that holds anything: nobody takes it for that of another database, and nothing is lost of it."""
    for name in files.names(folder):
        match = _REPLICA_FILE.fullmatch(name)
        if match is not None and match[2] == "-wal" and files.size(folder / name):
            files.rename(folder / name, folder / f"{prefix}-{name}")
    files.sync_folder(folder)


def remove_database(folder: Path, generation: int, files: Files) -> None:
    """Remove a database and what SQLite kept beside it."""
    file = database_file(folder, generation)
    for path in (file, *side_files(file)):
        files.unlink(path)
    files.sync_folder(folder)


def clean_up(folder: Path, files: Files) -> int:
    """Remove what a crash left behind; returns the generation to open (1 for a new replica).

    Every removal is of a file nobody needs whatever happened, so this may crash and run again."""
    generation = current_generation(folder, files) or 1
    removed = False
    for name in files.names(folder):
        match = _REPLICA_FILE.fullmatch(name)
        if (match is not None and int(match[1]) != generation) or _PASSING_FILE.fullmatch(name):
            files.unlink(folder / name)
            removed = True
    if removed:
        files.sync_folder(folder)
    _save_wal(folder, generation, files)
    return generation


def _save_wal(folder: Path, generation: int, files: Files) -> None:
    """Write the WAL's bytes once more, and sync them and its name, before SQLite reads them.

    What is read back may never have reached the disk. A process killed between a write and its sync leaves bytes that
    only the kernel's cache holds; and after a sync that failed, Linux counts pages as saved that are not, so that
    later syncs succeed without them. SQLite takes such frames for committed, this replica would vouch for them to its
    peers, and a power cut would take them away with every frame behind them, synced or not. Bytes that are written
    anew are saved by the next sync. (Pages of the database file need no such care: a checkpoint that did not end is
    done again, from the WAL.)"""
    wal = wal_of(database_file(folder, generation))
    size = files.size(wal)
    if not size:
        return
    for offset in range(0, size, _COPY_BYTES):
        files.write(wal, offset, files.read(wal, offset, _COPY_BYTES))
    files.sync(wal)
    files.sync_folder(folder)
