"""A folder with a backup: Regatta's manifest and files, and what boathouse adds to both.

`manifest.json` names a file for each table, `<table>.bak` as a rule, with its MD5. Regatta's own tool reads that, and
passes over the rest: a table's facts at its revision, SHA-256s, and the files with what has changed since
(`<table>.<revision>.inc`), to be restored behind the first one, in order. `boathouse` says the format, and has the
SHA-256 of the whole manifest without it, so that a manifest is what was written or nothing.

Whatever is written gets its name once all of it is on the disk, and a manifest takes the place of the one before last
of all. So a folder holds at any moment the backup of before or the new one, and nothing else that anybody would read.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from config.durable_files import sync_folder
from proto.regatta import maintenance_pb2 as maintenance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
UNFINISHED: Final = "manifest.unfinished.json"
"""What an interrupted backup had done."""
FILE_NAME_BYTES_MAX: Final = 200
READ_BYTES: Final = 1 << 20

_TOP_KEYS: Final = {"started", "finished", "tables", "boathouse"}
_TABLE_KEYS: Final = {"name", "file_name", "md5", "type", "boathouse", "increments"}


class Unsound(Exception):
    """The folder holds no backup, or a damaged one; a sentence says what is wrong with what."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A file of records."""

    file_name: str
    md5: str
    """Of the file, in hexadecimal, like the next."""
    sha256: str = ""
    """Empty: Regatta has made it."""
    facts: maintenance.Facts | None = None
    """What the table was when the file was made, and is with it and those before. None: Regatta has made it."""


