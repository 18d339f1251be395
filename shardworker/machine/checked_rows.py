"""Rows that carry a checksum of themselves, which is checked whenever they are read.

SQLite notices damage to its own structure, and none to a value. A flipped bit in a record's header changes a value's
type just as well: STRICT holds for what is written, not for what is read. So the types are compared before the checksum
is computed, and whatever is wrong with a row has one outcome, Corrupt.
"""

from __future__ import annotations

import struct
from itertools import compress
from typing import TYPE_CHECKING, Any
from zlib import crc32

from proto.errors import Corrupt
from proto.varint import UINT64_MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import apsw

_Row = tuple[Any, ...]


class CheckedRows:
    """The rows of one SQL table, which has a column `crc`."""

    def __init__(
        self,
        table: str,
        columns: Mapping[str, type],
        what: str,
        crc: Callable[..., int] | None = None,
    ) -> None:
        """columns: what the checksum covers, as SQL, with the types that its values have. what: the rest of the
        sentence "the row of ...", in which {0} is the first value. crc: of a row's values; if it is not given, of
        all numbers and then of all bytes, each in the order of the columns."""
        self._table = table
        self._what = what
        self._types = tuple(columns.values())
        self._select = f"SELECT {', '.join(columns)}, crc FROM {table}"
        self._numbers = struct.Struct(f"<{self._types.count(int)}q")
        self._is_number = [type_ is int for type_ in self._types]
        self._is_bytes = [type_ is bytes for type_ in self._types]
        self._crc = crc or self._crc_of_columns

    def sealed(self, *values: Any) -> _Row:
        """A row of these values: they and their checksum."""
        return (*values, self._crc(*values))

    def find(self, connection: apsw.Connection, rest: str, bindings: Iterable[Any] = ()) -> _Row | None:
        """The values of the first row that a SELECT with this rest gives. Raises Corrupt."""
        try:
            row = connection.execute(f"{self._select} {rest}", tuple(bindings)).fetchone()
        except UnicodeDecodeError:
            raise self._unreadable() from None
        return None if row is None else self._checked(row)

    def all(self, connection: apsw.Connection, rest: str, bindings: Iterable[Any] = ()) -> Iterator[_Row]:
        """The values of each row that a SELECT with this rest gives. Raises Corrupt."""
        try:
            for row in connection.execute(f"{self._select} {rest}", tuple(bindings)):
                yield self._checked(row)
        except UnicodeDecodeError:
            raise self._unreadable() from None

    def _checked(self, row: _Row) -> _Row:
        values = row[:-1]
        if tuple(map(type, values)) != self._types or self._crc(*values) != row[-1]:
            raise Corrupt(
                f"the row of {self._what.format(*values)} fails its checksum; the disk returned other bytes than were"
                " written"
            )
        return values

    def _unreadable(self) -> Corrupt:
        """What became text is read as text, and any bytes but UTF-8 are none."""
        return Corrupt(
            f"a row of SQL table {self._table} has text that is not UTF-8; the disk returned other bytes than were"
            " written"
        )

    def _crc_of_columns(self, *values: Any) -> int:
        crc = crc32(self._numbers.pack(*compress(values, self._is_number)))
        for data in compress(values, self._is_bytes):
            crc = crc32(data, crc)
        return crc


def signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite stores it."""
    return number - (1 << 64) if number >> 63 else number


def unsigned(number: int) -> int:
    """The opposite of signed()."""
    return number & UINT64_MASK
