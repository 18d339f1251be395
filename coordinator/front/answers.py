"""How many bytes of answers a process may hold: those that are queued, and those that are to be expected.

How large an answer will be is not known before it is there, so a call under way counts for as much as its method's
answers were lately, on average; those that wait for other clients, and streams, count nothing before they answer. What
a connection may claim is what the process has left (with `bytes_max` in all, n connections whose clients do not read
come to n/(n+1) of it), so whoever reads finds room, however many do not. What finds none waits for its turn: a call
before it starts, a stream before it queues a message. Connections take turns, and each one's calls go in order.

An answer that comes all the same when its connection has claimed twice its part is dropped: memory has a bound
whatever clients ask for. What is small always has room, up to twice of everything: it costs hardly more than the words
of a refusal, and so a write does not wait for those who read much and slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from coordinator.front.tally import Tally
from proto import errors
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.api.meter import CallMeter
    from coordinator.front.limits import Limits

MEMORY_CALLS: Final = 64
"""The average follows a change within about so many calls of a method."""


def refusal(access: Access) -> errors.BoathouseError:
    """What is said of a call whose answer was dropped."""
    if access is Access.WRITE:
        return errors.TimedOut()  # it was applied: nothing may say that it was not
    return errors.QueueFull("too many answers wait to be read")


class Waiting(Protocol):
    """A call that waits for its turn."""

    def proceed(self) -> None:
        """It is its turn."""


class Queue(Protocol):
    """Where answers of a connection wait for its client."""

    @property
    def queued_bytes(self) -> int: ...


class _Wish(NamedTuple):
    """What something waits for."""

    has_room: Callable[[int], bool]
    size: int
    is_start: bool


class AnswerRoom:
    """One for all connections of a process."""

    __slots__ = (
        "_call_soon", "_release_due", "bytes_always", "bytes_max", "calls_waiting", "calls_waiting_max",
        "connection_bytes_max", "expected_bytes", "running", "tally", "turns",
    )  # fmt: skip

    def __init__(self, limits: Limits, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """call_soon: the event loop's."""
        self._call_soon = call_soon
        self._release_due = False
        self.bytes_max = limits.answer_bytes_max
        self.bytes_always = limits.answer_bytes_always
        self.connection_bytes_max = limits.connection_answer_bytes_max
        self.calls_waiting_max = limits.calls_waiting_max
        self.tally = Tally()
        """What is queued on connections."""
        self.expected_bytes = 0
        self.running = 0
        """Calls under way that count for expected_bytes."""
        self.calls_waiting = 0
        self.turns: dict[AnswerShare, None] = {}
        """Connections with something that waits, in the order of their turns."""

    @property
    def is_scarce(self) -> bool:
        """Whether so much is queued that who reads slowly is in the way of others."""
        return 2 * self.tally.bytes > self.bytes_max

    def release_soon(self) -> None:
        """There may be room again. What waits goes on in the next turn of the loop: not from within the end of another
        call, which would go as deep as there are calls."""
        if self.turns and not self._release_due:
            self._release_due = True
            self._call_soon(self._release)

    def _release(self) -> None:
        self._release_due = False
        able = list(self.turns)
        try:
            while able:
                able = [share for share in able if share.proceed_next()]
        except BaseException:
            self.release_soon()  # whoever breaks at its turn holds up none behind it
            raise


