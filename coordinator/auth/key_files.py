"""Files with keys and tokens of a coordinator."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES_MAX: Final = 64 << 10


class BadTokenKey(Exception):
    """A key can't be used; the text says which and what to do."""


def read_key(path: Path, *, is_secret: bool) -> bytes:
    """What a file holds. Raises BadTokenKey."""
    try:
        with path.open("rb") as file:
            if is_secret and stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise BadTokenKey(f"{path} can be read by others than its owner; chmod 600 it")
            return file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise BadTokenKey(f"{path} can't be read: {error.strerror}") from None
