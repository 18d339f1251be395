"""What waits for a stream's client: bounds, and who is told of room."""

from __future__ import annotations

from coordinator.api.call import Alike
from coordinator.watch.outbox import Budget, Outbox


class Told:
    def __init__(self, budget: Budget, bytes_max: int = 10) -> None:
        self.messages = self.rooms = 0
        self.outbox = Outbox(
            budget, bytes_max=bytes_max, on_message=self._handle_message, on_room=self._handle_room
        )

    def _handle_message(self) -> None:
        self.messages += 1

    def _handle_room(self) -> None:
        self.rooms += 1


def test_it_is_full_at_its_bound_and_tells_when_half_of_it_was_read() -> None:
    told = Told(Budget(1000))
    box = told.outbox
    for _ in range(5):
        assert not box.is_full
        box.put((b"ab",))
    assert told.messages == 1
    assert box.is_full
    assert box.pop_batch(4) == [b"ab", b"ab"]
    assert told.rooms == 0
    assert box.pop_batch(1) == [b"ab"]
    assert told.rooms == 1
    assert not box.is_full
    assert [box.pop_batch(9), box.pop_batch(9)] == [[b"ab", b"ab"], []]
    box.put((b"c",))
    assert told.messages == 2


def test_an_empty_one_takes_a_message_of_any_size() -> None:
    told = Told(Budget(5))
    assert not told.outbox.is_full
    told.outbox.put((bytes(100), bytes(100)))
    assert told.outbox.is_full
    told.outbox.pop_batch(100)
    assert told.rooms == 0
    told.outbox.pop_batch(100)
    assert told.rooms == 1


def test_all_together_have_a_bound() -> None:
    budget = Budget(6)
    one, other = Told(budget), Told(budget)
    one.outbox.put((b"abc",))
    other.outbox.put((b"abc",))
    assert one.outbox.is_full
    assert other.outbox.is_full
    other.outbox.close()
    assert budget.bytes == 3
    assert not one.outbox.is_full
    one.outbox.close()
    assert budget.bytes == 0


def test_a_batch_is_bounded_but_for_its_first_message() -> None:
    box = Told(Budget(1000), bytes_max=100).outbox
    box.put((bytes(30), b"a", b"bc", b"d"))
    assert [box.pop_batch(3) for _ in range(3)] == [[bytes(30)], [b"a", b"bc"], [b"d"]]
    assert box.pop_batch(3) == []


def test_what_others_get_too_leaves_as_it_is_and_in_its_place() -> None:
    budget = Budget(1000)
    told = Told(budget, bytes_max=10)
    box = told.outbox
    alike = Alike((b"ab", b"cd"))
    box.put((b"1", b"2"))
    box.put_alike(alike)
    box.put((b"3",))
    assert (told.messages, budget.bytes) == (1, 7)
    assert box.pop_batch(1) == [b"1"]
    assert box.pop_batch(9) == [b"2"]
    assert box.oldest == b"ab"
    assert box.pop_batch(1) is alike
    assert box.pop_batch(9) == [b"3"]
    assert budget.bytes == 0


def test_it_has_room_for_what_keeps_every_bound() -> None:
    budget = Budget(20)
    box = Told(budget, bytes_max=10).outbox
    box.put((b"abc",))
    assert [box.has_room(7), box.has_room(8)] == [True, False]
    other = Told(budget, bytes_max=100).outbox
    assert [other.has_room(17), other.has_room(18)] == [True, False]
    box.hold()
    assert not box.has_room(0)
