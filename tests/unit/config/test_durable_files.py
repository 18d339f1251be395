"""Files that outlive a crash: whole, and under their name."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from config.durable_files import create_durably, make_folder, write_durably

if TYPE_CHECKING:
    from pathlib import Path


def test_the_text_is_on_the_disk_before_it_has_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f.json"
    file.write_text("old")
    synced: list[tuple[str, str]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        synced.append((kind, file.read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    write_durably(file, "new")
    assert synced == [("file", "old"), ("folder", "new")]


def test_a_file_that_can_not_be_written_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f.json"
    file.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(file, "new")
    assert file.read_text() == "old"


def test_a_new_file_and_its_name_are_on_the_disk_and_nothing_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, fsync = tmp_path / "n1.secret", os.fsync
    synced: list[tuple[str, bytes]] = []

    def noting(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), file.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    create_durably(file, b"key", 0o600)
    assert synced == [(str(file), b"key"), (str(tmp_path), b"key")]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        create_durably(file, b"other", 0o600)
    assert file.read_bytes() == b"key"


def test_a_new_file_that_can_not_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        create_durably(tmp_path / "n1.secret", b"key", 0o600)
    assert not list(tmp_path.iterdir())


def test_a_new_folder_is_on_the_disk_with_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    folder = tmp_path / "a" / "b" / "c"
    make_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert synced == {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")}
    synced.clear()
    make_folder(folder)
    assert synced == set()
