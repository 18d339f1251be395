"""The real files and the simulated ones keep the same promises, as far as one process can tell."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shardworker.raft import HardState, LogIndex, NodeId, Term
from shardworker.store import REAL_FILES, StoreInUse
from tests.simulation.disk import SimulatedDisk
from tests.unit.store.replicas import open_replica, put

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


def modes(folder: Path) -> dict[str, int]:
    """Who may do what with the folder, all in it, and the record of birth beside it."""
    record = folder.with_name(folder.name + ".json")
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, record, *folder.iterdir())}


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_what_a_replica_makes_is_for_its_user_alone(tmp_path: Path) -> None:
    sender, folder = open_replica(tmp_path / "sender"), tmp_path / "shard-1"
    for _ in range(3):
        put(sender)
    made = sender.create_snapshot()
    store = open_replica(folder)
    incoming = store.receive_snapshot(1, made.size_bytes)
    incoming.write(0, made.read(0, made.size_bytes))
    received = incoming.finish(made.meta, made.sha256)
    for where in (tmp_path / "sender", folder):
        found = modes(where)
        assert len(found) >= 6
        assert {name: mode & 0o077 for name, mode in found.items() if mode & 0o077} == {}
    store.install_snapshot(received, HardState(Term(1), NodeId(0), LogIndex(0)))
    put(store)
    store.begin_rebuild("it differs")
    assert {name: mode & 0o077 for name, mode in modes(folder).items() if mode & 0o077} == {}
    store.close()
    sender.close()


@pytest.mark.usefixtures("no_umask")
def test_what_was_open_to_others_is_closed_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "shard-1"
    open_replica(folder).close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("another's")
    elsewhere.chmod(0o644)
    (folder / "link").symlink_to(elsewhere)
    for path in (folder, *folder.glob("replica-*")):
        path.chmod(0o777)
    open_replica(folder).close()
    found = modes(folder)
    assert found.pop("link") == 0o644, "what a link leads to is not ours"
    assert {name: mode & 0o077 for name, mode in found.items() if mode & 0o077} == {}
