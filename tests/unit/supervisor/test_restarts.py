"""When a crashed process starts again, and when it no longer does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from config import SupervisorConfig
from coordinator.supervisor.restarts import RestartPolicy

SETTINGS = SupervisorConfig(
    backoff_min_ms=100, backoff_max_ms=1_000, stable_ms=10_000, crashes_max=8, crash_window_ms=60_000
)


def test_waits_double_up_to_the_longest() -> None:
    policy = RestartPolicy(SETTINGS)
    waits = [policy.crashed(started_s=second, now_s=second) for second in range(7)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_the_eighth_crash_in_the_window_is_the_last() -> None:
    policy = RestartPolicy(SETTINGS)
    answers = [policy.crashed(started_s=second, now_s=second) for second in range(8)]
    assert answers[-1] is None
    assert None not in answers[:-1]
    assert policy.crashes == 8


def test_crashes_outside_the_window_do_not_count() -> None:
    policy = RestartPolicy(SETTINGS)
    assert all(policy.crashed(started_s=9.0 * n, now_s=9.0 * n) is not None for n in range(1_000))


def test_a_long_run_starts_over_with_the_shortest_wait() -> None:
    policy = RestartPolicy(SETTINGS)
    for second in range(4):
        policy.crashed(started_s=second, now_s=second)
    assert policy.crashed(started_s=4.0, now_s=13.9) == 1.0
    assert policy.crashed(started_s=14.0, now_s=24.0) == 0.1


def test_reset_forgives() -> None:
    policy = RestartPolicy(SETTINGS)
    for second in range(8):
        policy.crashed(started_s=second, now_s=second)
    policy.reset()
    assert policy.crashed(started_s=8.0, now_s=8.0) == 0.1


def test_who_asks_is_started_at_once_and_has_not_crashed() -> None:
    policy = RestartPolicy(SETTINGS)
    for second in range(0, 1_000, 10):
        assert policy.asked(started_s=second, now_s=second + 10) == 0.0
    assert policy.crashes == 0


def test_who_only_asks_counts_as_crashing() -> None:
    policy = RestartPolicy(SETTINGS)
    answers = [policy.asked(started_s=second, now_s=second) for second in range(9)]
    assert answers[:3] == [0.0, 0.1, 0.2]
    assert answers[-1] is None


def test_a_crash_between_makes_it_another_request() -> None:
    policy = RestartPolicy(SETTINGS)
    assert policy.asked(started_s=0.0, now_s=0.0) == 0.0
    assert policy.crashed(started_s=0.0, now_s=1.0) == 0.1
    assert policy.asked(started_s=1.0, now_s=2.0) == 0.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_it_gives_up_exactly_when_the_window_is_full(gaps: list[float]) -> None:
    policy = RestartPolicy(SETTINGS)
    now_s, times = 0.0, []
    for gap in gaps:
        now_s += gap
        times.append(now_s)
        wait_s = policy.crashed(started_s=now_s, now_s=now_s)
        recent = [time_s for time_s in times if (now_s - time_s) * 1000 <= 60_000]
        assert (wait_s is None) == (len(recent) >= 8)
        assert wait_s is None or 0.1 <= wait_s <= 1.0
