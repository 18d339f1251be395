"""Answers in parts that wait for their reader in a file, so that a slow one holds no read transaction open."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from proto import errors
from shardworker.machine import Result

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from shardworker.store import Files

STEP_BYTES: Final = 4 << 20
"""Put into the file in one step, about."""


def spooled(parts: Generator[Result, None, None], file: Path, files: Files) -> Generator[Result, None, None]:
    """The same parts, behind empty ones while the file is being written. An error ends it, as one of the parts does.

    The file is left to whoever asks for the parts: a process that has died removes nothing."""
    sizes: list[int] = []
    revision = end = step_bytes = 0
    with contextlib.closing(parts):
        try:
            files.create(file)
            for part in parts:
                if part.error is not None:
                    yield part
                    return
                revision = part.revision
                files.write(file, end, part.body)
                sizes.append(len(part.body))
                end += len(part.body)
                step_bytes += len(part.body)
                if step_bytes >= STEP_BYTES:
                    step_bytes = 0
                    yield Result(revision, b"", more=True)
        except OSError as error:
            no_space = errors.NoSpace(f"the disk did not take {file.name}: {error.strerror}")
            yield Result(revision, b"", no_space)
            return
    at = 0
    for number, size in enumerate(sizes, 1):
        try:
            body = files.read(file, at, size)
        except OSError as error:
            lost = errors.CursorNotFound(f"{file.name} can't be read: {error.strerror}")
            yield Result(revision, b"", lost)
            return
        assert len(body) == size, "a spooled part is cut short"
        at += size
        yield Result(revision, body, more=number < len(sizes))
