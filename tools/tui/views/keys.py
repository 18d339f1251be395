"""The keys of a table, and the revisions of a key. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.printable import printable
from tools.tui import units
from tools.tui.page import DIM, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.views import cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.admin.keys import KeyPage, KeyRow

KEY_COLUMNS: Final = (
    Column("MODIFIED", is_number=True),
    Column("CREATED", rank=2, is_number=True),
    Column("VERSION", is_number=True),
    Column("LEASE", rank=3),
    Column("KEY", takes_rest=True),
)

HISTORY_COLUMNS: Final = (
    Column("REVISION", is_number=True),
    Column("VERSION", is_number=True),
    Column("SIZE", is_number=True),
    Column("VALUE", takes_rest=True),
)


def keys(table: str, page: KeyPage) -> Page:
    """A page of a table."""
    here = (
        f"{len(page.rows)} of {page.count:,} from here on" if page.after is not None else f"{len(page.rows)}"
    )
    title = f"keys of {table}: {here}; as a replica has them, perhaps not the newest"
    return Page(title, KEY_COLUMNS, [_key_row(table, row) for row in page.rows], "no key here")


def _key_row(table: str, row: KeyRow) -> Row:
    return Row(
        key=row.key.hex(),
        cells=(
            cells.number(row.mod_revision),
            cells.number(row.create_revision),
            cells.number(row.version),
            Cell(f"{row.lease:x}" if row.lease else "-", DIM),
            Cell(printable(row.key)),
        ),
        opens=Place(View.HISTORY, table, row.key),
    )


def history(table: str, key: bytes, rows: Sequence[KeyRow]) -> Page:
    """The revisions of a key that can still be read, the newest first."""
    title = f"{table}: {printable(key)}"
    return Page(
        title, HISTORY_COLUMNS, [_revision_row(row) for row in rows], "this key does not exist (any more)"
    )


def _revision_row(row: KeyRow) -> Row:
    return Row(
        key=str(row.mod_revision),
        cells=(
            cells.number(row.mod_revision),
            cells.number(row.version),
            cells.size(len(row.value)),
            Cell(printable(row.value[:500])),
        ),
        reads=f"{units.size(len(row.value))}, revision {row.mod_revision}\n\n{readable(row.value)}",
    )


def readable(raw: bytes) -> str:
    """Bytes to be read: text with its line ends if they are some, else a hexadecimal dump."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if all(char.isprintable() or char in "\n\t" for char in text):
        return text
    return "\n".join(
        f"{offset:08x}  {raw[offset : offset + 16].hex(' '):<47}  "
        + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in raw[offset : offset + 16])
        for offset in range(0, len(raw), 16)
    )
