"""Restarts processes one at a time, so that clients notice none of it.

The next process goes down only when the last one is ready and its shard could do without the next: the
restarted replica knows a leader and has applied what was committed when it came back. A process that does not
get there ends the walk; what is left keeps running."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from config.process.report import ProcessReport, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from config.process.names import ProcessName
    from proto.internal import frames_pb2 as frames

POLL_S: Final = 0.05


class Operator(Protocol):
    """What a rolling restart needs from the world."""

    def restart(self, name: ProcessName) -> ProcessReport:
        """Stop it in order and start it; how it is once it has settled."""

    def ask(self, names: Sequence[ProcessName]) -> dict[ProcessName, frames.ReplicaStatus]:
        """What replicas say of themselves; those that don't answer are left out."""


class RestartStuck(Exception):
    """A process did not come back as it should. The text says which, how it is, and what was left alone."""


def restart_one_by_one(
    operator: Operator,
    names: Sequence[ProcessName],
    replicas_of: Callable[[int], Sequence[ProcessName]],
    *,
    timeout_s: float,
    on_done: Callable[[ProcessReport], None],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Restart `names` in a good order. timeout_s bounds the wait for each. Raises RestartStuck."""
    order = _followers_first(operator, names)
    for position, name in enumerate(order):
        if name.shard is not None and (missing := _needed(operator, name, replicas_of(name.shard))):
            away = ", ".join(map(str, missing))
            said = f"{name} is not restarted: its shard could not serve without it while {away} is away"
            raise RestartStuck(_stuck(said, order, position))
        report = operator.restart(name)
        if report.state is not State.RUNNING:
            raise RestartStuck(
                _stuck(f"{name} is {report.state} ({report.reason or 'no reason known'})", order, position)
            )
        if name.shard is not None and not _caught_up(
            operator, name, replicas_of(name.shard), deadline_s=clock() + timeout_s, clock=clock, pause=pause
        ):
            said = f"{name} runs but had not caught up with its shard's leader within {timeout_s:g} s"
            raise RestartStuck(_stuck(said, order, position))
        on_done(report)


def _followers_first(operator: Operator, names: Sequence[ProcessName]) -> list[ProcessName]:
    """Leaders last within a shard: each shard then moves its leadership once. Those that don't answer first: they are
    down, and what is up may be all that the quorum has. Those that stop last are restarted first."""
    replicas = [name for name in names if name.shard is not None]
    answers = operator.ask(replicas) if replicas else {}
    leading = {name for name, status in answers.items() if status.leader == status.node}
    return sorted(
        names, key=lambda name: (-name.kind.stop_rank, name.number or 0, name in leading, name in answers)
    )


def _needed(operator: Operator, name: ProcessName, replicas: Sequence[ProcessName]) -> list[ProcessName]:
    """Who is away, if the shard serves and would not without this replica. A shard of one or two never can."""
    if len(replicas) < 3:
        return []
    majority = len(replicas) // 2 + 1
    serving = {
        other for other, status in operator.ask(replicas).items() if status.leader and not status.fault
    }
    if name not in serving or len(serving) != majority:
        return []
    return [other for other in replicas if other not in serving]


def _caught_up(
    operator: Operator,
    name: ProcessName,
    replicas: Sequence[ProcessName],
    *,
    deadline_s: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> bool:
    target_index: int | None = None
    while True:
        answers = operator.ask(replicas)
        mine = answers.get(name)
        leading = [status for status in answers.values() if status.leader == status.node]
        leader = max(leading, key=lambda status: status.term, default=None)
        if mine is not None and mine.leader and leader is not None:
            if target_index is None:
                target_index = leader.commit_index
            if mine.applied_index >= target_index:
                return True
        if clock() >= deadline_s:
            return False
        pause(POLL_S)


def _stuck(what: str, order: Sequence[ProcessName], position: int) -> str:
    left = ", ".join(str(name) for name in order[position + 1 :])
    return f"{what}; left as they are: {left}" if left else what
