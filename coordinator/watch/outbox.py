"""What waits to be sent on one watch stream, with a bound.

The bound is a stream's, not a watcher's: HTTP/2 controls the flow of a stream, so its watchers are fast or slow
together. A second bound holds for all streams of the coordinator. And it is full, whatever is in it, while it is not
known what its client may hear. Whoever is about to add events asks `is_full` first;
answers to requests and the news that a watcher has ended are always taken, because there is at most one for each
request or watcher, and a stream that is full takes no more requests.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from coordinator.api.call import Alike

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Budget:
    """Bytes that all outboxes together may hold before each takes no more than one response at a time, a short one."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0


class Outbox:
    """First in, first out."""

    def __init__(
        self, budget: Budget, *, bytes_max: int, on_message: Callable[[], None], on_room: Callable[[], None]
    ) -> None:
        """on_message: there is something to send again. on_room: it was full, and is half empty again."""
        self._budget = budget
        self._bytes_max = bytes_max
        self._on_message = on_message
        self._on_room = on_room
        self._messages: deque[bytes | Alike] = deque()
        self._bytes = 0
        self._was_full = False
        self._is_held = False

    @property
    def is_short(self) -> bool:
        """Whether all together hold as much as they may: what this one still takes should be small."""
        return self._budget.bytes >= self._budget.bytes_max

    @property
    def is_full(self) -> bool:
        """Whether events must wait. An empty outbox takes a response of any size: some are larger than the bound."""
        if not self._is_held:
            is_over = self._bytes >= self._bytes_max or self._budget.bytes >= self._budget.bytes_max
            if not (is_over and self._messages):
                return False
        self._was_full = True
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._messages

    def has_room(self, size_bytes: int) -> bool:
        """Whether it takes events of so many bytes at once, and is not over any bound with them."""
        budget = self._budget
        return (
            not self._is_held
            and self._bytes + size_bytes <= self._bytes_max
            and budget.bytes + size_bytes <= budget.bytes_max
        )

    def put_alike(self, messages: Alike) -> None:
        """As put() of events that other outboxes get, too. They leave as they are, with nothing beside them."""
        idle = not self._messages
        self._messages.append(messages)
        self._count(messages.size_bytes)
        if idle:
            self._on_message()

    def put(self, messages: Sequence[bytes]) -> None:
        """Messages that belong together: nothing comes between them."""
        idle = not self._messages
        self._messages.extend(messages)
        self._count(sum(map(len, messages)))
        if idle:
            self._on_message()

    def pop_batch(self, bytes_max: int) -> Sequence[bytes]:
        """The next ones to send together: none once they have so many bytes, but one of any size, and what was put as
        Alike whole. Empty = nothing waits."""
        messages = self._messages
        batch: list[bytes] = []
        alike: Alike | None = None
        size = 0
        while messages and size < bytes_max:
            message = messages[0]
            if isinstance(message, Alike):
                if not batch:
                    alike = message
                    messages.popleft()
                    size = alike.size_bytes
                break
            batch.append(message)
            messages.popleft()
            size += len(message)
        self._count(-size)
        if self._was_full and (not messages or 2 * self._bytes <= self._bytes_max) and not self.is_full:
            self._was_full = False
            self._on_room()
        return batch if alike is None else alike

    @property
    def oldest(self) -> bytes | None:
        """The one that has waited longest."""
        if not self._messages:
            return None
        first = self._messages[0]
        return first[0] if isinstance(first, Alike) else first

    def hold(self) -> None:
        """Take no events until release()."""
        self._is_held = True

    def release(self) -> None:
        """Take events again. No harm if it was not held."""
        if self._is_held:
            self._is_held = False
            if not self.is_full:
                self._was_full = False
                self._on_room()

    def close(self) -> None:
        """Nobody will send the rest."""
        self._messages.clear()
        self._count(-self._bytes)

    def _count(self, size: int) -> None:
        self._bytes += size
        self._budget.bytes += size
