from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.history.linearizability import Linearizable, Undecided, Violation, check, step
from tests.history.operations import Kind, Operation, Outcome, Value

if TYPE_CHECKING:
    from collections.abc import Sequence


def put(at: tuple[int, int], value: bytes, outcome: Outcome = Outcome.OK, key: bytes = b"k") -> Operation:
    return Operation(0, Kind.PUT, key, *at, outcome, value=value)


def get(at: tuple[int, int], found: Value, key: bytes = b"k") -> Operation:
    return Operation(0, Kind.GET, key, *at, Outcome.OK, found=found)


def delete(at: tuple[int, int], *, hit: bool) -> Operation:
    return Operation(0, Kind.DELETE, b"k", *at, Outcome.OK, hit=hit)


def cas(at: tuple[int, int], expected: Value, value: bytes, *, hit: bool) -> Operation:
    return Operation(0, Kind.CAS, b"k", *at, Outcome.OK, value=value, expected=expected, hit=hit)


def window(history: list[Operation]) -> list[Operation]:
    verdict = check(history)
    assert isinstance(verdict, Violation), verdict
    return list(verdict.window)


def test_a_read_may_see_a_write_that_is_under_way_or_not() -> None:
    assert isinstance(check([put((0, 9), b"1"), get((1, 2), b"1")]), Linearizable)
    assert isinstance(check([put((0, 9), b"1"), get((1, 2), None)]), Linearizable)


def test_a_stale_read_is_found() -> None:
    assert window([put((0, 1), b"1"), put((2, 3), b"2"), get((4, 5), b"1")])


def test_a_lost_write_is_found() -> None:
    assert window([put((0, 1), b"1"), get((2, 3), None)])


def test_two_reads_that_disagree_about_the_order_of_two_writes_are_found() -> None:
    history = [put((0, 9), b"1"), put((0, 9), b"2"), get((10, 11), b"1"), get((12, 13), b"2")]
    assert window(history)


def test_reads_during_one_write_must_not_go_back() -> None:
    history = [put((0, 20), b"1"), get((1, 2), b"1"), get((3, 4), None)]
    assert window(history)


def test_a_write_applied_twice_is_found() -> None:
    """The retry of put 1 overwrote put 2, which no order of the two writes explains."""
    history = [put((0, 5), b"1"), get((1, 2), b"1"), put((3, 4), b"2"), get((6, 7), b"2"), get((8, 9), b"1")]
    assert window(history)


def test_both_winners_of_one_compare_and_swap_are_found() -> None:
    assert window([cas((0, 5), None, b"1", hit=True), cas((0, 5), None, b"2", hit=True)])
    history = [cas((0, 5), None, b"1", hit=True), cas((0, 5), None, b"2", hit=False), get((6, 7), b"1")]
    assert isinstance(check(history), Linearizable)


def test_a_put_of_the_value_that_is_there_may_still_be_needed_after_a_delete() -> None:
    history = [put((0, 9), b"1"), put((0, 9), b"1"), delete((0, 9), hit=True), delete((0, 9), hit=True)]
    assert isinstance(check(history), Linearizable)
    assert window([*history, get((10, 11), b"1")])


def test_deleting_what_was_never_there_is_found() -> None:
    assert window([delete((0, 1), hit=True)])
    assert window([put((0, 1), b"1"), delete((2, 3), hit=False)])


def test_an_operation_of_unknown_fate_may_take_effect_late_or_never() -> None:
    lost = put((0, 1), b"1", Outcome.UNKNOWN)
    assert isinstance(check([lost, get((2, 3), None), get((4, 5), b"1")]), Linearizable)
    assert isinstance(check([lost, get((2, 3), None)]), Linearizable)
    assert window([lost, get((2, 3), b"1"), get((4, 5), None)])


def test_an_operation_of_unknown_fate_takes_effect_at_most_once() -> None:
    lost = put((0, 1), b"1", Outcome.UNKNOWN)
    history = [lost, get((2, 3), b"1"), put((4, 5), b"2"), get((6, 7), b"1")]
    assert window(history)


def test_an_operation_of_unknown_fate_takes_no_effect_before_it_was_invoked() -> None:
    assert window([get((0, 1), b"1"), put((2, 3), b"1", Outcome.UNKNOWN)])


def test_a_refused_operation_never_takes_effect() -> None:
    assert window([put((0, 1), b"1", Outcome.REFUSED), get((2, 3), b"1")])


def test_a_stale_read_is_allowed_where_the_client_asked_for_one() -> None:
    stale = replace(get((4, 5), None), linearizable=False)
    assert isinstance(check([put((0, 1), b"1"), stale]), Linearizable)


def test_keys_are_independent_and_the_wrong_one_is_named() -> None:
    history = [put((0, 1), b"1", key=b"a"), put((0, 1), b"2", key=b"b"), get((2, 3), b"2", key=b"a")]
    verdict = check(history)
    assert isinstance(verdict, Violation)
    assert verdict.key == b"a"


def test_the_window_is_the_smallest_that_shows_the_violation() -> None:
    history: list[Operation] = []
    for i in range(200):
        history += [put((10 * i, 10 * i + 1), b"%d" % i), get((10 * i + 2, 10 * i + 3), b"%d" % i)]
    history[201] = replace(history[201], found=b"99")  # the read after put 100 finds put 99
    shown = window(history)
    assert [operation.kind for operation in shown] == [Kind.PUT, Kind.GET]
    assert shown[0].value == b"100"
    assert "put b'100'" in str(check(history))


