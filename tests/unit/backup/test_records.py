"""A backup's bytes: Regatta's records, in pieces of any size, and what is damaged."""

from __future__ import annotations

import cramjam
import pytest

from coordinator.backup.fillers import GATHERED_BYTES, Fillers
from coordinator.backup.records import Compressor, RecordReader, edits, puts
from coordinator.replication.regatta_form import records
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.pairs import encode_pair
from proto.regatta import mvcc_pb2 as mvcc
from proto.varint import varint


def pair(key: bytes, value: bytes, *, created: int, modified: int, version: int, lease: int = 0) -> bytes:
    return encode_pair(key, varint(created), varint(modified), version, value, lease)


PART = frames.TablePairs(
    pairs=pair(b"a", b"1", created=2, modified=3, version=2, lease=9)
    + pair(b"b" * 300, b"", created=70_000, modified=70_000, version=1),
    ids=[3 << 24, (70_000 << 24) + 5],
)


def stream_of(records: bytes) -> bytes:
    out = Compressor()
    return out.feed(records) + out.finish()


def read(data: bytes, size: int = 1 << 20) -> list[mvcc.Command]:
    reader = RecordReader()
    found = [command for at in range(0, len(data), size) for command in reader.feed(data[at : at + size])]
    reader.end()
    return found


def test_regattas_own_tool_gets_keys_and_values() -> None:
    first, second = read(stream_of(puts(b"t", PART, Fillers(b"t"), full=False)))
    assert first == mvcc.Command(table=b"t", kv=mvcc.KeyValue(key=b"a", value=b"1"))
    assert second == mvcc.Command(table=b"t", kv=mvcc.KeyValue(key=b"b" * 300))


def restored_by_regatta(commands: list[mvcc.Command]) -> list[mvcc.Command]:
    """What is left where the record that comes to what is gathered at a time is lost."""
    kept, gathered_bytes = [], 0
    for command in commands:
        gathered_bytes += command.ByteSize()
        if gathered_bytes < GATHERED_BYTES:
            kept.append(command)
        else:
            gathered_bytes = 0
    return kept


def keys_of(commands: list[mvcc.Command]) -> list[bytes]:
    return [command.kv.key for command in commands if command.type == mvcc.Command.PUT]


@pytest.mark.parametrize(
    "sizes", [[300 << 10], [2 << 20], [1_000] * 200, [GATHERED_BYTES // 2 - 20, 3, 40, 1 << 20]]
)
@pytest.mark.parametrize("form", ["backup", "folder", "snapshot"])
def test_regattas_restore_loses_fillers_instead_of_pairs(sizes: list[int], form: str) -> None:
    fillers, found, keys = Fillers(b"t"), [], []
    for at in range(2 + 3 * GATHERED_BYTES // sum(sizes)):
        values = [(b"%06d-%d" % (at, place), bytes(size)) for place, size in enumerate(sizes)]
        keys += [key for key, _ in values]
        part = frames.TablePairs(
            pairs=b"".join(pair(key, value, created=2, modified=2, version=1) for key, value in values),
            ids=[at + 1 for _ in values],
        )
        if form == "snapshot":
            made = records(b"t", part, fillers)
        else:
            made = puts(b"t", part, fillers, full=form == "folder")
        found += read(stream_of(made))
    assert keys_of(restored_by_regatta(found)) == keys_of(found) == keys


@pytest.mark.parametrize("missing_bytes", [1, 5, 100])
def test_regattas_restore_keeps_the_position_at_the_end_of_a_snapshot(missing_bytes: int) -> None:
    """The last pair leaves so many bytes until something is lost."""
    empty = mvcc.Command(table=b"t", kv=mvcc.KeyValue(key=b"a", value=bytes(GATHERED_BYTES - 1_000)))
    size = len(empty.kv.value) + GATHERED_BYTES - missing_bytes - empty.ByteSize()
    stored = pair(b"a", bytes(size), created=2, modified=2, version=1)
    part = frames.TablePairs(pairs=stored, ids=[1], revision=7, last=True)
    found = restored_by_regatta(read(stream_of(records(b"t", part, Fillers(b"t")))))
    assert keys_of(found) == [b"a"]
    assert found[-1].leader_index == 7


def test_boathouse_gets_all_of_a_pair() -> None:
    first, second = read(stream_of(puts(b"t", PART, Fillers(b"t"), full=True)))
    assert first.kv == mvcc.KeyValue(
        key=b"a", value=b"1", create_revision=2, mod_revision=3, version=2, lease=9, id=3 << 24
    )
    assert second.kv == mvcc.KeyValue(
        key=b"b" * 300, create_revision=70_000, mod_revision=70_000, version=1, id=(70_000 << 24) + 5
    )


def test_changes_are_puts_and_deletions_in_order() -> None:
    stored = pair(b"a", b"2", created=2, modified=4, version=3)
    told = [
        frames.RevisionChanges(
            revision=4, keys=[frames.KeyChange(key=b"x"), frames.KeyChange(key=b"a", kv=stored)]
        )
    ]
    first, second = read(stream_of(edits(b"t", told)))
    assert (first.type, first.kv) == (mvcc.Command.DELETE, mvcc.KeyValue(key=b"x", id=4 << 24))
    assert not first.HasField("range_end")
    assert (second.type, second.kv.key, second.kv.id) == (mvcc.Command.PUT, b"a", (4 << 24) + 1)


def test_an_empty_backup_has_no_bytes() -> None:
    assert stream_of(b"") == b""
    assert read(b"") == []


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_pieces_may_be_cut_anywhere_and_streams_follow_each_other(size: int) -> None:
    records = puts(b"t", PART, Fillers(b"t"), full=True)
    out = Compressor()
    whole = out.feed(records) + out.feed(records) + out.finish() + stream_of(records)
    whole += bytes(cramjam.snappy.compress(records))
    assert read(whole, size) == read(stream_of(records)) * 4


def test_every_flipped_bit_is_seen() -> None:
    whole = stream_of(puts(b"t", PART, Fillers(b"t"), full=True))
    expected = read(whole)
    for at in range(len(whole)):
        for bit in (1, 128):
            damaged = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
            try:
                found = read(damaged)
            except errors.RestoreRefused:
                continue
            # A frame of a kind that readers skip is no part of the stream: the number of keys tells (keys are counted
            # at the end of a restore), and a file's own checksum before that.
            assert found == expected or len(found) < len(expected), at


@pytest.mark.parametrize("cut", [1, 9, 11, 40, -1])
def test_what_is_cut_short_is_seen(cut: int) -> None:
    with pytest.raises(errors.RestoreRefused, match="cut short"):
        read(stream_of(puts(b"t", PART, Fillers(b"t"), full=True))[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04 something else",
        stream_of((1 << 40).to_bytes(8, "little")),
        stream_of((2).to_bytes(8, "little") + b"\xff\xff"),
        stream_of(puts(b"t", PART, Fillers(b"t"), full=True))[:10] + b"\x00\xff\xff\xff",
    ],
)
def test_what_is_no_backup_is_refused(data: bytes) -> None:
    with pytest.raises(errors.RestoreRefused):
        read(data)
