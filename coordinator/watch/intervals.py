"""Which of many key spans hold a key: O(log n + matches) for a lookup, O(log n) for a change, however they overlap.

A treap ordered by span, in which each node also knows the furthest end below it (the interval tree of Cormen et al.,
chapter 14.3, kept in balance by random priorities instead of colours). A list of borders with the spans over each
piece would be simpler, but n nested spans cost n * n there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from random import Random

V = TypeVar("V")

Span = tuple[bytes, bytes]
"""[begin, end); an end of NO_END is above every key."""
NO_END: Final = b""


class _Node(Generic[V]):
    __slots__ = ("furthest", "left", "priority", "right", "span", "value")

    def __init__(self, span: Span, value: V, priority: float) -> None:
        self.span = span
        self.value = value
        self.priority = priority
        self.left: _Node[V] | None = None
        self.right: _Node[V] | None = None
        self.furthest = span[1]

    def measure(self) -> _Node[V]:
        """Notes the furthest end again after a child was exchanged."""
        furthest = self.span[1]
        for child in (self.left, self.right):
            if child is not None and furthest != NO_END:
                other = child.furthest
                furthest = NO_END if other == NO_END else max(furthest, other)
        self.furthest = furthest
        return self


class IntervalMap(Generic[V]):
    """One value for each span."""

    def __init__(self, random: Random) -> None:
        """random keeps the tree flat, whatever the order in which spans come."""
        self._random = random
        self._root: _Node[V] | None = None
        self._nodes: dict[Span, _Node[V]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, span: Span) -> V | None:
        """The value of exactly this span."""
        node = self._nodes.get(span)
        return None if node is None else node.value

    def add(self, span: Span, value: V) -> None:
        """A span that is not in it yet."""
        assert span not in self._nodes
        node = self._nodes[span] = _Node(span, value, self._random.random())
        self._root = _insert(self._root, node)

    def remove(self, span: Span) -> None:
        """A span that is in it."""
        del self._nodes[span]
        self._root = _remove(self._root, span)

    def over(self, key: bytes) -> list[V]:
        """The values of all spans that hold the key, in no order."""
        found: list[V] = []
        stack = [self._root]
        while stack:
            node = stack.pop()
            if node is None or (node.furthest <= key and node.furthest != NO_END):
                continue
            stack.append(node.left)
            begin, end = node.span
            if begin <= key:
                if key < end or end == NO_END:
                    found.append(node.value)
                stack.append(node.right)
        return found


def _insert(node: _Node[V] | None, new: _Node[V]) -> _Node[V]:
    if node is None:
        return new
    if new.priority > node.priority:
        new.left, new.right = _split(node, new.span)
        return new.measure()
    if new.span < node.span:
        node.left = _insert(node.left, new)
    else:
        node.right = _insert(node.right, new)
    return node.measure()


def _split(node: _Node[V] | None, span: Span) -> tuple[_Node[V] | None, _Node[V] | None]:
    if node is None:
        return None, None
    if node.span < span:
        node.right, above = _split(node.right, span)
        return node.measure(), above
    below, node.left = _split(node.left, span)
    return below, node.measure()


def _remove(node: _Node[V] | None, span: Span) -> _Node[V] | None:
    assert node is not None
    if node.span == span:
        return _join(node.left, node.right)
    if span < node.span:
        node.left = _remove(node.left, span)
    else:
        node.right = _remove(node.right, span)
    return node.measure()


def _join(below: _Node[V] | None, above: _Node[V] | None) -> _Node[V] | None:
    if below is None or above is None:
        return below or above
    if below.priority > above.priority:
        below.right = _join(below.right, above)
        return below.measure()
    above.left = _join(below, above.left)
    return above.measure()
