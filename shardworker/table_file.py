"""A table in a file: what `etcdctl snapshot save` gets of a table, and what it can be restored from.

The file is a SQLite database, and behind it the SHA-256 of all its bytes, which whoever sends it appends. `meta` holds
one row of facts, with the table's leases, users and roles; `changes` every change that could be read when the file was
made, as the state machine stores them: their order is their ids', and a key's newest change up to a revision is what
the key was then. So nothing else is needed, and nothing in it is a replica's own. FORMAT is the file's, and a reader
knows one.

`python -m shardworker.table_file FILE` checks a file and prints what is in it, as one JSON document.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw

from proto import errors
from proto.boathouse import restore_pb2 as restore
from proto.internal import frames_pb2 as frames
from shardworker.machine import Result
from shardworker.machine.auth_store import Kind
from shardworker.machine.statements import CHANGE_BYTES
from shardworker.machine.tables import SUB_BITS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

FORMAT: Final = 2
"""1 had no extras."""
APPLICATION_ID: Final = 0x62687466
"""bhtf in ASCII: a boathouse table's file."""
PAGE_BYTES: Final = 4_096
"""etcdctl wants a multiple of 512."""
PART_BYTES: Final = 1 << 20
DIGEST_BYTES: Final = 32

_SCHEMA: Final = """
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    compacted INTEGER NOT NULL,    -- -1 = never
    history INTEGER NOT NULL,
    keys INTEGER NOT NULL,         -- that exist at the revision
    changes INTEGER NOT NULL,      -- rows of the next
    extras BLOB NOT NULL           -- boathouse.internal.TableExtras: leases, users and roles
) STRICT;
CREATE TABLE changes (
    id INTEGER PRIMARY KEY,        -- revision << 24 | place within it
    key BLOB NOT NULL,
    kv BLOB                        -- a KeyValue with tag and length of RangeResponse.kvs; NULL = deleted
) STRICT;
"""


class Unsound(Exception):
    """The file is no table's, is of another format, or has been damaged; a sentence says which."""


# ---- making one ------------------------------------------------------------------------------------------------------


def stream(pieces: Generator[Result, None, None], file: Path) -> Generator[Result, None, None]:
    """Makes a table's file of its pieces, and gives it out: SnapshotParts, the first ones without data.

    Each step is a piece, or PART_BYTES of the file. The file is removed as soon as it is read or given up."""
    with contextlib.closing(pieces), contextlib.ExitStack() as cleaning:
        cleaning.callback(file.unlink, missing_ok=True)
        revision = 0
        try:
            with contextlib.closing(_create(file)) as database:
                for piece in pieces:
                    if piece.error is not None:
                        yield piece
                        return
                    revision = piece.revision
                    _add(database, frames.TablePiece.FromString(piece.body))
                    if piece.more:
                        yield Result(revision, b"", more=True)
                _finish(database)
        except errors.NoSpace as error:
            yield Result(revision, b"", error)
            return
        total_bytes = file.stat().st_size
        with file.open("rb") as opened:
            while data := opened.read(PART_BYTES):
                part = frames.SnapshotPart(total_bytes=total_bytes, data=data)
                yield Result(revision, part.SerializeToString(), more=opened.tell() < total_bytes)


@contextlib.contextmanager
def _refusable() -> Iterator[None]:
    """Around what writes to the file. Raises NoSpace if the disk takes no more; the replica's own files are others."""
    try:
        yield
    except (apsw.FullError, apsw.IOError, apsw.CantOpenError, OSError) as error:
        raise errors.NoSpace(f"the disk did not take the table's file: {error}") from error


