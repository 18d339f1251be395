"""Regatta's ranges: the newest pairs of a span, as many as one message holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.varint import varint_bytes
from shardworker.machine.ops import Page, Paged
from shardworker.machine.pairs import PAIR_BYTES_MAX, pair_bytes, parse
from shardworker.machine.tables import REVISION_MAX
from shardworker.machine.view import SCAN_ROWS_MIN

if TYPE_CHECKING:
    from proto.etcd import kv_pb2
    from shardworker.machine.view import View


def read_page(view: View, op: Page, rows_first: int = SCAN_ROWS_MIN) -> Paged:
    """A page, as of now.

    rows_first: how many rows the first statement reads; those that do not fit were read for nothing."""
    if not op.end:
        if op.count_only:
            return Paged([], int(view.is_live(op.key)), False)
        stored = view.get(op.key)
        if stored is None:
            return Paged([], 0, False)
        if op.keys_only:
            view.visit_pair(len(stored))
        pairs = Pairs(op)
        pairs.take(parse(stored))
    elif op.count_only and not op.keys_only:
        return _page_count(view, op)
    else:
        pairs = Pairs(op)
        for _, blob in view.scan(op.key, op.end, op.limit + 1 if op.limit > 0 else 0, rows_first):
            if not pairs.take(parse(blob)):
                break
    view.charge(pairs.size_bytes)
    return pairs.done()


def _page_count(view: View, op: Page) -> Paged:
    total = view.count(op.key, op.end, op.limit + 1 if 0 < op.limit < REVISION_MAX else -1)
    return Paged([], op.limit, True) if 0 < op.limit < total else Paged([], total, False)


class Pairs:
    """Collects a page of Regatta pairs until its limit or its cap is reached."""

    def __init__(self, op: Page):
        self._op = op
        self._pairs: list[tuple[bytes, bytes]] = []
        self.size_bytes = 0
        """Of what was taken, encoded."""
        self._more = False

    def take(self, kvs: list[kv_pb2.KeyValue]) -> bool:
        """Adds what fits; False once nothing more does.

        The rule of the cap (stop before a pair if the encoded part so far, its count included, plus the raw
        key and value reach it) decides where a page ends, so it is part of the API. A page holds at least one
        pair all the same: an empty one with more to come would never get its reader further."""
        op = self._op
        if op.limit <= 0 and not op.keys_only and self._take_all(kvs):
            return True
        for kv in kvs:
            if 0 < op.limit <= len(self._pairs):
                self._more = True
                return False
            key, value = kv.key, b"" if op.keys_only else kv.value
            taken = len(self._pairs)
            so_far = self.size_bytes + (1 + varint_bytes(taken) if taken else 0)
            if taken and so_far + len(key) + len(value) >= op.bytes_max:
                self._more = True
                return False
            self._pairs.append((key, value))
            self.size_bytes += pair_bytes(key, value)
        return True

    def _take_all(self, kvs: list[kv_pb2.KeyValue]) -> bool:
        """Adds all of them, if it is plain that they fit; else none."""
        keys, values = [kv.key for kv in kvs], [kv.value for kv in kvs]
        raw_bytes, count = sum(map(len, keys)) + sum(map(len, values)), len(kvs)
        if self.size_bytes + raw_bytes + PAIR_BYTES_MAX * (count + 1) >= self._op.bytes_max:
            return False
        self._pairs.extend(zip(keys, values, strict=True))
        if max(map(len, keys)) < 128 <= min(map(len, values)) and max(map(len, values)) < 16_200:
            self.size_bytes += raw_bytes + 8 * count  # as pair_bytes() has it
        else:
            self.size_bytes += sum(map(pair_bytes, keys, values))
        return True

    def done(self) -> Paged:
        return Paged(self._pairs, len(self._pairs), self._more)