def test_a_long_busy_history_is_decided_quickly() -> None:
    history = linear_history(random.Random(5), operations=3000, clients=16, lost_in=100)
    verdict = check(history)
    assert isinstance(verdict, Linearizable), verdict
    assert verdict.steps < 1_000_000


def test_revisions_guide_the_search_through_64_clients_on_one_key() -> None:
    plain = linear_history(random.Random(5), operations=3000, clients=64, lost_in=10_000)
    history = [replace(operation, revision=number + 2) for number, operation in enumerate(plain)]
    verdict = check(history)
    assert isinstance(verdict, Linearizable), verdict
    assert verdict.steps < 100 * len(history)


def test_the_search_gives_up_at_its_bound() -> None:
    history = [put((0, 100), b"%d" % i) for i in range(12)]
    history += [get((101, 102), b"3"), get((103, 104), b"4")]
    verdict = check(history, steps_max=1000)
    assert isinstance(verdict, Undecided)
    assert verdict.steps >= 1000


def test_the_state_at_the_start_is_the_callers() -> None:
    assert isinstance(check([get((0, 1), b"old")], initial=b"old"), Linearizable)
    assert window([get((0, 1), b"old")])


def linear_history(rng: random.Random, *, operations: int, clients: int, lost_in: int) -> list[Operation]:
    """Operations that took effect one after the other, seen through intervals that overlap."""
    state: Value = None
    history: list[Operation] = []
    free_at = [0] * clients
    now = 0
    for number in range(operations):
        now += 10
        client = rng.randrange(clients)
        invoked = max(free_at[client], now - rng.randrange(10 * clients))
        returned = now + rng.randrange(10 * clients)
        if invoked > now:
            continue  # this client is still busy
        free_at[client] = returned + 1
        outcome = Outcome.UNKNOWN if rng.randrange(lost_in) == 0 else Outcome.OK
        kind = rng.choice(list(Kind))
        operation = Operation(client, kind, b"k", invoked, returned, outcome, value=b"%d" % number)
        if kind is Kind.GET:
            operation = replace(operation, value=None, found=state)
        elif kind is Kind.DELETE:
            operation = replace(operation, value=None, hit=state is not None)
        elif kind is Kind.CAS:
            expected = state if rng.randrange(2) else b"%d" % rng.randrange(number + 1)
            operation = replace(operation, expected=expected, hit=expected == state)
        if outcome is Outcome.OK or rng.randrange(2):
            after = step(state, operation)
            assert after is None or isinstance(after, bytes)
            state = after
        history.append(operation)
    return history


@settings(deadline=None)
@given(st.integers(), st.integers(1, 12), st.integers(2, 20))
def test_what_came_from_one_order_is_accepted(seed: int, clients: int, lost_in: int) -> None:
    history = linear_history(random.Random(seed), operations=60, clients=clients, lost_in=lost_in)
    verdict = check(history)
    assume(
        not isinstance(verdict, Undecided)
    )  # the search is exponential and bounded: it may give up, but not err
    assert isinstance(verdict, Linearizable)


def brute_force(history: Sequence[Operation]) -> bool:
    """The definition itself: some order of all known and any of the unknown operations."""
    known = [operation for operation in history if operation.outcome is Outcome.OK]
    lost = [operation for operation in history if operation.outcome is Outcome.UNKNOWN]
    for count in range(len(lost) + 1):
        for some in itertools.combinations(lost, count):
            if any(map(_explains, itertools.permutations([*known, *some]))):
                return True
    return False


def _explains(order: Sequence[Operation]) -> bool:
    for earlier, later in itertools.combinations(order, 2):
        if later.outcome is Outcome.OK and later.returned < earlier.invoked:
            return False
    state: Value = None
    for operation in order:
        after = step(state, operation)
        if not (after is None or isinstance(after, bytes)):
            return False
        state = after
    return True


VALUES = st.sampled_from([None, b"1", b"2"])
OPERATIONS = st.builds(
    Operation,
    client=st.just(0),
    kind=st.sampled_from(Kind),
    key=st.just(b"k"),
    invoked=st.integers(0, 12),
    returned=st.integers(0, 6),
    outcome=st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, Outcome.UNKNOWN]),
    value=st.sampled_from([b"1", b"2"]),
    expected=VALUES,
    found=VALUES,
    hit=st.booleans(),
).map(lambda operation: replace(operation, returned=operation.invoked + operation.returned))


@settings(max_examples=400, deadline=None)
@given(st.lists(OPERATIONS, max_size=6))
def test_any_small_history_is_judged_as_by_trying_every_order(history: list[Operation]) -> None:
    history = [o for o in history if o.kind is not Kind.GET or o.outcome is Outcome.OK]
    assert isinstance(check(history), Linearizable) == brute_force(history)


@settings(max_examples=150, deadline=None)
@given(st.integers())
def test_a_mutated_history_is_judged_as_by_trying_every_order(seed: int) -> None:
    rng = random.Random(seed)
    history = linear_history(rng, operations=8, clients=3, lost_in=6)[:7]
    history = [o for o in history if o.kind is not Kind.GET or o.outcome is Outcome.OK]
    if not history:
        return
    index = rng.randrange(len(history))
    history[index] = replace(history[index], found=b"0", hit=not history[index].hit)
    verdict = check(history)
    assert isinstance(verdict, Linearizable) == brute_force(history)
    if isinstance(verdict, Violation):
        assert len(verdict.window) <= len(history)
