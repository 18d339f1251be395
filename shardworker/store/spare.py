"""Space that is held back for the worst moment: a file in the replica's folder, as long as what it stands for.

When the disk takes nothing any more it is given up, and what frees space can be written. It holds no data, and needs no
sync: whether it is there is looked at when the store is opened.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.store.files import Files

NAME = "spare"


class Spare:
    """Of one replica."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._path = folder / NAME
        self._files = files
        self.held_bytes = 0
        self.given_up_bytes = 0
        """What was held once, and is not now."""

    def find(self) -> None:
        """What a crash has left is still held, unless the disk is so full that to open the database may need it."""
        self.held_bytes = self._files.size(self._path)
        if self._files.free_bytes(self._path.parent) < self.held_bytes:
            self.give_up()

    def hold(self, size_bytes: int) -> None:
        """Hold so much, if the disk has it. Raises OSError for a disk that fails."""
        try:
            self._files.allocate(self._path, size_bytes)
        except OSError as error:
            self.give_up()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        else:
            self.held_bytes, self.given_up_bytes = size_bytes, 0

    def give_up(self) -> None:
        """It is there for who needs it now."""
        self._files.unlink(self._path)
        self.held_bytes, self.given_up_bytes = 0, max(self.held_bytes, self.given_up_bytes)
