"""When a process counts as hung, in the supervisor's own time."""

from __future__ import annotations

from coordinator.supervisor.silence import WATCH_INTERVAL_S, Silence


class Watch:
    """A clock, and looks at one process."""

    def __init__(self, limit_s: float = 10.0, start_limit_s: float = 40.0) -> None:
        self.silence = Silence(limit_s, start_limit_s)
        self.now_s = 1000.0

    def seconds_until_too_long(self, at_most_s: float = 60.0) -> float | None:
        """Look every interval; after how long it hangs, or None."""
        for look in range(round(at_most_s / WATCH_INTERVAL_S) + 1):
            if self.silence.is_too_long(self.now_s):
                return look * WATCH_INTERVAL_S
            self.now_s += WATCH_INTERVAL_S
        return None


def test_silence_is_counted_from_the_last_beat() -> None:
    watch = Watch()
    watch.silence.beat()
    assert watch.seconds_until_too_long(8.0) is None
    watch.silence.beat()
    assert watch.seconds_until_too_long() == 10.0


def test_who_has_not_begun_to_work_has_longer() -> None:
    watch = Watch()
    assert watch.seconds_until_too_long() == 40.0 + WATCH_INTERVAL_S
    watch.silence.beat()
    assert watch.seconds_until_too_long() == 10.0 + WATCH_INTERVAL_S


def test_who_serves_and_never_beats_is_not_watched() -> None:
    watch = Watch()
    watch.silence.serve()
    assert watch.seconds_until_too_long() is None
    watch.silence.beat()
    watch.silence.serve()
    assert watch.seconds_until_too_long() is not None


def test_without_a_limit_nobody_is() -> None:
    watch = Watch(limit_s=0.0, start_limit_s=0.0)
    assert watch.seconds_until_too_long() is None
    watch.silence.beat()
    assert watch.seconds_until_too_long() is None


def test_a_suspended_machine_is_no_silence() -> None:
    watch = Watch()
    watch.silence.beat()
    assert watch.seconds_until_too_long(5.0) is None
    watch.now_s += 86_400.0
    assert not watch.silence.is_too_long(watch.now_s)
    watch.silence.beat()
    assert watch.seconds_until_too_long(9.0) is None


def test_a_supervisor_that_is_away_again_and_again_still_finds_out() -> None:
    watch = Watch()
    watch.silence.beat()
    looks = 0
    while not watch.silence.is_too_long(watch.now_s):
        watch.now_s += 30.0
        looks += 1
    assert looks == 10.0 / (2 * WATCH_INTERVAL_S) + 1


def test_a_clock_that_goes_back_counts_for_nothing() -> None:
    watch = Watch()
    watch.silence.beat()
    assert watch.seconds_until_too_long(5.0) is None
    watch.now_s -= 100.0
    assert watch.seconds_until_too_long(4.0) is None
