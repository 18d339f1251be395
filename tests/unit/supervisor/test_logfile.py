"""Log files stay below their size and keep the lines that explain a crash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from coordinator.supervisor.logfile import TAIL_BYTES_MAX, LogFile

if TYPE_CHECKING:
    from pathlib import Path


def _write(log: LogFile, text: str) -> None:
    descriptor = log.open()
    os.write(descriptor, text.encode())
    os.close(descriptor)


def test_processes_append(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "a.log", bytes_max=1000, files_max=3)
    _write(log, "one\n")
    _write(log, "two\n")
    assert log.path.read_text() == "one\ntwo\n"


def test_only_what_the_newest_process_wrote_explains_its_end(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", bytes_max=1000, files_max=3)
    _write(log, "of the first\n")
    _write(log, "a\n\n  \nb\nc\n")
    assert log.last_lines(2) == ["b", "c"]
    assert log.last_lines(9) == ["a", "b", "c"]
    _write(log, "")
    assert log.last_lines(9) == []


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert LogFile(tmp_path / "a.log", bytes_max=1, files_max=1).last_lines(3) == []


def test_long_logs_are_read_from_their_end(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", bytes_max=1 << 30, files_max=2)
    _write(log, "x" * (5 * TAIL_BYTES_MAX) + "\nthe end\n")
    assert log.last_lines(1) == ["the end"]
    assert sum(map(len, log.last_lines(1000))) <= TAIL_BYTES_MAX


def test_rotation_keeps_the_newest_parts_in_order(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", bytes_max=4, files_max=3)
    for text in ("1111", "2222", "3333", "4444"):
        _write(log, text)
    log.maybe_rotate()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.log": "",
        "a.log.1": "4444",
        "a.log.2": "3333",
    }


def test_a_running_process_goes_on_writing_after_rotation(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", bytes_max=4, files_max=2)
    descriptor = log.open()
    os.write(descriptor, b"before")
    assert log.maybe_rotate()
    os.write(descriptor, b"after\n")
    os.close(descriptor)
    assert log.path.read_bytes() == b"after\n"
    assert log.last_lines(5) == ["after"]
    assert not LogFile(tmp_path / "b.log", bytes_max=4, files_max=2).maybe_rotate()


def test_one_file_alone_just_starts_over(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", bytes_max=4, files_max=1)
    _write(log, "1234")
    assert log.maybe_rotate()
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]


def test_a_log_that_can_not_be_moved_aside_is_still_written_and_older_ones_stay(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", bytes_max=10, files_max=3)
    (tmp_path / "a.log.1").write_text("older")
    _write(log, "more than ten bytes\n")
    (tmp_path / "a.log.new").mkdir()  # the copy fails, as on a full disk
    assert not log.maybe_rotate()
    _write(log, "the next\n")
    assert log.path.read_text() == "more than ten bytes\nthe next\n"
    assert log.last_lines(9) == ["the next"]
    assert (tmp_path / "a.log.1").read_text() == "older"
    (tmp_path / "a.log.new").rmdir()
    assert log.maybe_rotate()
    assert (tmp_path / "a.log.2").read_text() == "older"
