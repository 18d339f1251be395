"""The few things the store does to files beside SQLite, as a seam: the simulated disk implements it too."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, Final, Protocol

from shardworker.store.errors import StoreInUse

if TYPE_CHECKING:
    from pathlib import Path


FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
"""What clients store is for nobody else on the machine to read."""


class Files(Protocol):
    """File operations whose order the store relies on. Nothing is durable before the sync that its line
    names."""

    def make_folder(self, folder: Path) -> None:
        """Create the folder and its parents if missing, durably."""

    def close_to_others(self, folder: Path) -> None:
        """The folder and the files in it are for this user alone, whoever made them and when. What is made here later
        is so from the beginning."""

    def lock(self, folder: Path) -> int:
        """Take the folder for this process until `unlock` or the process ends. Raises StoreInUse."""

    def unlock(self, handle: int) -> None:
        """Give back what `lock` took."""

    def names(self, folder: Path) -> list[str]:
        """The names of the files in the folder, sorted."""

    def exists(self, path: Path) -> bool: ...

    def size(self, path: Path) -> int:
        """Length in bytes; 0 if there is no such file."""

    def create(self, path: Path) -> None:
        """An empty file, replacing any of this name."""

    def allocate(self, path: Path, size_bytes: int) -> None:
        """A file of this length, made if it is missing, whose every byte has a place on the disk. Raises OSError
        (ENOSPC when the disk is full)."""

    def write(self, path: Path, offset: int, data: bytes) -> None:
        """Write at an offset of an existing file. Raises OSError (ENOSPC when the disk is full)."""

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """Up to length bytes from offset; fewer only at the end of the file."""

    def sync(self, path: Path) -> None:
        """The file's bytes are durable, its name is not."""

    def rename(self, old: Path, new: Path) -> None:
        """Atomic; durable after `sync_folder`."""

    def unlink(self, path: Path) -> None:
        """Remove a file if it is there."""

    def sync_folder(self, folder: Path) -> None:
        """All creations, renames and removals in the folder are durable."""

    def free_bytes(self, folder: Path) -> int:
        """What this process may still write to the folder's disk."""

    def random_bytes(self, count: int) -> bytes:
        """Bytes that nobody draws twice."""

    def steady_s(self) -> float:
        """Seconds of a clock that only goes forward, for how long the disk takes."""


class RealFiles:
    """The operating system's files."""

    def make_folder(self, folder: Path) -> None:
        missing = []
        at = folder
        while not at.exists():
            missing.append(at)
            at = at.parent
        for made in reversed(missing):
            made.mkdir(mode=FOLDER_MODE, exist_ok=True)
            self.sync_folder(made.parent)

    def close_to_others(self, folder: Path) -> None:
        folder.chmod(FOLDER_MODE)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    os.chmod(entry.path, FILE_MODE)

    def lock(self, folder: Path) -> int:
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StoreInUse(
                f"{folder} is open in another process; stop that worker first (two writers would break Raft)"
            ) from None
        return handle

    def unlock(self, handle: int) -> None:
        os.close(handle)

    def names(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder))

    def exists(self, path: Path) -> bool:
        return path.exists()

    def size(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def create(self, path: Path) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE))

    def allocate(self, path: Path, size_bytes: int) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            os.posix_fallocate(handle, 0, size_bytes)
        finally:
            os.close(handle)

    def write(self, path: Path, offset: int, data: bytes) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            rest = memoryview(data)
            while rest:
                written = os.pwrite(handle, rest, offset)
                rest = rest[written:]
                offset += written
        finally:
            os.close(handle)

    def read(self, path: Path, offset: int, length: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def sync(self, path: Path) -> None:
        self._fsync(path, os.O_RDONLY)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        self._fsync(folder, os.O_RDONLY | os.O_DIRECTORY)

    def free_bytes(self, folder: Path) -> int:
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def steady_s(self) -> float:
        return time.perf_counter()

    @staticmethod
    def _fsync(path: Path, flags: int) -> None:
        handle = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


REAL_FILES: Files = RealFiles()
