"""Files of tables: what is in them, and that damage is seen."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import apsw
import pytest

from proto import errors
from proto.boathouse import restore_pb2 as restore
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker import table_file
from shardworker.machine import pieces
from shardworker.machine.auth import SYSTEM
from shardworker.machine.tables import SUB_BITS
from tests.unit.machine.saving import give_users
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from shardworker.machine import Result


def changed() -> Shard:
    """Revisions 2 to 6, compacted at 4: k at 3 and 5, gone at 6; other at 2; old was deleted at 4."""
    shard = Shard()
    shard.put(b"other", b"1")
    shard.put(b"k", b"1")
    shard.write(etcd.DeleteRangeRequest(key=b"none"))
    shard.write(
        etcd.TxnRequest(success=[etcd.RequestOp(request_put=etcd.PutRequest(key=b"old", value=b"1"))])
    )
    shard.write(etcd.DeleteRangeRequest(key=b"old"))
    shard.put(b"k", b"2")
    shard.write(etcd.DeleteRangeRequest(key=b"k"))
    return shard


def pieces_of(
    shard: Shard, table: int, left: Mapping[int, int] | None = None
) -> Generator[Result, None, None]:
    """left: seconds, by lease."""
    told = frames.LeasesLeft()
    for lease_id, left_s in (left or {}).items():
        told.leases.add(id=lease_id, left_s=left_s)
    request = shard.machine.parse(frames.ETCD_SNAPSHOT, table, told.SerializeToString(), SYSTEM)
    return shard.machine.iterate(shard.connection, request)


def parts_of(shard: Shard, file: Path, left: Mapping[int, int] | None = None) -> list[frames.SnapshotPart]:
    made = table_file.stream(pieces_of(shard, TABLE, left), file)
    return [frames.SnapshotPart.FromString(result.body) for result in made]


def save(shard: Shard, folder: Path, left: Mapping[int, int] | None = None) -> Path:
    """As a client saves it."""
    data = b"".join(part.data for part in parts_of(shard, folder / "making.tmp", left))
    saved = folder / "saved"
    saved.write_bytes(data + hashlib.sha256(data).digest())
    return saved


def changes_in(file: Path) -> list[tuple[int, bytes, bool]]:
    """(revision, key, deleted) of each."""
    return [
        (change.id >> SUB_BITS, change.key, not change.kv)
        for piece in table_file.load_requests(file, 1)
        for change in piece.changes
    ]


def test_a_file_holds_every_change_that_can_be_read(tmp_path: Path) -> None:
    saved = save(changed(), tmp_path)
    contents = table_file.check(saved)
    assert (contents.table, contents.revision, contents.compacted_revision) == ("t", 7, -1)
    assert (contents.keys, contents.changes, contents.history) == (1, 6, -1)
    assert changes_in(saved) == [
        (2, b"other", False),
        (3, b"k", False),
        (4, b"old", False),
        (5, b"old", True),
        (6, b"k", False),
        (7, b"k", True),
    ]


@pytest.mark.parametrize("swept", [False, True])
def test_what_was_compacted_is_not_in_it_swept_or_not(tmp_path: Path, *, swept: bool) -> None:
    shard = changed()
    shard.write(etcd.CompactionRequest(revision=5))
    if swept:
        shard.sweep()
    saved = save(shard, tmp_path)
    assert table_file.check(saved).compacted_revision == 5
    assert changes_in(saved) == [
        (2, b"other", False),
        (3, b"k", False),
        (5, b"old", True),
        (6, b"k", False),
        (7, b"k", True),
    ]


def test_it_is_made_and_sent_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", 2)
    monkeypatch.setattr(table_file, "PART_BYTES", 4_096)
    parts = parts_of(changed(), tmp_path / "making.tmp")
    making = [part for part in parts if not part.data]
    assert len(making) == 4, "the header and three pieces"
    sent = parts[len(making) :]
    assert len(sent) > 2
    assert {part.total_bytes for part in sent} == {sum(len(part.data) for part in sent)}
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_given_up_is_removed(tmp_path: Path) -> None:
    shard = changed()
    made = table_file.stream(pieces_of(shard, TABLE), tmp_path / "making.tmp")
    next(made)
    assert list(tmp_path.iterdir())
    made.close()
    assert not list(tmp_path.iterdir())
    assert not shard.connection.in_transaction


def test_a_disk_without_room_is_told(tmp_path: Path) -> None:
    shard = changed()
    made = table_file.stream(pieces_of(shard, TABLE), tmp_path / "no folder" / "making.tmp")
    (result,) = made
    assert isinstance(result.error, errors.NoSpace)


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    shard = changed()
    made = table_file.stream(pieces_of(shard, 5), tmp_path / "making.tmp")
    (result,) = made
    assert isinstance(result.error, errors.TableNotFound)


def test_every_damaged_byte_is_seen(tmp_path: Path) -> None:
    saved = save(changed(), tmp_path)
    whole = saved.read_bytes()
    for at in (0, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(table_file.Unsound, match="damaged"):
            table_file.check(saved)
    for cut in (b"", whole[:-1], whole[:-32]):
        saved.write_bytes(cut)
        with pytest.raises(table_file.Unsound, match="cut short"):
            table_file.check(saved)


def sealed(file: Path) -> Path:
    data = file.read_bytes()
    file.write_bytes(data + hashlib.sha256(data).digest())
    return file


def test_another_programs_file_is_not_taken_for_one(tmp_path: Path) -> None:
    file = tmp_path / "other"
    other = apsw.Connection(str(file))
    other.execute("PRAGMA user_version = 1; CREATE TABLE t (x)")
    other.close()
    with pytest.raises(table_file.Unsound, match="no snapshot of a boathouse table"):
        table_file.check(sealed(file))
    junk = tmp_path / "junk"
    junk.write_bytes(b"j" * 1024)
    with pytest.raises(table_file.Unsound, match="can't be read"):
        table_file.check(sealed(junk))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("PRAGMA user_version = 1", "has format 1; this version reads format 2"),
        ("PRAGMA user_version = 3", "has format 3; this version reads format 2"),
        ("DELETE FROM meta", "was not finished"),
        ("UPDATE meta SET revision = 3", "contradicts itself"),
        ("DELETE FROM changes WHERE id = (SELECT max(id) FROM changes)", "contradicts itself"),
    ],
)
def test_a_file_that_was_made_otherwise_is_refused(tmp_path: Path, change: str, complaint: str) -> None:
    saved = save(changed(), tmp_path)
    saved.write_bytes(saved.read_bytes()[: -table_file.DIGEST_BYTES])
    database = apsw.Connection(str(saved))
    database.execute(change)
    database.close()
    with pytest.raises(table_file.Unsound, match=complaint):
        table_file.check(sealed(saved))


def load(saved: Path, into: Shard, piece_bytes: int) -> None:
    for request in table_file.load_requests(saved, piece_bytes):
        result = into.write(request)
        assert result.error is None, result.error


def everything(shard: Shard, revision: int) -> bytes:
    return shard.read(etcd.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)).body


@pytest.mark.parametrize("compacted", [0, 5, 7])
@pytest.mark.parametrize("piece_bytes", [1, 100, 1 << 20])
def test_a_restored_table_is_the_same_at_every_revision(
    tmp_path: Path, compacted: int, piece_bytes: int
) -> None:
    shard, new = changed(), Shard()
    if compacted:
        shard.write(etcd.CompactionRequest(revision=compacted))
    load(save(shard, tmp_path), new, piece_bytes)
    for revision in range(max(compacted, 1), 8):
        assert everything(new, revision) == everything(shard, revision)
    before, after = shard.machine.table_status(), new.machine.table_status()
    for one in (*before, *after):
        one.ClearField("checksum")
        one.ClearField("size_bytes")
    assert before == after
    assert new.put(b"k", b"3") == shard.put(b"k", b"3")
    assert everything(new, 0) == everything(shard, 0)


def test_a_restored_table_has_its_leases_users_and_roles(tmp_path: Path) -> None:
    shard, new = changed(), Shard()
    shard.write(etcd.LeaseGrantRequest(ID=5, TTL=60))
    shard.write(etcd.PutRequest(key=b"leased", value=b"v", lease=5))
    give_users(shard)
    saved = save(shard, tmp_path, left={5: 7})
    contents = table_file.check(saved)
    assert (contents.leases, contents.users, contents.roles) == (1, 2, 2)
    load(saved, new, 1 << 20)
    assert new.machine.auth.of(TABLE) == shard.machine.auth.of(TABLE)
    assert new.machine.auth.guarded == {TABLE}
    assert not new.machine.auth.tokens(TABLE), "nobody is logged in"
    lease = new.machine.leases.get(TABLE, 5)
    assert lease is not None
    assert lease.ttl_s == 60
    assert new.machine.leases.take_changed() == {(TABLE, 5)}
    assert lease.left_ms == 7_000
    assert new.machine.lease_keys(new.connection, TABLE, 5) == [b"leased"]


def test_a_lease_that_is_there_ends_a_restore_before_it_changes_anything(tmp_path: Path) -> None:
    shard, new = changed(), Shard()
    for one in (shard, new):
        one.write(etcd.LeaseGrantRequest(ID=5, TTL=60))
    (whole,) = table_file.load_requests(save(shard, tmp_path), 1 << 20)
    assert isinstance(new.write(whole).error, errors.LeaseExists)
    assert new.machine.table_status()[0].revision == 1


@pytest.mark.parametrize(
    "extras",
    [
        frames.TableExtras(leases=[frames.KeptLease(id=1, ttl_s=0)]),
        frames.TableExtras(leases=[frames.KeptLease(id=1, ttl_s=5, left_s=6)]),
        frames.TableExtras(leases=[frames.KeptLease(id=0, ttl_s=5, left_s=5)]),
        frames.TableExtras(leases=[frames.KeptLease(id=1, ttl_s=5, left_s=5)] * 2),
        frames.TableExtras(auth=[frames.AuthRow(kind=1, name=b"u", data="no JSON")]),
        frames.TableExtras(auth=[frames.AuthRow(kind=1, name=b"u", data="[1]")]),
        frames.TableExtras(auth=[frames.AuthRow(kind=3, name=b"t", data='"u"')]),
        frames.TableExtras(auth=[frames.AuthRow(kind=9, name=b"u", data="[]")]),
        frames.TableExtras(auth=[frames.AuthRow(kind=1, name=b"\xff", data='["", 0, []]')]),
    ],
)
def test_leases_and_users_that_no_table_has_are_refused(extras: frames.TableExtras) -> None:
    new = Shard()
    facts = restore.Facts(revision=1, compacted_revision=-1, extras=extras.SerializeToString())
    assert isinstance(new.write(restore.LoadRequest(facts=facts)).error, errors.InvalidRequest)


def test_a_restored_table_is_counted_and_swept_as_any(tmp_path: Path) -> None:
    new = Shard()
    load(save(changed(), tmp_path), new, 1)
    new.write(etcd.CompactionRequest(revision=7))
    new.sweep(2)
    table = new.machine.tables.get(TABLE)
    assert table is not None
    text = f"SELECT total(length(key) + ifnull(length(kv), 0) + 64) FROM t{TABLE}_rev"  # noqa: S608
    assert table.written_bytes - table.swept_bytes == new.connection.execute(text).get


def test_only_a_new_table_is_restored_and_only_in_order(tmp_path: Path) -> None:
    saved = save(changed(), tmp_path)
    requests = list(table_file.load_requests(saved, 1))
    assert len(requests) > 3
    used = Shard()
    used.put(b"k", b"mine")
    new = Shard()
    assert new.write(requests[0]).error is None
    for shard, request in ((used, requests[0]), (new, requests[0]), (new, requests[2])):
        assert isinstance(shard.write(request).error, errors.InvalidRequest)
    new.put(b"k", b"mine")
    assert isinstance(new.write(requests[1]).error, errors.InvalidRequest)


def test_what_no_table_can_have_made_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    (whole,) = table_file.load_requests(save(changed(), tmp_path), 1 << 20)

    def changed_by(change: Callable[[restore.LoadRequest], object]) -> restore.LoadRequest:
        request = restore.LoadRequest()
        request.CopyFrom(whole)
        change(request)
        return request

    new = Shard()
    for change in (
        lambda one: setattr(one.facts, "keys", 9),
        lambda one: setattr(one.facts, "revision", 2),
        lambda one: setattr(one.facts, "compacted_revision", 99),
        lambda one: setattr(one.changes[0], "id", 1 << 62),
        lambda one: setattr(one.changes[0], "id", 1),
        lambda one: setattr(one.changes[0], "key", b"another"),
        lambda one: setattr(one.changes[0], "key", b""),
        lambda one: setattr(one.changes[0], "kv", b"\x12\x01"),
    ):
        assert isinstance(new.write(changed_by(change)).error, errors.InvalidRequest)
        assert new.machine.table_status()[0].revision == 1
    assert new.write(whole).error is None
