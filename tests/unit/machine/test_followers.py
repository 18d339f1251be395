"""What is kept of a table's history for clusters that follow it, although it is compacted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd.rpc_pb2 import CompactionRequest, PutRequest
from proto.internal import frames_pb2 as frames
from shardworker.machine import history
from shardworker.machine.replication.followers import FOLLOWERS_MAX
from shardworker.machine.sweep import whole_from
from tests.unit.machine.moving import Moving
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from pathlib import Path

KEEP = 10_000


def filled(path: str = ":memory:", *, history: int = -1) -> Shard:
    """Revisions 2 to 11, all of one key; a cluster has copied what is up to revision 5."""
    shard = Shard(path, history=history)
    shard.machine.keep_bytes = KEEP
    for number in range(10):
        shard.put(b"k", b"%d" % number)
    note(shard, 5)
    return shard


def note(shard: Shard, revision: int, name: str = "island") -> None:
    result = shard.write(frames.FollowerPosition(table_id=TABLE, follower=name, revision=revision))
    assert result.error is None


def compact(shard: Shard, revision: int) -> None:
    assert shard.write(CompactionRequest(revision=revision)).error is None
    shard.sweep()


def revisions(shard: Shard) -> list[int]:
    """Whose rows are physically there."""
    return [revision for revision, _, _ in shard.rows()]


def told(shard: Shard, first: int) -> list[int]:
    return [change.revision for change in history(shard.connection, TABLE, first, exact=True)]


def whole(shard: Shard) -> int:
    table = shard.machine.tables.get(TABLE)
    assert table is not None
    return whole_from(table)


def test_what_a_follower_has_not_copied_is_kept_and_told_to_it_alone() -> None:
    shard = filled()
    compact(shard, 9)
    assert revisions(shard) == [5, 6, 7, 8, 9, 10, 11]
    assert told(shard, 6) == [6, 7, 8, 9, 10, 11]
    with pytest.raises(errors.Compacted):
        list(history(shard.connection, TABLE, 6))
    with pytest.raises(errors.Compacted):
        told(shard, 5)
    assert not shard.machine.is_compacting
    assert shard.machine.tables_held == 1


def test_it_goes_once_the_follower_has_it() -> None:
    shard = filled()
    compact(shard, 9)
    note(shard, 7)
    shard.sweep()
    assert revisions(shard) == [7, 8, 9, 10, 11]
    note(shard, 11)
    shard.sweep()
    assert revisions(shard) == [9, 10, 11]
    assert whole(shard) == 10
    assert shard.machine.tables_held == 0


def test_the_slowest_follower_counts() -> None:
    shard = filled()
    note(shard, 11, "other")
    compact(shard, 9)
    assert whole(shard) == 6


def test_no_more_is_kept_than_the_bound() -> None:
    shard = filled()
    compact(shard, 9)
    shard.put(b"large", b"v" * KEEP)
    shard.sweep()
    assert whole(shard) == 10
    note(shard, 6)  # it came further: from here on the bound counts anew
    shard.put(b"k", b"again")
    compact(shard, 13)
    assert whole(shard) == 10


def test_a_full_table_keeps_nothing() -> None:
    shard = filled()
    shard.write(frames.TableQuota(quota_bytes=1))
    assert isinstance(shard.write(PutRequest(key=b"k", value=b"more")).error, errors.QuotaExceeded)
    compact(shard, 9)
    assert whole(shard) == 10


def test_a_number_of_revisions_is_kept_for_followers_too() -> None:
    shard = filled(history=2)
    shard.sweep()
    assert told(shard, 6) == [6, 7, 8, 9, 10, 11]


def test_without_history_nothing_can_be_kept() -> None:
    shard = filled(history=0)
    shard.sweep()
    assert revisions(shard) == [11]
    with pytest.raises(errors.Compacted):
        told(shard, 6)


def test_a_follower_that_begins_behind_the_sweep_holds_nothing_up() -> None:
    shard = filled()
    note(shard, 11)
    compact(shard, 9)
    note(shard, 3, "late")
    assert not shard.machine.is_compacting
    compact(shard, 11)
    assert whole(shard) == 10  # what it does not have is kept from here on


def test_a_physical_compaction_does_not_wait_for_followers() -> None:
    shard = filled()
    request = CompactionRequest(revision=9, physical=True)
    assert shard.write(request).error is None
    command = frames.Command(method=frames.ETCD_COMPACT, table_id=TABLE, body=request.SerializeToString())
    assert shard.machine.sweep_awaited(command) == 5
    shard.sweep()
    assert shard.machine.sweep_awaited(command) is None
    assert shard.machine.is_swept(TABLE, 9)


def test_positions_survive_a_restart_and_end_with_their_table(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    before = filled(path)
    again = Shard(path, create=False)
    again.index = before.index
    assert again.machine.followers.of(TABLE) == before.machine.followers.of(TABLE)
    assert again.machine.checksum == before.machine.checksum
    assert again.machine.table_status()[0].followers[0].follower == "island"
    spec = frames.TableSpec(id=TABLE, name="t").SerializeToString()
    again.apply(frames.Command(method=frames.TABLE_DELETE, table_id=TABLE, body=spec, request_id=bytes(16)))
    assert not again.machine.followers.of(TABLE)
    assert not Shard(path, create=False).machine.followers.of(TABLE)


@pytest.mark.parametrize("position", [("", 5), ("x" * 65, 5), ("island", 12), ("island", -1)])
def test_what_no_follower_can_have_is_refused(position: tuple[str, int]) -> None:
    shard = filled()
    name, revision = position
    refused = shard.write(frames.FollowerPosition(table_id=TABLE, follower=name, revision=revision))
    assert isinstance(refused.error, errors.InvalidRequest)


def test_only_so_many_clusters_follow_a_table() -> None:
    shard = filled()
    for number in range(FOLLOWERS_MAX - 1):
        note(shard, 5, f"n{number}")
    refused = shard.write(frames.FollowerPosition(table_id=TABLE, follower="one more", revision=5))
    assert isinstance(refused.error, errors.InvalidRequest)
    note(shard, 6)


def test_nothing_is_kept_for_a_follower_that_is_forgotten(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    shard = filled(path)
    note(shard, 11, "reef")
    compact(shard, 11)
    assert revisions(shard) == [5, 6, 7, 8, 9, 10, 11]
    gone = frames.FollowerPosition(table_id=TABLE, follower="island", gone=True)
    assert shard.write(gone).error is None
    assert list(shard.machine.followers.of(TABLE)) == ["reef"]
    shard.sweep()
    assert revisions(shard) == [11]
    assert isinstance(shard.write(gone).error, errors.InvalidRequest)
    shard.connection.close()
    assert list(Shard(path, create=False).machine.followers.of(TABLE)) == ["reef"]


def test_positions_and_leases_of_copies_move_with_their_table() -> None:
    moving = Moving()
    moving.source.put(b"k", b"v")
    note(moving.source, 2)
    moving.source.machine.leases.copied.note(TABLE, {77: 600}, lambda: [77])
    moving.source.machine.committed()
    moving.begin()
    moving.finish()
    followers = moving.target.machine.followers.of(TABLE)
    assert {name: position.revision for name, position in followers.items()} == {"island": 2}
    assert dict(moving.target.machine.leases.copied.of(TABLE)) == {77: 600}
