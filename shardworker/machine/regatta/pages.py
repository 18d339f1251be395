"""Regatta's ranges: the newest pairs of a span, as many as one message holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.varint import varint_bytes
from shardworker.machine.ops import Page, Paged
from shardworker.machine.pairs import keys_and_values, pair_bytes
from shardworker.machine.regatta import kvs
from shardworker.machine.tables import REVISION_MAX
from shardworker.machine.view import SCAN_ROWS_MIN

if TYPE_CHECKING:
    from shardworker.machine.view import View

COUNT_BYTES_MAX: Final = 6
"""What the count of a page takes: a tag, and a number below 2^35."""


def read_page(view: View, op: Page, rows_first: int = SCAN_ROWS_MIN) -> Paged:
    """A page, as of now.

    rows_first: how many rows the first statement reads; those that do not fit were read for nothing."""
    if not op.end:
        if op.count_only:
            return Paged([], b"", int(view.is_live(op.key)), False)
        stored = view.get(op.key)
        if stored is None:
            return Paged([], b"", 0, False)
        if op.keys_only:
            view.visit_pair(len(stored))
        pairs = Pairs(op)
        pairs.take(*keys_and_values(stored))
    elif op.count_only and not op.keys_only:
        return _page_count(view, op)
    else:
        pairs = Pairs(op)
        for _, blob in view.scan(op.key, op.end, op.limit + 1 if op.limit > 0 else 0, rows_first):
            if not pairs.take(*keys_and_values(blob)):
                break
    view.charge(pairs.size_bytes)
    return pairs.done()


def _page_count(view: View, op: Page) -> Paged:
    total = view.count(op.key, op.end, op.limit + 1 if 0 < op.limit < REVISION_MAX else -1)
    return Paged([], b"", op.limit, True) if 0 < op.limit < total else Paged([], b"", total, False)


class Pairs:
    """Collects a page of Regatta pairs until its limit or its cap is reached."""

    def __init__(self, op: Page):
        self._op = op
        self._kvs: list[bytes] = []
        self._count = 0
        self._last_key = b""
        self.size_bytes = 0
        """Of what was taken, encoded."""
        self._more = False

    def take(self, keys: list[bytes], values: list[bytes]) -> bool:
        """Adds what fits; False once nothing more does."""
        room = self._op.limit - self._count if self._op.limit > 0 else len(keys)
        if room < len(keys):
            keys, values = keys[:room], values[:room]
            self._more = True
        if self._op.keys_only:
            values = [b""] * len(keys)
        piece = kvs.encode(keys, values)
        if self.size_bytes + len(piece) + COUNT_BYTES_MAX >= self._op.bytes_max:
            fitting = self._fitting(keys, values)
            if fitting < len(keys):
                keys, self._more = keys[:fitting], True
                piece = kvs.encode(keys, values[:fitting])
        if keys:
            self._kvs.append(piece)
            self._count += len(keys)
            self._last_key = keys[-1]
            self.size_bytes += len(piece)
        return not self._more

    def _fitting(self, keys: list[bytes], values: list[bytes]) -> int:
        """How many of them the page holds.

        The rule of the cap (stop before a pair if the encoded part so far, its count included, plus the raw
        key and value reach it) decides where a page ends, so it is part of the API. A page holds at least one
        pair all the same: an empty one with more to come would never get its reader further."""
        size_bytes, taken = self.size_bytes, self._count
        for key, value in zip(keys, values, strict=True):
            so_far = size_bytes + (1 + varint_bytes(taken) if taken else 0)
            if taken and so_far + len(key) + len(value) >= self._op.bytes_max:
                break
            size_bytes += pair_bytes(key, value)
            taken += 1
        return taken - self._count

    def done(self) -> Paged:
        return Paged(self._kvs, self._last_key, self._count, self._more)
