"""A whole table at one revision, with all of the past that can be read there, piece by piece.

What a replica has not swept yet is left out, so that the pieces say the same on every replica: below the floor, of each
key its newest change, and no tombstones but those of the floor's own revision, which a watch from there on is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proto.internal import frames_pb2 as frames
from shardworker.machine.backup.extras import extras_of
from shardworker.machine.tables import SUB_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shardworker.machine.view import View

PIECE_ROWS: Final = 2_000
PIECE_BYTES: Final = 4 << 20
"""A piece ends behind so many rows or bytes, whichever come first."""


def pieces(view: View, left: Mapping[int, int]) -> Iterator[tuple[bytes, bool]]:
    """TablePieces: the header, then all changes; the last piece is empty. left: seconds, by lease."""
    table = view.table
    header = frames.TableHeader(
        name=table.name,
        revision=table.revision,
        compacted_revision=table.floor,
        history=table.history,
        keys=table.keys,
        extras=extras_of(view, left),
    )
    yield frames.TablePiece(header=header).SerializeToString(), True
    for piece in _changes(view):
        yield piece.SerializeToString(), True
    yield b"", False


def _changes(view: View) -> Iterator[frames.TablePiece]:
    floor = view.table.floor
    above_floor = (floor + 1) << SUB_BITS
    end = (view.table.revision + 1) << SUB_BITS
    start, rows, size_bytes = 0, PIECE_ROWS, 0
    while rows == PIECE_ROWS or size_bytes >= PIECE_BYTES:
        piece = frames.TablePiece()
        rows = size_bytes = 0
        found: Any = view.execute(view.sql.changes_and_heads, (start, end, PIECE_ROWS))
        for id_, key, kv, head in found:
            rows += 1
            start = id_ + 1
            if id_ < above_floor:
                is_newest = view.newest_before(head, above_floor) == id_
                if not is_newest or (kv is None and id_ >> SUB_BITS < floor):
                    continue
            piece.changes.add(id=id_, key=key, kv=kv or b"")
            size_bytes += len(key) + len(kv or b"")
            if size_bytes >= PIECE_BYTES:
                break
        found.close()
        if piece.changes:
            yield piece
