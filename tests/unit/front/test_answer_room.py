"""How much of answers there may be, and who waits for whom: the rule, without a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from coordinator.api.meter import CallMeter
from coordinator.front.answers import AnswerRoom, AnswerShare, CommonShare
from coordinator.front.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable


MEGABYTE = 1 << 20
LIMITS = Limits(
    answer_bytes_max=100 * MEGABYTE, connection_answer_bytes_max=40 * MEGABYTE, calls_waiting_max=10
)


@dataclass(eq=False)
class Client:
    """A connection whose client reads nothing, and all of whose calls have answers of the same size."""

    room: AnswerRoom
    size: int
    queued_bytes: int = 0
    proceeded: list[Ask] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.share = AnswerShare(self.room, self)
        self.meter = CallMeter()
        self.meter.answer_bytes_mean = self.size

    def answer(self) -> bool:
        """Get an answer queued, if a call may start and its answer is taken."""
        if not self.share.may_start(self.size):
            return False
        self.share.end(self.meter, self.share.begin(self.meter), self.size)
        return self.get_answer()

    def get_answer(self) -> bool:
        """The same for a call that has started."""
        if not self.share.takes_answer(self.size):
            return False
        self.queue(self.size)
        return True

    def queue(self, size: int) -> None:
        self.queued_bytes += size
        self.room.tally.bytes += size

    def read_all(self) -> None:
        self.room.tally.bytes -= self.queued_bytes
        self.queued_bytes = 0
        self.room.release_soon()


@dataclass(eq=False)
class Ask:
    """Something that waits for its turn."""

    client: Client
    then: Callable[[], None] = lambda: None

    def start_later(self) -> bool:
        return self.client.share.wait_to_start(self, self.client.size)

    def proceed(self) -> None:
        self.client.proceeded.append(self)
        self.then()


class Turns:
    """call_soon of a loop that turns when it is told to."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def turn(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def room(turns: Turns) -> AnswerRoom:
    return AnswerRoom(LIMITS, turns.call_soon)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 90])
def test_however_many_do_not_read_there_is_room_for_who_does(room: AnswerRoom, count: int) -> None:
    deaf = [Client(room, MEGABYTE) for _ in range(count)]
    while sum(client.answer() for client in deaf):
        pass
    assert all(0 < client.queued_bytes <= LIMITS.connection_answer_bytes_max for client in deaf)
    assert room.tally.bytes <= LIMITS.answer_bytes_max
    assert Client(room, MEGABYTE).answer()


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_a_burst_of_which_nobody_knew_how_large_it_would_be_leaves_room_too(
    room: AnswerRoom, count: int
) -> None:
    deaf = [Client(room, MEGABYTE) for _ in range(count)]
    while sum(client.get_answer() for client in deaf):
        pass
    assert all(client.queued_bytes <= 2 * LIMITS.connection_answer_bytes_max for client in deaf)
    assert room.tally.bytes < LIMITS.answer_bytes_max
    assert Client(room, MEGABYTE).answer()


def test_all_that_is_queued_comes_to_twice_the_bound_at_most(room: AnswerRoom) -> None:
    while Client(room, MEGABYTE).share.takes_answer(MEGABYTE):
        Client(room, MEGABYTE).queue(MEGABYTE)
    assert room.tally.bytes == 2 * LIMITS.answer_bytes_max
    # An answer as small as a refusal is never dropped, but calls that get such ones wait by now.
    small = Client(room, LIMITS.answer_bytes_always)
    assert small.share.takes_answer(small.size)
    assert not small.share.may_start(small.size)


def test_small_answers_do_not_wait_for_large_ones(room: AnswerRoom) -> None:
    client = Client(room, MEGABYTE)
    while client.answer():
        pass
    assert Ask(client).start_later()
    assert not client.share.may_start(LIMITS.answer_bytes_always + 1)
    assert client.share.may_start(LIMITS.answer_bytes_always)


def test_what_does_not_answer_holds_up_nobody_else(room: AnswerRoom) -> None:
    hung = [Client(room, 10 * MEGABYTE) for _ in range(20)]
    for client in hung:
        while client.share.may_start(client.size):
            client.share.begin(client.meter)
    assert room.expected_bytes > LIMITS.answer_bytes_max // 2
    assert Client(room, 10 * MEGABYTE).share.may_start(10 * MEGABYTE)


