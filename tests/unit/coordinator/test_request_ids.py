from __future__ import annotations

import pytest

from coordinator.shards import request_ids
from proto import errors
from proto.methods import REQUEST_ID_BYTES


def test_drawn_ids_differ_within_and_between_incarnations() -> None:
    one, other = request_ids.RequestIds(b"12345678"), request_ids.RequestIds(b"87654321")
    drawn = [one.draw(), one.draw(), other.draw()]
    assert len(set(drawn)) == 3
    assert {len(request_id) for request_id in drawn} == {REQUEST_ID_BYTES}


def test_a_clients_name_gives_the_same_id_everywhere_but_not_in_another_table() -> None:
    named = request_ids.from_client(b"order-17", 10_001)
    assert named == request_ids.from_client(b"order-17", 10_001)
    assert (
        len(
            {
                named,
                request_ids.from_client(b"order-17", 10_002),
                request_ids.from_client(b"order-18", 10_001),
            }
        )
        == 3
    )
    assert len(named) == REQUEST_ID_BYTES


@pytest.mark.parametrize("length", [0, 129])
def test_a_name_has_1_to_128_bytes(length: int) -> None:
    with pytest.raises(errors.InvalidRequestId, match=str(length)):
        request_ids.from_client(b"x" * length, 1)
    assert request_ids.from_client(b"x" * 128, 1)


def test_the_following_id_is_another_one_and_always_the_same() -> None:
    first = request_ids.from_client(b"a", 1)
    assert request_ids.following(first) == request_ids.following(first) != first


def test_each_step_of_a_call_has_its_own_name_which_is_the_same_each_time() -> None:
    names = [request_ids.of_step(name, step) for name in ("a", "b") for step in ("enter", "leave")]
    assert len({*names, "a", "b"}) == 6
    assert request_ids.of_step("a", "enter") == names[0]
    for bad in ("", "x" * 129):
        with pytest.raises(errors.InvalidRequestId):
            request_ids.of_step(bad, "enter")
