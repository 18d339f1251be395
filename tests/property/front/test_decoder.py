"""Our decoder of header blocks against the hpack package's."""

from __future__ import annotations

import dataclasses

from hpack import Decoder as Second
from hpack import Encoder, HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.front.http2.decoder import Decoder, TooLarge, Undecodable

LIST_BYTES_MAX = 4_000

NAMES = st.one_of(st.sampled_from([b":path", b"te", b"grpc-timeout", b"x"]), st.binary(max_size=20))
FIELDS = st.lists(
    st.tuples(NAMES, st.one_of(st.sampled_from([b"", b"/a.B/C", b"1S"]), st.binary(max_size=300))),
    max_size=12,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """What one block carries, and how."""

    fields: list[tuple[bytes, bytes]]
    huffman: bool
    table_bytes: int | None


BLOCKS = st.builds(
    Block,
    fields=FIELDS,
    huffman=st.booleans(),
    table_bytes=st.one_of(st.none(), st.integers(0, 4_096)),
)


def outcome(decoder: Decoder | Second, block: bytes) -> object:
    """The fields, or what is wrong."""
    try:
        if isinstance(decoder, Decoder):
            return decoder.decode(block)
        return [tuple(map(bytes, field)) for field in decoder.decode(block, raw=True)]
    except TooLarge:
        return "too large"
    except Undecodable:
        return "undecodable"
    except HPACKError as error:
        return "too large" if type(error).__name__ == "OversizedHeaderListError" else "undecodable"


@settings(max_examples=150, deadline=None)
@given(st.lists(BLOCKS, max_size=8))
def test_both_decode_the_same(blocks: list[Block]) -> None:
    encoder, first, second = Encoder(), Decoder(LIST_BYTES_MAX), Second(LIST_BYTES_MAX)
    for block in blocks:
        if block.table_bytes is not None:
            encoder.header_table_size = block.table_bytes
        encoded = encoder.encode(block.fields, huffman=block.huffman)
        found = outcome(first, encoded)
        assert found == outcome(second, encoded)
        if isinstance(found, str):
            return


@settings(max_examples=400, deadline=None)
@given(st.lists(BLOCKS, max_size=3), st.one_of(st.binary(max_size=60), st.binary(min_size=1, max_size=3)))
def test_both_refuse_the_same(blocks: list[Block], nonsense: bytes) -> None:
    encoder, first, second = Encoder(), Decoder(LIST_BYTES_MAX), Second(LIST_BYTES_MAX)
    for block in blocks:
        encoded = encoder.encode(block.fields, huffman=block.huffman)
        if isinstance(outcome(first, encoded), str):
            return
        outcome(second, encoded)
    assert outcome(first, nonsense) == outcome(second, nonsense)
