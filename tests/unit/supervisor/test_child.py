"""One child, kept running: against real processes that behave as told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from config import SupervisorConfig
from config.process.names import ProcessName
from config.process.report import ProcessReport, State
from coordinator.supervisor.child import Child, HandOverFailed
from coordinator.supervisor.logfile import LogFile
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable

FAKE = Path(__file__).with_name("fake_child.py")
QUICK = SupervisorConfig(
    backoff_min_ms=10, backoff_max_ms=40, crashes_max=4, crash_window_ms=30_000, stop_timeout_ms=5_000
)


class Nursery:
    """Makes children and remembers what they reported."""

    def __init__(self, folder: Path) -> None:
        self.trace = folder / "trace"
        self.history: list[ProcessReport] = []
        self._folder = folder
        self._children: list[Child] = []

    def child(self, behaviour: str, settings: SupervisorConfig = QUICK) -> Child:
        command = [sys.executable, "-S", str(FAKE), behaviour, str(self.trace)]
        log = LogFile(self._folder / "child.log", bytes_max=1 << 20, files_max=2)
        spec = json.dumps({"node": "n1"}).encode()
        child = Child(ProcessName.replica("n1", 1), command, spec, log, settings, self.history.append)
        self._children.append(child)
        return child

    def states(self) -> list[State]:
        """The states it went through."""
        seen: list[State] = []
        for report in self.history:
            if not seen or seen[-1] is not report.state:
                seen.append(report.state)
        return seen

    def words(self) -> list[str]:
        return (
            [line.split()[0] for line in self.trace.read_text().splitlines()] if self.trace.exists() else []
        )

    async def stop_all(self) -> None:
        for child in self._children:
            child.send(signal.SIGKILL)
            await child.stop()


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Callable[[Callable[[Nursery], object]], None]:
    def run(body: Callable[[Nursery], object]) -> None:
        async def whole() -> None:
            nursery = Nursery(tmp_path)
            try:
                async with asyncio.timeout(60):
                    await body(nursery)  # type: ignore[misc]
            finally:
                await nursery.stop_all()

        asyncio.run(whole())

    return run


Run: TypeAlias = "Callable[[Callable[[Nursery], object]], None]"


async def _wait_state(child: Child, *states: State) -> None:
    await wait_until_async(
        lambda: child.state in states, timeout_s=20, what=f"{child.name} to be {states}, is {child.report()}"
    )


def test_it_is_starting_until_it_says_ready(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve")
        assert child.report().pid is None
        await child.start()
        assert child.state is State.STARTING
        assert await child.wait_settled() is State.RUNNING
        pid = child.report().pid
        assert pid is not None
        os.kill(pid, 0)
        assert nursery.states() == [State.STARTING, State.RUNNING]

    run(body)


def test_a_mute_process_never_counts_as_running(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("mute")
        await child.start()
        await wait_until_async(
            lambda: nursery.words() == ["start"], timeout_s=20, what="the process to start"
        )
        assert child.state is State.STARTING

    run(body)


def test_noise_on_stdout_is_no_event(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("noisy")
        await child.start()
        await _wait_state(child, State.RUNNING)

    run(body)


def test_a_killed_process_comes_back_and_the_report_says_why(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve")
        await child.start()
        await child.wait_settled()
        first = child.report().pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await wait_until_async(lambda: child.report().restarts, timeout_s=20, what="a second start")
        await _wait_state(child, State.RUNNING)
        assert [report.reason for report in nursery.history if report.state is State.BACKOFF] == [
            "killed by SIGKILL; starts again in 0.01 s"
        ]
        report = child.report()
        assert (report.restarts, report.reason) == (1, "killed by SIGKILL")
        assert report.pid not in (None, first)

    run(body)


def test_too_many_crashes_and_it_stays_down_with_the_end_of_its_log(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("crash")
        await child.start()
        assert await child.wait_settled() is State.FAILED
        report = child.report()
        assert report.reason == (
            "crashed 4 times within 30 s (exited with code 3); "
            "last in its log: spec of n1; first; second: no luck today"
        )
        assert (report.restarts, report.pid) == (3, None)
        assert nursery.words() == ["start"] * 4
        waits = [
            report.reason.split("in ")[-1] for report in nursery.history if report.state is State.BACKOFF
        ]
        assert waits == ["0.01 s", "0.02 s", "0.04 s"]

    run(body)


def test_what_a_process_says_of_its_failure_is_the_reason(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("cannot")
        await child.start()
        assert await child.wait_settled() is State.FAILED
        assert "(the disk is made of cheese)" in child.report().reason

    run(body)


def test_a_program_that_is_not_there_fails_in_words(run: Run, tmp_path: Path) -> None:
    async def body(nursery: Nursery) -> None:
        log = LogFile(tmp_path / "none.log", bytes_max=1 << 20, files_max=2)
        child = Child(
            ProcessName.coordinator("n1"), [str(tmp_path / "none")], b"{}", log, QUICK, nursery.history.append
        )
        await child.start()
        assert await child.wait_settled() is State.FAILED
        assert "can't be started: No such file or directory" in child.report().reason

    run(body)


def test_start_after_failure_forgives(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("crash")
        await child.start()
        await child.wait_settled()
        await child.start()
        assert child.state is State.STARTING
        assert await child.wait_settled() is State.FAILED
        assert nursery.words() == ["start"] * 8

    run(body)


def test_stop_is_orderly_and_lasts(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("slow-stop")
        await child.start()
        await child.wait_settled()
        await child.stop()
        assert nursery.words() == ["start", "term", "end"]
        assert (child.state, child.report().pid, child.report().reason) == (State.STOPPED, None, "")
        assert nursery.states() == [State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED]
        await child.stop()
        assert nursery.words() == ["start", "term", "end"]

    run(body)


def test_stop_ends_a_back_off_at_once(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("crash", SupervisorConfig(backoff_min_ms=60_000, backoff_max_ms=60_000))
        await child.start()
        await _wait_state(child, State.BACKOFF)
        began = time.monotonic()
        await child.stop()
        assert time.monotonic() - began < 5
        assert child.state is State.STOPPED
        assert nursery.words() == ["start"]

    run(body)


def test_a_process_that_ignores_sigterm_is_killed_when_its_time_is_up(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("deaf", SupervisorConfig(stop_timeout_ms=200))
        await child.start()
        await child.wait_settled()
        pid = child.report().pid
        assert pid is not None
        await child.stop()
        assert child.report().reason == "had not stopped after 0.2 s and was killed"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(body)


def test_a_paused_process_can_still_be_stopped(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve", SupervisorConfig(stop_timeout_ms=200))
        await child.start()
        await child.wait_settled()
        child.send(signal.SIGSTOP)
        await child.stop()
        assert child.state is State.STOPPED

    run(body)


def test_restart_counts(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve")
        await child.start()
        await child.wait_settled()
        before = child.report().pid
        await child.stop()
        await child.start()
        assert await child.wait_settled() is State.RUNNING
        assert child.report().restarts == 1
        assert child.report().pid != before

    run(body)


def test_stop_right_after_start_leaves_nothing_behind(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve")
        await child.start()
        await child.stop()
        assert (child.state, child.report().pid) == (State.STOPPED, None)

    run(body)


def test_the_child_is_in_a_session_of_its_own(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve")
        await child.start()
        await child.wait_settled()
        pid = child.report().pid
        assert pid is not None
        assert os.getsid(pid) == pid

    run(body)


# ---- what has failed, what asks, what hangs ---------------------------------------------------------------------


def test_stopping_what_has_failed_leaves_it_stopped(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("crash")
        await child.start()
        assert await child.wait_settled() is State.FAILED
        await child.stop()
        assert (child.state, child.report().pid) == (State.STOPPED, None)
        await child.start()
        assert await child.wait_settled() is State.FAILED

    run(body)


def test_one_that_asks_to_be_started_again_is_and_has_not_crashed(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("again,serve", SupervisorConfig(crashes_max=1))
        await child.start()
        assert await child.wait_settled() is State.RUNNING
        assert nursery.words() == ["start", "start"]
        assert State.BACKOFF not in nursery.states()
        assert (child.report().restarts, child.report().reason) == (1, "is rebuilt from the leader")

    run(body)


def test_one_that_does_nothing_but_ask_ends_as_failed(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("again")
        await child.start()
        assert await child.wait_settled() is State.FAILED
        assert "(is rebuilt from the leader)" in child.report().reason
        assert nursery.words() == ["start"] * 5

    run(body)


async def _watch_until(child: Child, condition: Callable[[], object], what: str) -> None:
    def looked() -> object:
        child.kill_if_hung()
        return condition()

    await wait_until_async(looked, timeout_s=20, what=what)


def test_a_process_that_falls_silent_is_killed_and_comes_back(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        settings = QUICK.model_copy(update={"hang_timeout_ms": 500})
        child = nursery.child("beat", settings)
        await child.start()
        await child.wait_settled()
        first = child.report().pid
        began = time.monotonic()
        await _watch_until(child, lambda: time.monotonic() > began + 0.6, "a while in which it beats")
        assert child.report().pid == first
        child.send(signal.SIGSTOP)
        await _watch_until(child, lambda: child.report().restarts, "a second start")
        await _wait_state(child, State.RUNNING)
        assert child.report().reason == "did not answer for 0.5 s"
        assert [report.reason for report in nursery.history if report.state is State.BACKOFF] == [
            "did not answer for 0.5 s; starts again in 0.01 s"
        ]

    run(body)


def test_a_process_that_never_begins_to_work_is_killed_and_started_again(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        settings = QUICK.model_copy(update={"hang_timeout_ms": 50, "start_timeout_ms": 700})
        child = nursery.child("mute,serve", settings)
        await child.start()
        began = time.monotonic()
        await _watch_until(child, lambda: child.report().restarts, "a second start")
        assert time.monotonic() - began > 0.6, "it was given the time of a start"
        await _wait_state(child, State.RUNNING)
        assert child.report().reason == "did not answer for 0.7 s"

    run(body)


@pytest.mark.parametrize(("behaviour", "limit_ms"), [("serve", 100), ("beat", 0)])
def test_one_that_never_beat_is_not_watched_and_nobody_is_without_a_limit(
    run: Run, behaviour: str, limit_ms: int
) -> None:
    async def body(nursery: Nursery) -> None:
        limits = {"hang_timeout_ms": limit_ms, "start_timeout_ms": limit_ms}
        child = nursery.child(behaviour, QUICK.model_copy(update=limits))
        await child.start()
        await child.wait_settled()
        child.send(signal.SIGSTOP)
        began = time.monotonic()
        await _watch_until(child, lambda: time.monotonic() > began + 0.4, "a while in which it is silent")
        assert (child.state, child.report().restarts) == (State.RUNNING, 0)

    run(body)


def test_one_that_is_stopping_has_its_own_time_limit(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("beat", QUICK.model_copy(update={"hang_timeout_ms": 100}))
        await child.start()
        await child.wait_settled()
        began = time.monotonic()
        await _watch_until(child, lambda: time.monotonic() > began + 0.2, "a while in which it beats")
        stop = asyncio.create_task(child.stop())
        await _watch_until(child, stop.done, "it to stop")
        assert nursery.words() == ["start", "term", "end"]

    run(body)


# ---- hand-over --------------------------------------------------------------------------------------------------


def test_the_successor_is_ready_before_the_old_one_is_told_to_stop(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("late")
        await child.start()
        await child.wait_settled()
        first = child.report().pid
        nursery.history.clear()
        assert await child.hand_over()
        assert nursery.words() == ["start", "ready", "start", "ready", "term", "end"]
        assert nursery.states() == [State.RUNNING]
        report = child.report()
        assert (report.restarts, report.reason) == (1, "")
        assert report.pid not in (None, first)
        assert report.pid is not None
        os.kill(report.pid, 0)

    run(body)


def test_what_took_over_is_kept_running_and_stopped_like_any_other(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve")
        await child.start()
        await child.wait_settled()
        await child.hand_over()
        second = child.report().pid
        assert second is not None
        os.kill(second, signal.SIGKILL)
        await wait_until_async(lambda: child.report().restarts == 2, timeout_s=20, what="a third start")
        await _wait_state(child, State.RUNNING)
        await child.hand_over()
        await child.stop()
        assert child.state is State.STOPPED
        assert nursery.words().count("end") == 3

    run(body)


def test_an_old_one_that_does_not_go_is_killed(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("deaf,serve", SupervisorConfig(stop_timeout_ms=200))
        await child.start()
        await child.wait_settled()
        first = child.report().pid
        assert first is not None
        assert await child.hand_over()
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        assert child.state is State.RUNNING

    run(body)


def test_without_a_ready_successor_the_old_one_goes_on(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve,cannot")
        await child.start()
        await child.wait_settled()
        first = child.report().pid
        with pytest.raises(HandOverFailed) as caught:
            await child.hand_over()
        assert str(caught.value) == "n1/shard-1 goes on as it was: its successor the disk is made of cheese"
        assert (child.state, child.report().pid) == (State.RUNNING, first)
        assert "term" not in nursery.words()

    run(body)


def test_a_stop_does_not_wait_for_a_successor(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve,mute")
        await child.start()
        await child.wait_settled()
        hand_over = asyncio.create_task(child.hand_over())
        await wait_until_async(
            lambda: nursery.words() == ["start", "start"], timeout_s=20, what="the successor to start"
        )
        await child.stop()
        assert child.state is State.STOPPED
        with pytest.raises(HandOverFailed, match="came too late: it is to stop"):
            await hand_over
        assert nursery.words() == ["start", "start", "term", "end"]

    run(body)


def test_if_the_old_one_dies_meanwhile_its_successor_is_the_next_one(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve,late")
        await child.start()
        await child.wait_settled()
        first = child.report().pid
        assert first is not None
        hand_over = asyncio.create_task(child.hand_over())
        await wait_until_async(
            lambda: nursery.words() == ["start", "start"], timeout_s=20, what="the successor to start"
        )
        os.kill(first, signal.SIGKILL)
        assert await hand_over
        assert child.state is State.RUNNING
        assert nursery.states() == [State.STARTING, State.RUNNING, State.STARTING, State.RUNNING]
        assert child.report().reason == "killed by SIGKILL"
        assert nursery.words() == ["start", "start", "ready"]

    run(body)


def test_what_does_not_run_can_not_hand_over(run: Run) -> None:
    async def body(nursery: Nursery) -> None:
        child = nursery.child("serve")
        assert not await child.hand_over()
        assert nursery.words() == []

    run(body)
