"""The real files and the simulated ones keep the same promises, as far as one process can tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shardworker.store import REAL_FILES, StoreInUse
from tests.simulation.disk import SimulatedDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardworker.store import Files

Place = tuple["Files", Path]


@pytest.fixture(params=["real", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "real":
        yield REAL_FILES, tmp_path / "folder"
    else:
        disk = SimulatedDisk(seed=1)
        yield disk.files, Path("/folder")
        disk.close()


def test_writing_and_reading(place: Place) -> None:
    files, folder = place
    files.make_folder(folder)
    path = folder / "a"
    assert not files.exists(path)
    assert files.size(path) == 0
    files.create(path)
    files.write(path, 0, b"hello")
    files.write(path, 8, b"world")
    files.sync(path)
    assert files.exists(path)
    assert files.size(path) == 13
    assert files.read(path, 3, 6) == b"lo\0\0\0w"
    assert files.read(path, 10, 100) == b"rld"
    assert files.read(path, 13, 1) == b""
    files.create(path)
    assert files.size(path) == 0
    with pytest.raises(FileNotFoundError):
        files.read(folder / "missing", 0, 1)


def test_names(place: Place) -> None:
    files, folder = place
    files.make_folder(folder)
    for name in ("b", "a", "c"):
        files.create(folder / name)
        files.write(folder / name, 0, name.encode())
    files.rename(folder / "b", folder / "a")
    files.unlink(folder / "c")
    files.unlink(folder / "missing")
    files.sync_folder(folder)
    assert files.names(folder) == ["a"]
    assert files.read(folder / "a", 0, 9) == b"b"
    assert files.free_bytes(folder) > 0


def test_one_owner(place: Place) -> None:
    files, folder = place
    files.make_folder(folder)
    handle = files.lock(folder)
    with pytest.raises(StoreInUse):
        files.lock(folder)
    files.unlock(handle)
    files.unlock(files.lock(folder))