@dataclass(frozen=True, slots=True)
class SavedTable:
    """A table's files, the full one first."""

    name: str
    pieces: Sequence[Piece]

    @property
    def facts(self) -> maintenance.Facts | None:
        """What the table was when it was saved last."""
        return self.pieces[-1].facts


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder holds."""

    started: str
    """RFC 3339, like the next."""
    finished: str
    tables: Mapping[str, SavedTable] = field(default_factory=dict)

    def with_table(self, table: SavedTable) -> Manifest:
        """The same with this one, in the place of what it had of that name."""
        return replace(self, tables={**self.tables, table.name: table})

    @property
    def file_names(self) -> frozenset[str]:
        """Of all pieces."""
        return frozenset(piece.file_name for table in self.tables.values() for piece in table.pieces)


# ---- the manifest -------------------------------------------------------------------------------------------------


def read_manifest(folder: Path, name: str = MANIFEST) -> Manifest:
    """Raises Unsound for what no backup has written, FileNotFoundError, OSError."""
    raw = (folder / name).read_bytes()
    try:
        document = json.loads(raw)
        _check_keys(document, _TOP_KEYS, "manifest")
        if "boathouse" in document and _render(document) != raw:
            raise Unsound("it was changed after it had been written")
        tables = [_table(row) for row in document["tables"] or ()]
        manifest = Manifest(
            document["started"], document["finished"], {table.name: table for table in tables}
        )
    except Unsound as error:
        raise Unsound(f"{folder / name}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unsound(f"{folder / name} is no manifest: {error}") from None
    if len(tables) != len(manifest.tables):
        raise Unsound(f"{folder / name} names a table twice")
    return manifest


def write_manifest(folder: Path, manifest: Manifest, name: str = MANIFEST) -> None:
    """On the disk, in the place of the one before, when it returns. Raises OSError."""
    rows = [_row(manifest.tables[table]) for table in sorted(manifest.tables)]
    document = {
        "started": manifest.started,
        "finished": manifest.finished,
        "tables": rows,
        "boathouse": {"format": FORMAT},
    }
    with writing(folder, name) as write:
        write(_render(document))


def _render(document: dict[str, Any]) -> bytes:
    """As it is written, whatever SHA-256 it came with. Raises Unsound for another format."""
    own = document["boathouse"]
    _check_keys(own, {"format", "sha256"}, "boathouse")
    if own["format"] != FORMAT:
        raise Unsound(f"it has format {own['format']}; this version reads format {FORMAT}")
    rest = {key: value for key, value in document.items() if key != "boathouse"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    whole = rest | {"boathouse": {"format": FORMAT, "sha256": digest}}
    return json.dumps(whole, indent=2, ensure_ascii=False).encode() + b"\n"


def _check_keys(document: Any, known: set[str], what: str) -> None:
    if not isinstance(document, dict):
        raise Unsound(f"{what} is no object")
    unknown = sorted(set(document) - known)
    if unknown:
        raise Unsound(f"nobody has written {unknown[0]!r} into {what}")


def _row(table: SavedTable) -> dict[str, Any]:
    first, *increments = table.pieces
    row = {"name": table.name, **_piece_row(first)}
    if increments:
        row["increments"] = [_piece_row(piece) for piece in increments]
    return row


def _piece_row(piece: Piece) -> dict[str, Any]:
    row: dict[str, Any] = {"file_name": piece.file_name, "md5": piece.md5}
    if piece.facts is not None:
        facts = piece.facts
        row["boathouse"] = {
            "sha256": piece.sha256,
            "cluster": facts.cluster,
            "table_id": facts.table_id,
            "revision": facts.revision,
            "checksum": f"{facts.checksum:016x}",
            "keys": facts.keys,
            "history": facts.history,
            "local": facts.local,
            "owner": facts.owner,
            "extras": base64.b64encode(facts.extras).decode(),
        }
        if facts.HasField("quota"):
            row["boathouse"]["quota"] = facts.quota
    return row


def _table(row: Any) -> SavedTable:
    _check_keys(row, _TABLE_KEYS, "a table")
    return SavedTable(str(row["name"]), [_piece(row), *(_piece(one) for one in row.get("increments", ()))])


def _piece(row: Any) -> Piece:
    name = str(row["file_name"])
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise Unsound(f"{name!r} is no name of a file in its folder")
    if "boathouse" not in row:
        return Piece(name, str(row["md5"]))
    own = row["boathouse"]
    facts = maintenance.Facts(
        cluster=own["cluster"],
        table_id=own["table_id"],
        revision=own["revision"],
        checksum=int(own["checksum"], 16),
        keys=own["keys"],
        history=own["history"],
        local=own["local"],
        owner=own["owner"],
        extras=base64.b64decode(own["extras"], validate=True),
        quota=own.get("quota"),
    )
    return Piece(name, str(row["md5"]), str(own["sha256"]), facts)


# ---- files --------------------------------------------------------------------------------------------------------


def file_name(table: str, table_id: int, ending: str) -> str:
    """For a file of this table. Most names of tables are fit for one."""
    name = f"{table}.{ending}"
    is_fit = len(name.encode()) <= FILE_NAME_BYTES_MAX and not name.startswith(".")
    return name if is_fit else f"table-{table_id}.{ending}"


def _for_its_owner(path: str, flags: int) -> int:
    """Opens a new file that nobody else can ever have opened."""
    return os.open(path, flags | os.O_EXCL, 0o600)


@contextlib.contextmanager
def writing(folder: Path, name: str) -> Iterator[Callable[[bytes], object]]:
    """Writes a file, which has its name, and is on the disk, once the block has ended well. Raises OSError."""
    partial = folder / f"{name}.part"
    partial.unlink(missing_ok=True)  # of a run that was killed
    try:
        with open(partial, "wb", opener=_for_its_owner) as out:
            yield out.write
            out.flush()
            os.fsync(out.fileno())
        partial.replace(folder / name)
        sync_folder(folder)
    finally:
        partial.unlink(missing_ok=True)


def read_pieces(folder: Path, table: SavedTable) -> Iterator[bytes]:
    """All bytes of a table's files, in order. Raises OSError."""
    for piece in table.pieces:
        with (folder / piece.file_name).open("rb") as opened:
            while data := opened.read(READ_BYTES):
                yield data


def size_bytes(folder: Path, table: SavedTable) -> int:
    """Of all of a table's files. Raises OSError."""
    return sum((folder / piece.file_name).stat().st_size for piece in table.pieces)


def check_table(folder: Path, table: SavedTable) -> None:
    """Reads every byte of a table's files. Raises Unsound if one is not what was written, OSError."""
    for piece in table.pieces:
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        try:
            with (folder / piece.file_name).open("rb") as opened:
                while data := opened.read(READ_BYTES):
                    md5.update(data)
                    sha256.update(data)
        except FileNotFoundError:
            raise Unsound(f"table {table.name!r}: file {piece.file_name!r} is missing") from None
        if md5.hexdigest() != piece.md5 or piece.sha256 not in ("", sha256.hexdigest()):
            raise Unsound(f"table {table.name!r} file {piece.file_name!r} corrupted (checksum mismatch)")