def test_connections_take_turns_and_each_ones_calls_go_in_order(room: AnswerRoom, turns: Turns) -> None:
    first, second, full = Client(room, MEGABYTE), Client(room, MEGABYTE), Client(room, MEGABYTE)
    order: list[Ask] = []
    asks: list[Ask] = []
    for client in (first, first, first, second, second, full):
        client.queued_bytes = LIMITS.connection_answer_bytes_max
        ask = Ask(client)
        ask.then = lambda ask=ask: order.append(ask)  # type: ignore[misc]
        assert ask.start_later()
        asks.append(ask)
    first.queued_bytes = second.queued_bytes = 0
    room.release_soon()
    assert not order
    turns.turn()
    assert order == [asks[0], asks[3], asks[1], asks[4], asks[2]]
    assert list(room.turns) == [full.share]
    assert room.calls_waiting == 1


def test_who_had_a_turn_comes_last(room: AnswerRoom, turns: Turns) -> None:
    order: list[Client] = []
    clients = [Client(room, MEGABYTE) for _ in range(2)]

    def take_all(client: Client) -> None:
        order.append(client)
        room.tally.bytes = LIMITS.answer_bytes_max

    for client in clients * 2:
        assert Ask(client, lambda client=client: take_all(client)).start_later()  # type: ignore[misc]
    for _ in range(4):
        room.tally.bytes = 0
        room.release_soon()
        turns.turn()
    assert order == clients * 2


def test_who_waits_no_longer_is_forgotten(room: AnswerRoom) -> None:
    client = Client(room, MEGABYTE, queued_bytes=LIMITS.connection_answer_bytes_max)
    asks = [Ask(client) for _ in range(LIMITS.calls_waiting_max)]
    assert all(ask.start_later() for ask in asks)
    assert not Ask(client).start_later()
    client.share.wait_to_send(Ask(client), MEGABYTE)  # a stream is open anyway
    client.share.withdraw(asks[3])
    assert Ask(client).start_later()
    assert not Ask(client).start_later()


def test_what_one_client_of_many_does_not_read_holds_up_none_of_the_others(room: AnswerRoom) -> None:
    many = Client(room, MEGABYTE)
    many.share = CommonShare(room, many)
    many.queue(LIMITS.connection_answer_bytes_max)  # of one of them
    assert many.answer()
    while many.answer():
        pass
    assert many.queued_bytes <= LIMITS.answer_bytes_max // 2 + MEGABYTE
    assert Client(room, MEGABYTE).answer(), "they leave room for who has a connection of its own"
    while many.get_answer():
        pass
    assert room.tally.bytes < LIMITS.answer_bytes_max
    other = Client(room, MEGABYTE)
    other.queue(2 * LIMITS.answer_bytes_max - room.tally.bytes - 1)
    assert many.share.may_start(LIMITS.answer_bytes_always)
    other.queue(1)
    assert not many.share.may_start(LIMITS.answer_bytes_always)


def test_a_call_that_fails_says_nothing_of_how_large_answers_are(room: AnswerRoom) -> None:
    client = Client(room, MEGABYTE)
    for _ in range(10):
        client.share.end(client.meter, client.share.begin(client.meter), None)
    assert client.meter.answer_bytes_mean == MEGABYTE
    assert room.expected_bytes == room.running == 0
    client.share.end(client.meter, client.share.begin(client.meter), 0)
    assert client.meter.answer_bytes_mean < MEGABYTE, "an answer of nothing does"


def test_one_that_breaks_at_its_turn_holds_up_none_behind_it(room: AnswerRoom, turns: Turns) -> None:
    client = Client(room, MEGABYTE, queued_bytes=LIMITS.connection_answer_bytes_max)
    broken, sound = Ask(client, lambda: [][0]), Ask(client)
    assert broken.start_later()
    assert sound.start_later()
    client.read_all()
    with pytest.raises(IndexError):
        turns.turn()
    turns.turn()
    assert client.proceeded == [broken, sound]
    assert not room.calls_waiting
