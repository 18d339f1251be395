"""Restarts processes one at a time, so that clients notice none of it.

The next process goes down only when the last one is ready and its shard could do without the next: the restarted
replica knows a leader and has applied what was committed when it came back. A replica that leads sends its leadership
to another node first. A process that does not get there ends the walk; what is left keeps running, and the same command
takes up where it ended (`boathouse restart --older-than`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from config.process.report import ProcessReport, State
from tools.admin.control_client import RequestRefused, SupervisorUnreachable
from tools.admin.leadership import NotMoved, Replicas, move_leadership
from tools.admin.shards import ShardView, leaders_by_node, view

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from config.process.names import ProcessName

POLL_S: Final = 0.05


class Operator(Replicas, Protocol):
    """What a rolling restart needs from the world."""

    def restart(self, name: ProcessName) -> ProcessReport:
        """Stop it in order and start it; how it is once it has settled. Raises SupervisorUnreachable or
        RequestRefused."""


class RestartStuck(Exception):
    """A process did not come back as it should. The text says which, how it is, and what was left alone."""


class QuorumNeeded(RestartStuck):
    """The next process is one that its shard can't do without now; it was not touched."""


@dataclass(frozen=True, slots=True)
class QuorumRisk:
    """A shard would lose its quorum by a restart."""

    shard: int
    voters: int
    away: tuple[ProcessName, ...]
    """Voters that are away already, or behind."""

    def __str__(self) -> str:
        if not self.away:
            return f"shard {self.shard} would lose its quorum without it: it is one of {self.voters} voters"
        away = ", ".join(map(str, self.away))
        return f"shard {self.shard} would lose its quorum without it while {away} is away or behind"


def _risk(shard: ShardView, name: ProcessName) -> QuorumRisk | None:
    return QuorumRisk(shard.shard, len(shard.voters), shard.away) if shard.needs(name) else None


