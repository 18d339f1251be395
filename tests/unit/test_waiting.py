"""The poll loop that every test with a real process leans on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.waiting import free_ports, wait_until, wait_until_async


def test_returns_the_first_true_value() -> None:
    answers = iter([0, "", None, "ready"])
    assert wait_until(lambda: next(answers), timeout_s=5, what="ready", interval_s=0) == "ready"


def test_timeout_says_what_was_last_seen() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.01 s in vain for a leader; last seen: \[\]"):
        wait_until(list[int], timeout_s=0.01, what="a leader", interval_s=0.001)


def test_condition_is_asked_even_without_time() -> None:
    assert wait_until(lambda: 7, timeout_s=0, what="seven") == 7


def test_expected_exceptions_count_as_false_and_are_shown() -> None:
    def refuse() -> bool:
        raise ConnectionRefusedError("nobody home")

    with pytest.raises(AssertionError, match="nobody home"):
        wait_until(refuse, timeout_s=0.01, what="a listener", interval_s=0.001, not_yet=(OSError,))
    with pytest.raises(ConnectionRefusedError):
        wait_until(refuse, timeout_s=0.01, what="a listener")


def test_async_takes_plain_and_async_conditions() -> None:
    answers = iter([0, 5])

    async def later() -> int:
        return next(answers)

    async def both() -> tuple[int, str]:
        first = await wait_until_async(later, timeout_s=5, what="five", interval_s=0)
        second = await wait_until_async(lambda: "now", timeout_s=5, what="now")
        return first, second

    assert asyncio.run(both()) == (5, "now")


def test_async_condition_that_hangs_ends_at_the_deadline() -> None:
    async def hang() -> bool:
        return await asyncio.Future[bool]()

    with pytest.raises(AssertionError, match="the condition never returned"):
        asyncio.run(wait_until_async(hang, timeout_s=0.05, what="a hung call"))


def test_timeout_error_of_the_condition_itself_is_not_swallowed() -> None:
    async def late() -> bool:
        raise TimeoutError("the condition's own")

    with pytest.raises(TimeoutError, match="own"):
        asyncio.run(wait_until_async(late, timeout_s=5, what="nothing"))


def test_ports_are_bindable_and_never_given_twice() -> None:
    ports = free_ports(10) + free_ports(10)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_contiguous_block_has_no_gap_and_avoids_taken_ports() -> None:
    block = free_ports(8, contiguous=True)
    assert block == list(range(block[0], block[0] + 8))
    assert not set(block) & set(free_ports(8, contiguous=True))
