"""Answers in parts that wait for their reader in a file, so that a slow one holds no read transaction open."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Final

from proto import errors
from shardworker.machine import Result

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

STEP_BYTES: Final = 4 << 20
"""Put into the file in one step, about."""

_LENGTH: Final = struct.Struct("<Q")


def spooled(parts: Generator[Result, None, None], file: Path) -> Generator[Result, None, None]:
    """The same parts, behind empty ones while the file is being written. An error ends it, as one of the parts does.

    The file is removed as soon as it is read or given up."""
    with contextlib.closing(parts), contextlib.ExitStack() as cleaning:
        cleaning.callback(file.unlink, missing_ok=True)
        revision = count = 0
        try:
            with file.open("xb") as out:
                file.chmod(0o600)
                step_bytes = 0
                for part in parts:
                    if part.error is not None:
                        yield part
                        return
                    revision, count = part.revision, count + 1
                    out.write(_LENGTH.pack(len(part.body)) + part.body)
                    step_bytes += len(part.body)
                    if step_bytes >= STEP_BYTES:
                        step_bytes = 0
                        yield Result(revision, b"", more=True)
        except OSError as error:
            no_space = errors.NoSpace(f"the disk did not take {file.name}: {error.strerror}")
            yield Result(revision, b"", no_space)
            return
        with file.open("rb") as opened:
            for number in range(1, count + 1):
                (size,) = _LENGTH.unpack(opened.read(_LENGTH.size))
                body = opened.read(size)
                assert len(body) == size, "a spooled part is cut short"
                yield Result(revision, body, more=number < count)
