"""A folder with a backup: what Regatta's tool reads of it, and that nothing in it can be changed unseen."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from proto.regatta import maintenance_pb2 as maintenance
from tools.admin import backup_folder
from tools.admin.backup import Rate
from tools.admin.backup_folder import Manifest, Piece, SavedTable, Unsound

if TYPE_CHECKING:
    from pathlib import Path

FACTS = maintenance.Facts(
    cluster="c", table_id=10_001, revision=7, checksum=(1 << 64) - 1, keys=3, history=-1, extras=b"\x00\xff"
)


def write(folder: Path, name: str, content: bytes) -> Piece:
    with backup_folder.writing(folder, name) as out:
        out(content)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    facts = maintenance.Facts()
    facts.CopyFrom(FACTS)
    return Piece(name, md5, hashlib.sha256(content).hexdigest(), facts)


def saved(folder: Path) -> Manifest:
    table = SavedTable("t", [write(folder, "t.bak", b"first"), write(folder, "t.9.inc", b"second")])
    manifest = Manifest("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", {"t": table})
    backup_folder.write_manifest(folder, manifest)
    return manifest


def check(folder: Path) -> Manifest:
    manifest = backup_folder.read_manifest(folder)
    for table in manifest.tables.values():
        backup_folder.check_table(folder, table)
    return manifest


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = saved(tmp_path)
    assert check(tmp_path) == manifest
    assert b"".join(backup_folder.read_pieces(tmp_path, manifest.tables["t"])) == b"firstsecond"
    assert {file.name for file in tmp_path.iterdir()} == {"manifest.json", "t.bak", "t.9.inc"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.iterdir())


@pytest.mark.parametrize("quota", [0, 1 << 40])
def test_what_a_table_was_created_to_hold_is_read_back(tmp_path: Path, quota: int) -> None:
    piece = write(tmp_path, "t.bak", b"first")
    assert piece.facts is not None
    piece.facts.quota = quota
    table = SavedTable("t", [piece])
    backup_folder.write_manifest(
        tmp_path, Manifest("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", {"t": table})
    )
    (read,) = check(tmp_path).tables["t"].pieces
    assert read.facts is not None
    assert read.facts.HasField("quota")
    assert read.facts.quota == quota


def test_who_could_open_the_file_before_reads_nothing_of_it(tmp_path: Path) -> None:
    left = tmp_path / "t.bak.part"  # by a run that was killed, or by somebody who waits for a backup
    left.touch(mode=0o666)
    with left.open("rb") as opened:
        write(tmp_path, "t.bak", b"secret")
        assert opened.read() == b""
    assert (tmp_path / "t.bak").read_bytes() == b"secret"
    assert (tmp_path / "t.bak").stat().st_mode & 0o777 == 0o600


def test_regattas_tool_finds_the_full_file(tmp_path: Path) -> None:
    saved(tmp_path)
    document = json.loads((tmp_path / "manifest.json").read_bytes())
    (row,) = document["tables"]
    assert (row["name"], row["file_name"]) == ("t", "t.bak")
    assert row["md5"] == hashlib.md5(b"first", usedforsecurity=False).hexdigest()
    assert document["started"] < document["finished"]


def test_a_folder_of_regattas_tool_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.bak").write_bytes(b"first")
    md5 = hashlib.md5(b"first", usedforsecurity=False).hexdigest()
    row = {"name": "t", "type": "REPLICATED", "file_name": "t.bak", "md5": md5}
    document = {"started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:00Z", "tables": [row]}
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    assert check(tmp_path).tables["t"].facts is None
    (tmp_path / "t.bak").write_bytes(b"fIrst")
    with pytest.raises(Unsound, match=r"table 't' file 't.bak' corrupted \(checksum mismatch\)"):
        check(tmp_path)
    (tmp_path / "t.bak").unlink()
    with pytest.raises(Unsound, match=r"file 't.bak' is missing"):
        check(tmp_path)


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    saved(tmp_path)
    for file in list(tmp_path.iterdir()):
        whole = file.read_bytes()
        for at in range(len(whole)):
            for flipped in (whole[at] ^ 1, whole[at] ^ 0xFF, 0x20, 0x0A):
                if flipped == whole[at]:
                    continue
                file.write_bytes(whole[:at] + bytes([flipped]) + whole[at + 1 :])
                with pytest.raises(Unsound):
                    check(tmp_path)
        for cut in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:cut])
            with pytest.raises(Unsound):
                check(tmp_path)
        file.write_bytes(whole)
    check(tmp_path)


def test_another_format_is_refused_in_words(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(Unsound, match="has format 2; this version reads format 1"):
        check(tmp_path)


@pytest.mark.parametrize("name", ["../t.bak", "/etc/passwd", "", ".t", "a/b"])
def test_a_manifest_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    row = {"name": "t", "file_name": name, "md5": ""}
    document = {"started": "", "finished": "", "tables": [row]}
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(Unsound, match="no name of a file in its folder"):
        check(tmp_path)


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    write(tmp_path, "t.bak", b"old")

    def interrupted() -> None:
        with backup_folder.writing(tmp_path, "t.bak") as out:
            out(b"half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert [file.name for file in tmp_path.iterdir()] == ["t.bak"]
    assert (tmp_path / "t.bak").read_bytes() == b"old"


def test_names_of_tables_make_names_of_files() -> None:
    assert backup_folder.file_name("users", 10_002, "bak") == "users.bak"
    assert backup_folder.file_name("ä b", 10_002, "7.inc") == "ä b.7.inc"
    assert backup_folder.file_name("x" * 255, 10_002, "bak") == "table-10002.bak"
    assert backup_folder.file_name("..", 10_002, "bak") == "table-10002.bak"


def test_a_rate_is_kept_on_average() -> None:
    now = 100.0
    rate = Rate(1_000, clock=lambda: now)
    assert rate.wait_s(500) == 0.5
    now = 100.5
    assert rate.wait_s(1_000) == 1.0
    now = 110.0
    assert rate.wait_s(1_000) == 0.0
    assert Rate(0).wait_s(1 << 40) == 0.0