class AnswerShare:
    """What one connection has claimed of the room, and what waits on it."""

    __slots__ = ("_bytes_max", "_expected_bytes", "_queue", "_room", "_waiting")

    def __init__(self, room: AnswerRoom, queue: Queue) -> None:
        self._room = room
        self._queue = queue
        self._bytes_max = room.connection_bytes_max
        self._expected_bytes = 0
        self._waiting: dict[Waiting, _Wish] = {}

    # ---- calls -------------------------------------------------------------------------------------------------------

    def begin(self, meter: CallMeter) -> int:
        """A call starts: how many bytes are expected of it, for end()."""
        size = meter.answer_bytes_mean
        room = self._room
        room.running += 1
        if size:
            room.expected_bytes += size
            self._expected_bytes += size
        return size

    def end(self, meter: CallMeter, expected: int, size: int | None) -> None:
        """A call has its answer, of so many bytes. None: it has ended without one, which says nothing of how large
        answers are."""
        room = self._room
        room.running -= 1
        if expected:
            room.expected_bytes -= expected
            self._expected_bytes -= expected
        if size is not None and size != expected:
            # In whole numbers, so that what is added up comes back to nothing.
            meter.answer_bytes_mean += (size - meter.answer_bytes_mean) // MEMORY_CALLS
        if room.turns:
            room.release_soon()

    def may_start(self, size: int) -> bool:
        """Whether a call may start of whose answer so many bytes are expected. A small one does not wait for those that
        do."""
        return self._has_room_to_start(size) and (not self._waiting or size <= self._room.bytes_always)

    def wait_to_start(self, call: Waiting, size: int) -> bool:
        """Let a call wait until it may start. False if too many do already."""
        room = self._room
        if room.calls_waiting >= room.calls_waiting_max:
            return False
        room.calls_waiting += 1
        self._wait(call, _Wish(self._has_room_to_start, size, is_start=True))
        return True

    def _has_room_to_start(self, size: int) -> bool:
        room = self._room
        claimed = self._queue.queued_bytes + self._expected_bytes
        if size <= room.bytes_always:
            return claimed < 2 * self._bytes_max and claimed < 2 * room.bytes_max - room.tally.bytes
        # What is only expected leaves half of the room: a shard that does not answer holds up no other.
        expected_bytes = min(room.expected_bytes, room.bytes_max // 2)
        return claimed < self._bytes_max and claimed < room.bytes_max - room.tally.bytes - expected_bytes

    def takes_answer(self, size: int) -> bool:
        """Whether an answer of so many bytes may be queued."""
        room, queued = self._room, self._queue.queued_bytes
        if size <= room.bytes_always:
            return True
        if not queued:
            return room.tally.bytes + size <= 2 * room.bytes_max
        return queued + size <= 2 * min(self._bytes_max, room.bytes_max - room.tally.bytes)

    # ---- messages of streams -----------------------------------------------------------------------------------------

    def may_send(self, size: int) -> bool:
        """Whether a stream may queue a message of so many bytes."""
        return not self._waiting and self._has_room_to_send(size)

    def wait_to_send(self, call: Waiting, size: int) -> None:
        """Let a stream wait until it may."""
        self._wait(call, _Wish(self._has_room_to_send, size, is_start=False))

    def _has_room_to_send(self, size: int) -> bool:
        room, queued = self._room, self._queue.queued_bytes
        free = room.bytes_max - room.tally.bytes
        if not queued:
            return size <= free or not room.tally.bytes
        return queued + size <= min(self._bytes_max, free)

    # ---- turns -------------------------------------------------------------------------------------------------------

    def _wait(self, waiting: Waiting, wish: _Wish) -> None:
        self._room.turns[self] = None
        self._waiting[waiting] = wish

    def withdraw(self, waiting: Waiting) -> None:
        """It waits no longer."""
        wish = self._waiting.pop(waiting)
        self._room.calls_waiting -= wish.is_start
        if not self._waiting:
            del self._room.turns[self]

    def proceed_next(self) -> bool:
        """Let the first that waits go on, if there is room for it. Whether that may be so for another one, too."""
        if not self._waiting:
            return False
        waiting, wish = next(iter(self._waiting.items()))
        if not wish.has_room(wish.size):
            return False
        turns = self._room.turns
        del turns[self]
        turns[self] = None
        self.withdraw(waiting)
        waiting.proceed()
        return True


class CommonShare(AnswerShare):
    """What many clients have claimed together, each with a connection of its own. Like the client of one connection
    they leave half of the room to others, but its bound is not theirs: what one of them does not read is not in the way
    of the rest before that half is full, nor ever in that of small calls, which heed the process's bound alone."""

    __slots__ = ()

    def __init__(self, room: AnswerRoom, queue: Queue) -> None:
        super().__init__(room, queue)
        self._bytes_max = room.bytes_max

    def _has_room_to_start(self, size: int) -> bool:
        room = self._room
        if size <= room.bytes_always:
            return room.tally.bytes < 2 * room.bytes_max
        return super()._has_room_to_start(size)
