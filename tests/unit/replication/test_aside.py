"""The file of a copy that holds what the leader cluster does not."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.replication.aside import Aside
from proto import errors
from proto.catalog import TableEntry
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import in_loop

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.shards.router import Call

COPY = TableEntry("a-b", 20_001, ShardId(1), origin=10_001)
PARTS = [b"the first part", b"and the last"]


class Shard:
    """shards.driver.Driver to one that tells its table in parts, unless it breaks off."""

    def __init__(self, breaks_off: bool = False) -> None:
        self.asked = 0
        self._breaks_off = breaks_off

    def time(self) -> float:
        return 0.0

    async def ask(self, call: Call) -> frames.Reply:
        self.asked += 1
        call.replica = SimpleNamespace(node=1)  # type: ignore[assignment]
        number = 0 if call.method == frames.ETCD_SNAPSHOT else 1
        if number and self._breaks_off:
            raise errors.CursorNotFound
        body = frames.SnapshotPart(data=PARTS[number]).SerializeToString()
        return frames.Reply(cursor=1 - number, body=body)

    def close_cursor(self, *_: object) -> None:
        """Nobody reads on."""


def aside(folder: Path, shard: Shard | None = None) -> Aside:
    driver: Any = shard or Shard()
    return Aside(driver, folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@in_loop
async def test_a_name_is_no_path(tmp_path: Path) -> None:
    await aside(tmp_path / "aside").keep(TableEntry("../x*", 20_003, ShardId(1), origin=10_003), 5)
    assert names(tmp_path) == ["aside"]
    assert names(tmp_path / "aside") == ["..%2Fx%2A-20003-5.snapshot"]


@in_loop
async def test_the_file_is_a_snapshot_and_the_last_one_of_each_table_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    other = TableEntry("a", 20_002, ShardId(1), origin=10_002)
    await aside(folder).keep(other, 7)
    await aside(folder).keep(COPY, 5)
    await aside(folder).keep(COPY, 6)
    assert names(folder) == ["a-20002-7.snapshot", "a-b-20001-6.snapshot"]
    content = b"".join(PARTS)
    kept = folder / "a-b-20001-6.snapshot"
    assert kept.read_bytes() == content + hashlib.sha256(content).digest()
    assert (kept.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


@in_loop
async def test_what_is_kept_is_not_written_again(tmp_path: Path) -> None:
    shard = Shard()
    for _ in range(2):
        await aside(tmp_path, shard).keep(COPY, 5)
    assert shard.asked == len(PARTS)


@in_loop
async def test_what_breaks_off_takes_the_place_of_nothing(tmp_path: Path) -> None:
    await aside(tmp_path).keep(COPY, 5)
    with pytest.raises(errors.CursorNotFound):
        await aside(tmp_path, Shard(breaks_off=True)).keep(COPY, 6)
    assert "a-b-20001-5.snapshot" in names(tmp_path)
    assert "a-b-20001-6.snapshot" not in names(tmp_path)


@in_loop
async def test_a_file_that_can_not_be_written_is_a_refusal(tmp_path: Path) -> None:
    blocked = tmp_path / "no folder"
    blocked.write_bytes(b"")
    with pytest.raises(errors.ReplicationRefused, match="set aside"):
        await aside(blocked).keep(COPY, 5)