@_refusable()
def _create(file: Path) -> apsw.Connection:
    file.touch(mode=0o600)
    database = apsw.Connection(str(file))
    # Nobody needs half of it: a crash leaves a file that the next start removes.
    database.execute(f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; BEGIN")
    database.execute(_SCHEMA)
    return database


@_refusable()
def _add(database: apsw.Connection, piece: frames.TablePiece) -> None:
    if piece.HasField("header"):
        header = piece.header
        row = (
            header.name, header.revision, header.compacted_revision, header.history, header.keys,
            header.extras.SerializeToString(),
        )  # fmt: skip
        database.execute("INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, 0, ?)", row)
    database.executemany(
        "INSERT INTO changes VALUES (?, ?, ?)",
        [(change.id, change.key, change.kv or None) for change in piece.changes],
    )


@_refusable()
def _finish(database: apsw.Connection) -> None:
    database.execute("UPDATE meta SET changes = (SELECT count(*) FROM changes)")
    database.execute("COMMIT")


# ---- reading one -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a file."""

    format: int
    table: str
    revision: int
    compacted_revision: int
    """-1 = never compacted."""
    history: int
    """-1 = all revisions, 0 = only the newest, n = the newest n."""
    keys: int
    changes: int
    leases: int
    users: int
    roles: int
    size_bytes: int
    sha256: str


def check(file: Path) -> Contents:
    """What is in the file, once every byte of it was read and found to be what was written. Raises Unsound, OSError."""
    sha256 = _check_digest(file)
    with contextlib.closing(_open(file)) as database:
        try:
            return _read(database, file, sha256)
        except apsw.Error as error:
            raise Unsound(f"{file} can't be read: {error}") from error


def _check_digest(file: Path) -> str:
    size_bytes = file.stat().st_size
    if size_bytes % 512 != DIGEST_BYTES:
        raise Unsound(f"{file} is cut short, or no snapshot: its length is not that of one")
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        left = size_bytes - DIGEST_BYTES
        while left and (data := opened.read(min(left, PART_BYTES))):
            digest.update(data)
            left -= len(data)
        if digest.digest() != opened.read():
            raise Unsound(f"{file} is damaged: its SHA-256 is not the one that stands at its end")
    return digest.hexdigest()


def _open(file: Path) -> apsw.Connection:
    # Immutable: no lock, no journal, and nobody looks behind the database's own end.
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"{file.resolve().as_uri()}?immutable=1", flags=flags)


def _read(database: apsw.Connection, file: Path, sha256: str) -> Contents:
    if database.pragma("application_id") != APPLICATION_ID:
        raise Unsound(f"{file} is no snapshot of a boathouse table")
    version = database.pragma("user_version")
    if version != FORMAT:
        raise Unsound(f"{file} has format {version}; this version reads format {FORMAT}")
    row: Any = database.execute(
        "SELECT name, revision, compacted, history, keys, changes, extras FROM meta"
    ).fetchone()
    if row is None:
        raise Unsound(f"{file} was not finished")
    name, revision, compacted, history, keys, changes, extras = row
    count, first, last = database.execute("SELECT count(*), min(id), max(id) FROM changes").get
    if count != changes or (count and not (1 << SUB_BITS <= first and last >> SUB_BITS <= revision)):
        raise Unsound(f"{file} contradicts itself: it tells of {changes} changes up to revision {revision}")
    held = frames.TableExtras.FromString(extras)
    kinds = Counter(row.kind for row in held.auth)
    return Contents(
        version, name, revision, compacted, history, keys, changes, len(held.leases), kinds[Kind.USER],
        kinds[Kind.ROLE], file.stat().st_size, sha256,
    )  # fmt: skip


def load_requests(file: Path, piece_bytes: int) -> Iterator[restore.LoadRequest]:
    """What makes a new table of a checked file: pieces of about piece_bytes, which cut no revision."""
    with contextlib.closing(_open(file)) as database:
        revision, compacted, keys, extras = database.execute(
            "SELECT revision, compacted, keys, extras FROM meta"
        ).get
        piece, size_bytes, last = restore.LoadRequest(), 0, 0
        for id_, key, kv in database.execute("SELECT id, key, kv FROM changes ORDER BY id"):
            if size_bytes >= piece_bytes and id_ >> SUB_BITS != last >> SUB_BITS:
                yield piece
                piece, size_bytes = restore.LoadRequest(after=last), 0
            piece.changes.add(id=id_, key=key, kv=kv or b"")
            size_bytes += len(key) + len(kv or b"") + CHANGE_BYTES
            last = id_
        facts = restore.Facts(revision=revision, compacted_revision=compacted, keys=keys, extras=extras)
        piece.facts.CopyFrom(facts)
        yield piece


def main(path: str, piece_bytes: str = "") -> None:
    """Print what is in the file, or {"error": sentence} if it is not sound. With piece_bytes write LoadRequests behind
    it, each with its length in eight bytes ahead."""
    try:
        document = dataclasses.asdict(check(Path(path)))
    except Unsound as error:
        document = {"error": str(error)}
    except OSError as error:
        document = {"error": f"{path} can't be read: {error.strerror}"}
    out = sys.stdout.buffer
    out.write(json.dumps(document).encode() + b"\n")
    if piece_bytes and "error" not in document:
        for request in load_requests(Path(path), int(piece_bytes)):
            data = request.SerializeToString()
            out.write(len(data).to_bytes(8) + data)


if __name__ == "__main__":
    main(*sys.argv[1:])
