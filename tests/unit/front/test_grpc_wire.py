"""gRPC's bytes: timeouts, statuses, messages within DATA however it is cut."""

from __future__ import annotations

import itertools
import tracemalloc
from urllib.parse import unquote

import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from coordinator.front import grpc_wire
from coordinator.front.grpc_wire import BadPrefix, MessageReader, TooLarge, prefixed
from coordinator.front.limits import Limits
from proto.codes import Code

CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc+proto"),
]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"250m", 0.25),
        (b"4999812u", 4.999812),
        (b"99999999n", 0.099999999),
        (b"0S", 0.0),
        (b"", None),
        (b"S", None),
        (b"1", None),
        (b"-1S", None),
        (b"1.5S", None),
        (b"123456789S", None),
        (b"1s", None),
        (b"1S ", None),
        (b"\xd9\xa1S", None),  # a digit, but none of ASCII
    ],
)
def test_timeouts(value: bytes, seconds: float | None) -> None:
    assert grpc_wire.parse_timeout(value) == (None if seconds is None else pytest.approx(seconds))


def test_a_call_ends_at_the_earlier_time() -> None:
    assert grpc_wire.deadline_of(None, None, 10.0) == (grpc_wire.NEVER, False)
    assert grpc_wire.deadline_of(None, 5.0, 10.0) == (15.0, False)
    assert grpc_wire.deadline_of(2.0, 5.0, 10.0) == (12.0, True)
    assert grpc_wire.deadline_of(7.0, 5.0, 10.0) == (15.0, False)
    assert grpc_wire.deadline_of(7.0, None, 10.0) == (17.0, True)


def message_in(block: bytes) -> str:
    """grpc-message of a status, still percent-encoded."""
    (_, (name, message)) = Decoder().decode(block, raw=True)
    assert bytes(name) == b"grpc-message"
    return bytes(message).decode("ascii")


@given(st.text())
def test_any_text_survives_as_a_status(text: str) -> None:
    message = message_in(grpc_wire.trailers(Code.INTERNAL, text + "!").block)
    assert unquote(message) == text + "!"
    assert message.isprintable()


def test_a_text_is_cut_between_characters() -> None:
    message = message_in(grpc_wire.trailers(Code.INTERNAL, "ä" * 10_000).block)
    assert unquote(message) == "ä" * (grpc_wire.TEXT_BYTES_MAX // 2)


@given(
    st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=8),
    st.lists(st.integers(0, 400), max_size=10),
)
def test_messages_are_cut_out_of_data_however_it_comes(
    messages: list[tuple[bool, bytes]], cuts: list[int]
) -> None:
    data = b"".join(prefixed(message, compressed=compressed) for compressed, message in messages)
    positions = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader, found = MessageReader(40), []
    for start, end in itertools.pairwise(positions):
        part = reader.feed(data[start:end])
        assert isinstance(part, list)
        found += part
    assert found == messages
    assert reader.pending_bytes == 0


def test_a_message_is_refused_by_what_it_says_of_itself() -> None:
    assert MessageReader(10).feed(prefixed(bytes(11))[:5]) == TooLarge(11)
    assert isinstance(MessageReader(10).feed(b"\2\0\0\0\0"), BadPrefix)
    reader = MessageReader(10)
    assert reader.feed(b"\0\0") == []
    assert reader.feed(b"\0\0\x0b") == TooLarge(11)


def test_metadata_is_what_is_nobody_elses() -> None:
    head = grpc_wire.read_head(
        [*CALL, (b"table", b"users"), (b"table", b"second"), (b"grpc-accept-encoding", b"gzip")], Limits()
    )
    assert head.refusal is None
    assert head.path == "/a.B/C"
    assert head.metadata == {"table": "users"}


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ((b"grpc-encoding", b"lzma"), Code.UNIMPLEMENTED),
        ((b"trace-bin", b"no base64!"), Code.INTERNAL),
        ((b"trace-bin", b"abcde"), Code.INTERNAL),
        ((b"x", b"y" * 70_000), Code.RESOURCE_EXHAUSTED),
    ],
)
def test_what_is_refused_before_any_method_is_looked_for(field: tuple[bytes, bytes], code: Code) -> None:
    refusal = grpc_wire.read_head([*CALL, field], Limits()).refusal
    assert refusal is not None
    assert refusal.code is code


@pytest.mark.parametrize("value", [b"", b"YQ", b"YQ==", b"YWI=", b"YQ,YWI", b"////"])
def test_binary_metadata_may_be_padded_or_not_and_joined(value: bytes) -> None:
    head = grpc_wire.read_head([*CALL, (b"x-bin", value)], Limits())
    assert head.refusal is None
    assert head.metadata["x-bin"] == value.decode()


@pytest.mark.parametrize(
    ("content_type", "is_call"),
    [
        (b"application/grpc", True),
        (b"application/grpc+json", True),
        (b"application/grpc;charset=x", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_what_is_a_call(content_type: bytes, is_call: bool) -> None:
    refusal = grpc_wire.read_head([*CALL[:4], (b"content-type", content_type)], Limits()).refusal
    assert (refusal is None) == is_call
    if refusal is not None:
        assert refusal.http_status == 415


@pytest.mark.parametrize(
    ("text", "carried"),
    [
        ("plain", b"plain"),
        ("ends: ", b"ends:%20"),
        (" begins", b"%20begins"),
        (" ", b"%20"),
        ("100% ü ", b"100%25 %C3%BC%20"),
    ],
)
def test_a_text_neither_begins_nor_ends_with_a_space(text: str, carried: bytes) -> None:
    """RFC 9113, 8.2.1: a reader takes an answer with such a field for malformed."""
    assert grpc_wire.percent_encoded(text) == carried


def test_a_message_in_parts_of_a_byte_takes_little_more_than_its_bytes() -> None:
    size = 200_000
    data = prefixed(bytes(size))
    parts = [data[at : at + 1] for at in range(len(data))]
    reader = MessageReader(size)
    tracemalloc.start()
    for part in parts[:-1]:
        assert reader.feed(part) == []
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * size
    assert reader.feed(parts[-1]) == [(False, bytes(size))]
