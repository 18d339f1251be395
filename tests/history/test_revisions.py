from __future__ import annotations

from dataclasses import replace

from tests.history.operations import Kind, Operation, Outcome, Recorder, Value
from tests.history.revisions import check


def put(
    at: tuple[int, int], value: bytes, revision: int, key: bytes = b"k", outcome: Outcome = Outcome.OK
) -> Operation:
    return Operation(0, Kind.PUT, key, *at, outcome, value=value, revision=revision)


def get(at: tuple[int, int], found: Value, revision: int, key: bytes = b"k") -> Operation:
    return Operation(0, Kind.GET, key, *at, Outcome.OK, found=found, revision=revision)


RIGHT = [
    put((0, 5), b"1", 3),
    put((1, 4), b"2", 2),
    get((2, 3), None, 1),
    get((6, 7), b"1", 3),
    put((8, 9), b"3", 4, key=b"other"),
    get((10, 11), b"1", 4),
]


def why(*history: Operation) -> list[str]:
    return [anomaly.why for anomaly in check(history)]


def test_a_right_history_has_no_anomaly() -> None:
    assert check(RIGHT) == []


def test_two_writes_with_one_revision_are_found() -> None:
    assert "two writes have one revision" in why(put((0, 1), b"1", 2), put((0, 1), b"2", 2, key=b"other"))


def test_a_revision_that_goes_back_is_found_across_clients_and_keys() -> None:
    assert why(put((0, 1), b"1", 5), get((2, 3), None, 4, key=b"other")) == ["the revision went back"]
    assert why(put((0, 2), b"1", 5), get((1, 3), None, 4, key=b"other")) == []


def test_a_write_must_be_above_all_that_was_seen_before_it() -> None:
    assert why(get((0, 1), None, 5), put((2, 3), b"1", 5, key=b"other")) == [
        "a write has a revision that was seen before it"
    ]


def test_a_read_must_find_the_newest_write_at_its_revision() -> None:
    wrong = replace(RIGHT[3], found=b"2")
    assert why(*RIGHT[:3], wrong) == ["a read differs from the newest write at its revision"]
    assert why(*RIGHT[:2], get((6, 7), None, 3)) == ["a read differs from the newest write at its revision"]


def test_a_read_that_asks_for_stale_data_may_go_back_but_must_be_right_for_its_revision() -> None:
    stale = replace(get((6, 7), b"2", 2), linearizable=False)
    assert check([*RIGHT[:3], stale]) == []
    assert check([*RIGHT[:3], replace(stale, found=b"1")])


def test_a_write_of_unknown_fate_may_be_found_but_nothing_else_may() -> None:
    lost = put((0, 1), b"1", 0, outcome=Outcome.UNKNOWN)
    assert check([lost, get((2, 3), b"1", 2)]) == []
    assert check([lost, get((2, 3), None, 1)]) == []
    assert check([lost, get((2, 3), b"2", 2)])


def test_a_value_from_after_the_shown_revision_is_found() -> None:
    history = [put((0, 1), b"1", 2), replace(get((2, 3), b"1", 2), mod_revision=3)]
    assert why(*history) == ["a read shows a value from after its revision"]


def test_the_recorder_notes_all_three_ends_and_what_never_ended() -> None:
    ticks = iter(range(100))
    recorder = Recorder(clock=lambda: next(ticks))
    recorder.invoke(1, Kind.PUT, b"k", value=b"1").succeeded(revision=2)
    recorder.invoke(2, Kind.PUT, b"k", value=b"2").refused()
    recorder.invoke(3, Kind.PUT, b"k", value=b"3").lost()
    recorder.invoke(4, Kind.GET, b"k")
    history = recorder.history()
    assert [(o.client, o.outcome) for o in history] == [
        (1, Outcome.OK),
        (2, Outcome.REFUSED),
        (3, Outcome.UNKNOWN),
        (4, Outcome.UNKNOWN),
    ]
    assert all(o.invoked < o.returned for o in history)
    assert "client 1" in str(history[0])
