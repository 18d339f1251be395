"""Pages of Regatta's pairs, which are read and encoded column by column, against the rule of the API pair by pair."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proto.etcd import rpc_pb2 as etcd
from proto.regatta import mvcc_pb2, regatta_pb2
from shardworker.machine import pairs as stored_pairs
from shardworker.machine.ops import Page
from shardworker.machine.regatta import codec
from shardworker.machine.regatta.pages import Pairs

LENGTHS = st.sampled_from((0, 0, 1, 2, 100, 126, 127, 128, 129, 300, 16_199, 16_200, 16_383, 16_384))
NUMBERS = st.one_of(st.just(0), st.integers(1, 300), st.integers(1, 2**63 - 1))
Stored = etcd.RangeResponse


@st.composite
def stored(draw: st.DrawFn) -> list[Stored]:
    """Of one pair each, in the order of their keys."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 140), LENGTHS), max_size=12))
    found = []
    for number, (key_bytes, value_bytes) in enumerate(sizes):
        one = Stored()
        one.kvs.add(
            key=b"%03d" % number + b"k" * key_bytes,
            value=b"*" * value_bytes,
            create_revision=draw(NUMBERS),
            mod_revision=draw(NUMBERS),
            version=draw(NUMBERS),
            lease=draw(NUMBERS),
        )
        found.append(one)
    return found


def by_the_rule(found: list[Stored], op: Page) -> tuple[list[mvcc_pb2.KeyValue], bool]:
    """The pairs of a page, and whether there are more: what is encoded so far counts as a message of them does."""
    page = regatta_pb2.RangeResponse()
    for one in found:
        key, value = one.kvs[0].key, b"" if op.keys_only else one.kvs[0].value
        if 0 < op.limit <= len(page.kvs):
            return list(page.kvs), True
        page.count = len(page.kvs)
        if page.kvs and page.ByteSize() + len(key) + len(value) >= op.bytes_max:
            return list(page.kvs), True
        page.kvs.add(key=key, value=value)
    return list(page.kvs), False


@given(
    stored(),
    st.integers(0, 14),
    st.booleans(),
    st.one_of(st.integers(1, 60_000), st.just(1 << 30)),
    st.integers(1, 13),
)
def test_a_page_holds_what_the_rule_says(
    found: list[Stored], limit: int, keys_only: bool, bytes_max: int, step: int
) -> None:
    op = Page(b"\0", b"\0", limit, keys_only, False, bytes_max)
    page = Pairs(op)
    for first in range(0, len(found), step):
        blob = b"".join(one.SerializeToString() for one in found[first : first + step])
        if not page.take(*stored_pairs.keys_and_values(blob)):
            break
    kvs, more = by_the_rule(found, op)
    done = page.done()
    assert done.more == more
    body = codec.page_body(done, more=done.more)
    expected = regatta_pb2.RangeResponse(kvs=kvs, count=len(kvs), more=more)
    assert body == expected.SerializeToString()
    assert page.size_bytes == regatta_pb2.RangeResponse(kvs=kvs).ByteSize()
