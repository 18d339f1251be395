"""Reading a table at one moment, however many statements that takes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import apsw


@contextmanager
def snapshot(connection: apsw.Connection) -> Iterator[None]:
    """A read transaction, unless the connection is in one already."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # A failed read may have ended it: a second error would hide the first.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