@dataclass(frozen=True, slots=True)
class Step:
    """What a restart does to one process."""

    name: ProcessName
    is_up: bool = True
    """A replica that does not answer is down: it is started."""
    successor: str | None = None
    """Node that the shard's leadership goes to before; None if the process does not lead."""
    quorum_risk: QuorumRisk | None = None
    """If the shard would have no quorum meanwhile: refused unless forced."""
    pauses: bool = False
    """Whether it is its shard's only voter: requests wait until it is back."""

    def to_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return {
            "node": self.name.node,
            "process": self.name.local,
            "shard": self.name.shard,
            "up": self.is_up,
            "leadership_to": self.successor,
            "loses_quorum": self.quorum_risk is not None,
            "quorum_lost_with": [str(name) for name in self.quorum_risk.away] if self.quorum_risk else [],
            "pauses_shard": self.pauses,
        }

    def __str__(self) -> str:
        said = [] if self.name.shard is None or self.is_up else ["down now"]
        if self.successor is not None:
            said.append(f"its leadership goes to {self.successor} first")
        if self.pauses:
            said.append("its shard's only voter: requests wait meanwhile")
        if self.quorum_risk is not None:
            said.append(f"refused: {self.quorum_risk}")
        return f"{self.name}: {'; '.join(said)}" if said else str(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingRestart:
    """Restarts processes of one cluster."""

    operator: Operator
    shards: Mapping[int, Sequence[ProcessName]]
    """All replicas of each shard of the cluster."""
    catch_up_timeout_s: float
    move_timeout_s: float
    force: bool = False
    """Restart also what a shard can't do without, and a leader that finds no successor."""
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def plan(self, names: Sequence[ProcessName]) -> list[Step]:
        """What run() would do, in its order, as things are now."""
        views = self._views()
        leads = leaders_by_node(views.values())
        steps: list[Step] = []
        for name in _in_order(names, views):
            if name.shard is None:
                steps.append(Step(name))
                continue
            shard = views[name.shard]
            back = {step.name for step in steps}  # what is away now and comes earlier is there by then
            successor = None
            if shard.leader == name and (able := shard.successors(leads)):
                successor = able[0].node
                leads[successor] += 1
                leads[name.node] -= 1
            risk = _risk(shard, name)
            steps.append(
                Step(
                    name,
                    is_up=name in shard.answers,
                    successor=successor,
                    quorum_risk=None if risk is not None and back & set(risk.away) else risk,
                    pauses=shard.voters == (name,),
                )
            )
        return steps

    def run(self, names: Sequence[ProcessName], on_done: Callable[[ProcessReport], None]) -> None:
        """Restart `names`, and say of each when it is back. Raises RestartStuck, QuorumNeeded."""
        order = _in_order(names, self._views())
        for position, name in enumerate(order):
            try:
                report = self._restart(name)
            except QuorumNeeded as error:
                raise QuorumNeeded(_where_it_stands(str(error), order, position)) from None
            except (RestartStuck, NotMoved, SupervisorUnreachable, RequestRefused) as error:
                raise RestartStuck(_where_it_stands(str(error), order, position)) from None
            on_done(report)

    def _restart(self, name: ProcessName) -> ProcessReport:
        if name.shard is not None:
            self._prepare(name, name.shard)
        began_s = self.clock()
        report = self.operator.restart(name)
        if report.state is not State.RUNNING:
            raise RestartStuck(_stuck(report, waited_s=self.clock() - began_s))
        if name.shard is not None and not self._catches_up(name, name.shard):
            raise RestartStuck(
                f"{name} runs but had not caught up with its shard's leader within {self.catch_up_timeout_s:g} s: "
                f"{_look_into(name)}"
            )
        return report

    def _prepare(self, name: ProcessName, shard: int) -> None:
        """See to it that the shard can do without this replica, or raise."""
        seen = self._view(shard)
        risk = _risk(seen, name)
        if risk is not None and not self.force:
            raise QuorumNeeded(f"{name} is not restarted: {risk}")
        if seen.leader == name and len(seen.voters) > 1 and seen.has_quorum:
            self._send_leadership_away(seen)

    def _send_leadership_away(self, shard: ShardView) -> None:
        leads = leaders_by_node(self._views().values())
        failures = [f"no voter of shard {shard.shard} could lead in place of {shard.leader}"]
        for target in shard.successors(leads):
            try:
                move_leadership(
                    self.operator,
                    shard,
                    target,
                    timeout_s=self.move_timeout_s,
                    clock=self.clock,
                    pause=self.pause,
                )
            except NotMoved as error:
                failures.append(str(error))
            else:
                return
            if self._view(shard.shard).leader not in (None, shard.leader):
                return  # to somebody else; that does as well
        if not self.force:
            raise RestartStuck(f"{shard.leader} is not restarted: {failures[-1]}")

    def _catches_up(self, name: ProcessName, shard: int) -> bool:
        """Wait until it has applied what was committed when its leader was first heard of again."""
        deadline_s = self.clock() + self.catch_up_timeout_s
        target_index: int | None = None
        while True:
            seen = self._view(shard)
            mine, leader = seen.answers.get(name), seen.leader
            if mine is not None and mine.leader and leader is not None:
                if target_index is None:
                    target_index = seen.answers[leader].commit_index
                if mine.applied_index >= target_index:
                    return True
            if self.clock() >= deadline_s:
                return False
            self.pause(POLL_S)

    def _view(self, shard: int) -> ShardView:
        replicas = self.shards[shard]
        return view(shard, replicas, self.operator.ask(replicas))

    def _views(self) -> dict[int, ShardView]:
        everybody = [name for replicas in self.shards.values() for name in replicas]
        answers = self.operator.ask(everybody)
        return {shard: view(shard, replicas, answers) for shard, replicas in self.shards.items()}


def _in_order(names: Sequence[ProcessName], views: Mapping[int, ShardView]) -> list[ProcessName]:
    """Leaders last within a shard: each shard then moves its leadership once. Those that don't answer first: they are
    down, and what is up may be all that the quorum has. Those that stop last are restarted first."""
    leading = {each.leader for each in views.values()}
    answering = {name for each in views.values() for name in each.answers}
    return sorted(
        names, key=lambda name: (-name.kind.stop_rank, name.number or 0, name in leading, name in answering)
    )


def _stuck(report: ProcessReport, *, waited_s: float) -> str:
    why = f" ({report.reason})" if report.reason else ""
    waits = (
        "" if report.state in (State.FAILED, State.STOPPED) else f", and was not ready after {waited_s:.0f} s"
    )
    return f"{report.name} is {report.state}{why}{waits}: {_look_into(report.name)}"


def _look_into(name: ProcessName) -> str:
    return f"`boathouse logs {name} FILE` shows what it does"


def _where_it_stands(what: str, order: Sequence[ProcessName], position: int) -> str:
    done = ", ".join(map(str, order[:position]))
    left = ", ".join(map(str, order[position + 1 :]))
    return what + (f"; done: {done}" if done else "") + (f"; left as they are: {left}" if left else "")
