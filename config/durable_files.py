"""Small files that have to outlive a crash of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_durably(file: Path, text: str) -> None:
    """Durable on return. After a crash in between, the file is the old one or the new one, whole. Raises OSError."""
    passing = file.with_name(f"{file.name}.new")
    with passing.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    passing.replace(file)
    sync_folder(file.parent)


def create_durably(file: Path, content: bytes, mode: int) -> None:
    """Durable on return. Raises FileExistsError rather than replace a file, and OSError; then it has made none."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(file.parent)
    except OSError:
        file.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Unless it is there, for this user alone; those above it that are missing, as usual. Durable on return. Raises
    OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Makes durable which files are in it, under which names. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
