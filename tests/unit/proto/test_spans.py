"""Spans of keys as sets, against the plainest model: the keys themselves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.spans import EVERYTHING, NOTHING, SpanSet, span_of

KEYS = [bytes(letters) for size in (1, 2) for letters in itertools.product((0, 1, 97, 98, 255), repeat=size)]

keys = st.sampled_from(KEYS)
ends = st.one_of(st.just(b""), st.just(b"\0"), keys)


def meant(key: bytes, end: bytes) -> set[bytes]:
    if not end:
        return {key}
    return {other for other in KEYS if other >= key and (end == b"\0" or other < end)}


@pytest.mark.parametrize(
    ("key", "end", "span"),
    [
        (b"a", b"", (b"a", b"a\0")),
        (b"a", b"c", (b"a", b"c")),
        (b"a", b"\0", (b"a", None)),
        (b"a", b"a", None),
        (b"b", b"a", None),
    ],
)
def test_what_a_message_means(key: bytes, end: bytes, span: object) -> None:
    assert span_of(key, end) == span


def test_what_touches_is_one() -> None:
    spans = SpanSet([(b"c", b"e"), (b"a", b"c"), (b"e", b"e\0"), (b"x", None), (b"y", b"z")])
    assert spans.spans == ((b"a", b"e\0"), (b"x", None))


def test_everything_and_nothing() -> None:
    assert EVERYTHING.covers((b"", None))
    assert not NOTHING.covers((b"a", b"a\0"))
    assert not EVERYTHING.covers(None)


@given(st.lists(st.tuples(keys, ends), max_size=5), keys, ends)
def test_a_set_covers_what_lies_in_it(held: list[tuple[bytes, bytes]], key: bytes, end: bytes) -> None:
    spans = [span_of(*one) for one in held]
    found = SpanSet(span for span in spans if span is not None)
    wanted = span_of(key, end)
    holds = set[bytes]().union(
        *(meant(*one) for one, span in zip(held, spans, strict=True) if span is not None)
    )
    if wanted is None:
        assert not found.covers(wanted)
        return
    if found.covers(wanted):
        assert meant(key, end) <= holds
    elif end == b"":
        assert key not in holds
    # Whatever is covered is covered by one piece, since pieces that touch are one.
    assert found.covers(wanted) == any(SpanSet([piece]).covers(wanted) for piece in found.spans)
