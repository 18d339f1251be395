"""Answers in parts that wait for their reader in a file, so that a slow one holds no read transaction open.

The file is written for as long as that takes, whether or not anybody reads; meanwhile parts that it has are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto import errors
from shardworker.machine import Result

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from shardworker.store import Files

STEP_BYTES: Final = 4 << 20
"""Put into the file in one step, about."""


class Spool:
    """One answer. One thread at a time may fill(), and one beside it may read.

    The file is left to whoever asks for the parts: a process that has died removes nothing."""

    def __init__(self, parts: Generator[Result, None, None], file: Path, files: Files) -> None:
        self._parts = parts
        self._file = file
        self._files = files
        self._sizes: list[int] = []
        self._end = 0
        self._revision = 0
        self._taken = 0
        self._is_whole = False

    def fill(self) -> Result:
        """Put the next parts into the file; there are `more` unless it is whole, or the result is an error."""
        files, file, sizes = self._files, self._file, self._sizes
        step_end = self._end + STEP_BYTES
        try:
            if not sizes:
                files.create(file)
            for part in self._parts:
                if part.error is not None:
                    return part
                self._revision = part.revision
                files.write(file, self._end, part.body)
                self._end += len(part.body)
                sizes.append(len(part.body))
                if self._end >= step_end:
                    return Result(self._revision, b"", more=True)
        except OSError as error:
            no_space = errors.NoSpace(f"the disk did not take {file.name}: {error.strerror}")
            return Result(self._revision, b"", no_space)
        self._is_whole = True
        return Result(self._revision, b"")

    @property
    def is_ready(self) -> bool:
        """Whether the next part can be read, and it is known whether there are more behind it."""
        return self._is_whole or len(self._sizes) > self._taken + 1

    def read(self) -> Generator[Result, None, None]:
        """The same parts. Each may be asked for once is_ready; an error ends them, as one of them."""
        at = 0
        for size in self._sizes:  # which grows meanwhile
            try:
                body = self._files.read(self._file, at, size)
            except OSError as error:
                lost = errors.CursorNotFound(f"{self._file.name} can't be read: {error.strerror}")
                yield Result(self._revision, b"", lost)
                return
            assert len(body) == size, "a spooled part is cut short"
            at += size
            self._taken += 1
            yield Result(self._revision, body, more=self._taken < len(self._sizes))

    def close(self) -> None:
        """End the read transaction, if it is not over."""
        self._parts.close()
