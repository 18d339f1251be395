"""The file of a copy that holds what the leader cluster does not."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.replication.aside import Aside
from proto import errors
from proto.catalog import TableEntry
from proto.ids import NodeId, ShardId
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import in_loop
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.shards.shard_call import ShardCall

COPY = TableEntry("a-b", 20_001, ShardId(1), origin=10_001)
PARTS = [b"the first part", b"and the last"]
SIZE_BYTES = sum(map(len, PARTS))


class Shard:
    """shards.driver.Driver to one that tells its table in parts, unless it breaks off or hangs."""

    def __init__(self, breaks_off: bool = False, hangs: bool = False) -> None:
        self.asked = 0
        self._breaks_off = breaks_off
        self._hangs = hangs

    def time(self) -> float:
        return 0.0

    async def ask(self, call: ShardCall) -> frames.Reply:
        self.asked += 1
        call.node = NodeId(1)
        number = 0 if call.method == frames.ETCD_SNAPSHOT else 1
        if number and self._breaks_off:
            raise errors.CursorNotFound
        if number and self._hangs:
            await asyncio.Event().wait()
        body = frames.SnapshotPart(total_bytes=SIZE_BYTES, data=PARTS[number]).SerializeToString()
        return frames.Reply(cursor=1 - number, body=body)

    def close_cursor(self, *_: object) -> None:
        """Nobody reads on."""


def at(revision: int, checksum: int = 0xC) -> frames.TableStatus:
    return frames.TableStatus(revision=revision, checksum=checksum)


def aside(folder: Path, shard: Shard | None = None, *, free_bytes_min: int = 0) -> Aside:
    driver: Any = shard or Shard()
    return Aside(driver, folder, free_bytes_min=free_bytes_min)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@in_loop
async def test_a_name_is_no_path(tmp_path: Path) -> None:
    await aside(tmp_path / "aside").keep(TableEntry("../x*", 20_003, ShardId(1), origin=10_003), at(5))
    assert names(tmp_path) == ["aside"]
    assert names(tmp_path / "aside") == ["..%2Fx%2A-20003-5-000000000000000c.snapshot"]


@in_loop
async def test_the_file_is_a_snapshot_and_the_last_one_of_each_table_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    other = TableEntry("a", 20_002, ShardId(1), origin=10_002)
    await aside(folder).keep(other, at(7))
    await aside(folder).keep(COPY, at(5))
    await aside(folder).keep(COPY, at(6))
    assert names(folder) == ["a-20002-7-000000000000000c.snapshot", "a-b-20001-6-000000000000000c.snapshot"]
    content = b"".join(PARTS)
    kept = folder / "a-b-20001-6-000000000000000c.snapshot"
    assert kept.read_bytes() == content + hashlib.sha256(content).digest()
    assert (kept.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


@in_loop
async def test_what_is_kept_is_not_written_again(tmp_path: Path) -> None:
    shard = Shard()
    for _ in range(2):
        await aside(tmp_path, shard).keep(COPY, at(5))
    assert shard.asked == len(PARTS)


@in_loop
async def test_what_breaks_off_takes_the_place_of_nothing(tmp_path: Path) -> None:
    await aside(tmp_path).keep(COPY, at(5))
    with pytest.raises(errors.CursorNotFound):
        await aside(tmp_path, Shard(breaks_off=True)).keep(COPY, at(6))
    assert names(tmp_path) == ["a-b-20001-5-000000000000000c.snapshot"]


@in_loop
async def test_nothing_is_left_of_what_was_cancelled(tmp_path: Path) -> None:
    task = asyncio.create_task(aside(tmp_path, shard := Shard(hangs=True)).keep(COPY, at(5)))
    await wait_until_async(lambda: shard.asked == len(PARTS), timeout_s=10, what="the last part is asked for")
    assert len(names(tmp_path)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == []


@in_loop
async def test_what_a_process_that_died_has_left_is_removed_and_what_is_being_written_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "gone-20009-3.partial").write_bytes(b"half")
    one = aside(tmp_path, hanging := Shard(hangs=True))
    task = asyncio.create_task(one.keep(COPY, at(5)))
    await wait_until_async(
        lambda: hanging.asked == len(PARTS), timeout_s=10, what="the last part is asked for"
    )
    (under_way,) = names(tmp_path)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(one.keep(TableEntry("a", 20_002, ShardId(1), origin=10_002), at(7)), 0.1)
    assert names(tmp_path) == [under_way]
    task.cancel()


@in_loop
async def test_what_must_stay_free_stays_free(tmp_path: Path) -> None:
    free_bytes = shutil.disk_usage(tmp_path).free
    with pytest.raises(errors.ReplicationRefused, match=f"{SIZE_BYTES} bytes"):
        await aside(tmp_path, free_bytes_min=2 * free_bytes).keep(COPY, at(5))
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["表" * 80, "n" * 255])
@in_loop
async def test_any_name_of_a_table_will_do(tmp_path: Path, name: str) -> None:
    one = aside(tmp_path)
    for revision in (5, 6):
        await one.keep(TableEntry(name, 20_003, ShardId(1), origin=10_003), at(revision))
    assert names(tmp_path) == ["table-20003-6-000000000000000c.snapshot"]


@in_loop
async def test_another_table_of_the_same_name_replaces_nothing(tmp_path: Path) -> None:
    await aside(tmp_path).keep(COPY, at(5))
    await aside(tmp_path).keep(TableEntry(COPY.name, 20_009, ShardId(1), origin=10_009), at(6))
    assert names(tmp_path) == [
        "a-b-20001-5-000000000000000c.snapshot",
        "a-b-20009-6-000000000000000c.snapshot",
    ]


@in_loop
async def test_what_only_a_snapshot_has_brought_replaces_but_its_like(tmp_path: Path) -> None:
    one = aside(tmp_path)
    await one.keep(COPY, at(5))
    for revision in (4, 5, 6):
        await one.keep(COPY, at(revision), is_fresh=True)
    assert names(tmp_path) == [
        "a-b-20001-5-000000000000000c.snapshot",
        "a-b-20001-6-000000000000000c-fresh.snapshot",
    ]
    await one.keep(COPY, at(7))
    assert names(tmp_path) == [
        "a-b-20001-6-000000000000000c-fresh.snapshot",
        "a-b-20001-7-000000000000000c.snapshot",
    ]


@in_loop
async def test_a_file_that_can_not_be_written_is_a_refusal(tmp_path: Path) -> None:
    blocked = tmp_path / "no folder"
    blocked.write_bytes(b"")
    with pytest.raises(errors.ReplicationRefused, match="set aside"):
        await aside(blocked).keep(COPY, at(5))
