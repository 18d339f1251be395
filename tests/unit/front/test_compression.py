"""Compressed messages: what Go's clients write is read, and no bomb, cut or trailer gets through."""

from __future__ import annotations

import gzip
import tracemalloc

import cramjam
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coordinator.front.compression import (
    ENCODINGS,
    GZIP_MEMBERS_MAX,
    PIECES_MAX,
    ZSTD_FRAMES_MAX,
    compress,
    decompress,
)
from proto import errors

COMPRESSING = [encoding for encoding in ENCODINGS if encoding != "identity"]
LIMIT = 1 << 20
SNAPPY_START = b"\xff\x06\x00\x00sNaPpY"

# What Go's writers (compress/gzip, golang/snappy 1.0.0, klauspost/compress/zstd 1.20.4) make of three messages.
BOATS = b"boathouse " * 20
FROM_GO = {
    ("gzip", b""): "1f8b08000000000000ff010000ffff0000000000000000",
    ("gzip", b"boathouse"): "1f8b08000000000000ff4aca4f2cc9c82f2d4e05040000ffff9dc9d28109000000",
    ("gzip", BOATS): "1f8b08000000000000ff4aca4f2cc9c82f2d4e5518da2c40000000ffff5cfc3346c8000000",
    ("snappy", b""): "",
    ("snappy", b"boathouse"): "ff060000734e61507059010d0000aaa42280626f6174686f757365",
    ("snappy", BOATS): "ff060000734e61507059001a000089132b13c80124626f6174686f75736520fe0a00fe0a00f60a00",
    ("zstd", b""): "28b52ffd046801000099e9d851",
    ("zstd", b"boathouse"): "28b52ffd0400490000626f6174686f757365891cf496",
    ("zstd", BOATS): "28b52ffd040095000050626f6174686f7573652001540a032bbb06210775a0",
}
ZSTD_HEAD = bytes.fromhex("28b52ffd0058")
"""Without a checksum and a size, with a window of 2 MiB."""


@given(st.sampled_from(ENCODINGS), st.binary(max_size=300), st.integers(1, 2_000))
def test_what_is_compressed_comes_back(encoding: str, piece: bytes, times: int) -> None:
    message = piece * times
    assert decompress(encoding, compress(encoding, message), bytes_max=len(message)) == message


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_limit_is_the_last_size_that_passes(encoding: str) -> None:
    message = compress(encoding, b"x" * 200_000)
    assert len(decompress(encoding, message, bytes_max=200_000)) == 200_000
    with pytest.raises(errors.MessageTooLarge, match=r"2\d+ vs\. 199999"):
        decompress(encoding, message, bytes_max=199_999)


def zstd_of_unknown_size(content: bytes) -> bytes:
    writer = zstandard.ZstdCompressor(level=1).compressobj()
    return writer.compress(content) + writer.flush()


