from __future__ import annotations

from tests.history.exactly_once import Miscount, check
from tests.history.operations import Outcome

ATTEMPTS = {b"a": Outcome.OK, b"b": Outcome.UNKNOWN, b"c": Outcome.REFUSED}


def test_acknowledged_once_and_unknown_at_most_once_is_right() -> None:
    assert check(ATTEMPTS, [b"a"]) == []
    assert check(ATTEMPTS, [b"b", b"a"]) == []


def test_a_lost_acknowledged_write_is_found() -> None:
    assert check(ATTEMPTS, [b"b"]) == [Miscount(b"a", Outcome.OK, 0)]


def test_a_write_applied_twice_is_found_whatever_its_client_was_told() -> None:
    assert check(ATTEMPTS, [b"a", b"a", b"b", b"b"]) == [
        Miscount(b"a", Outcome.OK, 2),
        Miscount(b"b", Outcome.UNKNOWN, 2),
    ]


def test_a_refused_write_that_happened_is_found() -> None:
    assert check(ATTEMPTS, [b"a", b"c"]) == [Miscount(b"c", Outcome.REFUSED, 1)]


def test_a_write_that_nobody_made_is_found() -> None:
    (found,) = check(ATTEMPTS, [b"a", b"x"])
    assert found == Miscount(b"x", None, 1)
    assert "never written" in str(found)
