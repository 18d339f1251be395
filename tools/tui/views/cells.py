"""Cells that more than one view has. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.process.report import State
from tools.admin.diagnosis import TRAILS_ENTRIES
from tools.admin.findings import Severity
from tools.admin.snapshot import DOWN, ELSEWHERE, UNKNOWN
from tools.tui import units
from tools.tui.page import BAD, DIM, GOOD, LEAD, PLAIN, WARN, Cell
from tools.tui.page import UNKNOWN as DASH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tools.admin.findings import Finding
    from tools.admin.snapshot import Process, Replica, Shard

STALE_S = 2.5
"""A figure older than this shows its age: a look or two did not bring a newer one."""

_STATE_STYLES = {
    State.RUNNING: GOOD,
    State.STARTING: WARN,
    State.BACKOFF: WARN,
    State.STOPPING: WARN,
    State.STOPPED: DIM,
    State.FAILED: BAD,
    DOWN: BAD,
    UNKNOWN: WARN,
    ELSEWHERE: DIM,
}


def number(value: float | None, style: str = PLAIN) -> Cell:
    """A count."""
    return _figure(value, units.count, style)


def rate(value: float | None) -> Cell:
    """Per second."""
    return _figure(value, units.rate, PLAIN)


def size(value: int | None, style: str = PLAIN) -> Cell:
    """Bytes."""
    return _figure(value, units.size, style)


def duration(value_us: float | None, style: str = PLAIN) -> Cell:
    """Microseconds, shown as milliseconds."""
    return _figure(value_us, units.milliseconds, style)


def percent(value: float | None) -> Cell:
    """Of a core."""
    return _figure(value, lambda share: f"{share:.0f}%", PLAIN)


def _figure(value: float | None, text: Callable[[float], str], style: str) -> Cell:
    if value is None:
        return Cell(DASH, DIM, sort=-1.0)
    return Cell(text(value), style, sort=float(value))


def since(unix_s: float | None, now: float) -> Cell:
    """How long ago."""
    if unix_s is None:
        return Cell(DASH, DIM, sort=-1.0)
    return Cell(units.span(now - unix_s), sort=now - unix_s)


def age(answered_at: float | None, now: float, *, is_current: bool) -> Cell:
    """Empty for what is of now; else how old it is, or that it never answered."""
    if answered_at is None:
        return Cell("never", BAD, sort=float("inf"))
    old_s = now - answered_at
    if is_current and old_s <= STALE_S:
        return Cell("", sort=0.0)
    return Cell(f"{units.span(old_s)} ago", WARN, sort=old_s)


def state(process: Process | None) -> Cell:
    """Of a process."""
    if process is None:
        return Cell(DASH, DIM)
    return Cell(process.state, _STATE_STYLES.get(process.state, PLAIN))


def letter(process: Process) -> Cell:
    """Of a process: X down, ! neither up nor down, or nothing."""
    if process.state in (State.FAILED, State.STOPPED, DOWN):
        return Cell("X", BAD)
    if process.state in (State.RUNNING, ELSEWHERE):
        return Cell(" ")
    return Cell("!", WARN)


def role_letter(shard: Shard, replica: Replica) -> Cell:
    """L leader, F follower, ~ learner, C candidate; ! behind or full, X down or serving nothing."""
    if not replica.is_answering or replica.fault:
        return Cell("X", BAD)
    behind = shard.trails(replica)
    if replica.no_space or (behind is not None and behind > TRAILS_ENTRIES):
        return Cell("!", WARN)
    match replica.role:
        case "leader":
            return Cell("L", LEAD)
        case "follower":
            return Cell("F", GOOD)
        case "learner":
            return Cell("~", DIM)
    return Cell("C", WARN)


def trails(shard: Shard, replica: Replica) -> Cell:
    """How many entries it is behind its leader."""
    behind = shard.trails(replica)
    if behind is None or replica.is_leader:
        return Cell(DASH, DIM, sort=-1.0)
    return number(behind, WARN if behind > TRAILS_ENTRIES else PLAIN)


_MARKS: Final = {
    None: Cell(" "),
    Severity.NOTE: Cell("i", LEAD),
    Severity.WARNING: Cell("!", WARN),
    Severity.CRITICAL: Cell("X", BAD),
}


def mark(findings: Sequence[Finding]) -> Cell:
    """What is wrong with a row, as a letter: X if clients are not served, else !; i for a note."""
    return of_severity(max((finding.severity for finding in findings), default=None))


def of_severity(severity: Severity | None) -> Cell:
    """The same of one finding."""
    return _MARKS[severity]


def total(values: Sequence[float | None]) -> float | None:
    """Of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