@pytest.mark.parametrize(
    ("encoding", "bomb"),
    [
        ("gzip", gzip.compress(bytes(64 << 20))),
        ("snappy", bytes(cramjam.snappy.compress(bytes(64 << 20)))),
        ("zstd", zstandard.compress(bytes(64 << 20))),
        ("zstd", zstd_of_unknown_size(bytes(16 << 20))),
        ("gzip", gzip.compress(bytes(1 << 20)) * GZIP_MEMBERS_MAX),
        ("zstd", zstd_of_unknown_size(bytes(1 << 20)) * ZSTD_FRAMES_MAX),
    ],
    ids=["gzip", "snappy", "zstd", "zstd, size not said", "gzip in members", "zstd in frames"],
)
def test_a_bomb_is_refused_before_it_takes_memory(encoding: str, bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(errors.MessageTooLarge):
            decompress(encoding, bomb, bytes_max=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT + len(bomb)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", COMPRESSING)
def test_a_message_that_is_cut_short_is_refused(encoding: str) -> None:
    message = compress(encoding, bytes(range(256)) * 600)
    whole_chunks = {10, 14 + int.from_bytes(message[11:14], "little")} if encoding == "snappy" else set()
    for end in (*range(1, 40), len(message) // 2, *range(len(message) - 12, len(message))):
        if end not in whole_chunks:  # a snappy stream has no end mark: a whole chunk is a whole stream
            with pytest.raises(errors.MalformedRequest):
                decompress(encoding, message[:end], bytes_max=LIMIT)


@pytest.mark.parametrize("encoding", COMPRESSING)
@pytest.mark.parametrize("trailer", [b"\x00", b"junk", b"\x00" * 8, b"\x1f\x8b"])
def test_what_stands_behind_a_message_is_refused(encoding: str, trailer: bytes) -> None:
    with pytest.raises(errors.MalformedRequest):
        decompress(encoding, compress(encoding, b"boathouse") + trailer, bytes_max=LIMIT)


@given(st.sampled_from(COMPRESSING), st.binary(min_size=1, max_size=200), st.data())
def test_damage_is_refused_or_harmless(encoding: str, content: bytes, data: st.DataObject) -> None:
    """Some bits mean nothing (a file name's flag, padding); but nothing raises anything else, or grows."""
    message = bytearray(compress(encoding, content))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(decompress(encoding, bytes(message), bytes_max=1_000)) <= 1_000
    except (errors.MalformedRequest, errors.MessageTooLarge):
        pass


@given(st.sampled_from(COMPRESSING), st.binary(max_size=200))
def test_noise_is_refused_or_harmless(encoding: str, noise: bytes) -> None:
    starts = {"gzip": b"\x1f\x8b\x08", "snappy": SNAPPY_START, "zstd": b"\x28\xb5\x2f\xfd"}
    for message in (noise, starts[encoding] + noise):
        try:
            assert len(decompress(encoding, message, bytes_max=1_000)) <= 1_000
        except (errors.MalformedRequest, errors.MessageTooLarge):
            pass


@pytest.mark.parametrize(("encoding", "content"), FROM_GO)
def test_what_gos_writers_make_is_read(encoding: str, content: bytes) -> None:
    message = bytes.fromhex(FROM_GO[encoding, content])
    assert decompress(encoding, message, bytes_max=len(content)) == content


def test_an_empty_message() -> None:
    for encoding in ENCODINGS:
        assert decompress(encoding, compress(encoding, b""), bytes_max=0) == b""
    for encoding in ("snappy", "zstd"):
        assert decompress(encoding, b"", bytes_max=0) == b""
    assert compress("snappy", b"") == b""
    assert decompress("snappy", SNAPPY_START, bytes_max=0) == b""
    with pytest.raises(errors.MalformedRequest):
        decompress("gzip", b"", bytes_max=0)


@pytest.mark.parametrize("encoding", COMPRESSING)
def test_several_streams_in_a_row_are_one_message(encoding: str) -> None:
    message = compress(encoding, b"boat") + compress(encoding, b"house" * 30_000)
    assert decompress(encoding, message, bytes_max=LIMIT) == b"boat" + b"house" * 30_000


def test_what_a_reader_may_skip_is_skipped() -> None:
    padding = b"\xfe\x03\x00\x00abc"
    assert decompress("snappy", compress("snappy", b"boat") + padding, bytes_max=LIMIT) == b"boat"
    skippable = (0x184D2A53).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    assert decompress("zstd", skippable + compress("zstd", b"boat"), bytes_max=LIMIT) == b"boat"


def test_too_many_pieces_are_refused_quickly() -> None:
    """Each costs a few bytes to send, and time here."""
    empty_chunk = b"\x01\x04\x00\x00\xd8\xea\x82\xa2"
    assert decompress("snappy", SNAPPY_START + empty_chunk * 3, bytes_max=0) == b""
    empty_block_but_not_the_last = b"\x00\x00\x00"
    for encoding, message in [
        ("gzip", gzip.compress(b"") * (GZIP_MEMBERS_MAX + 1)),
        ("snappy", SNAPPY_START + empty_chunk * PIECES_MAX),
        ("zstd", zstandard.compress(b"x") * (ZSTD_FRAMES_MAX + 1)),
        ("zstd", ZSTD_HEAD + empty_block_but_not_the_last * PIECES_MAX + b"\x01\x00\x00"),
    ]:
        with pytest.raises(errors.MalformedRequest, match="more"):
            decompress(encoding, message, bytes_max=100)


def test_a_window_that_no_writer_needs_is_refused() -> None:
    """The head of a frame may ask its reader for gigabytes."""
    window_of_128_mib = 17 << 3
    message = ZSTD_HEAD[:5] + bytes((window_of_128_mib,)) + b"\x01\x00\x00"
    with pytest.raises(errors.MalformedRequest, match="zstd: "):
        decompress("zstd", message, bytes_max=LIMIT)
