"""Is there one order of these operations that explains every answer and respects real time?

The search is that of Wing and Gong with Lowe's memo ("Testing for linearizability", 2017), the one Porcupine
uses: walk through the orders depth first; an operation may come next if no operation that is still waiting
had returned before it was invoked; never visit a pair of (operations placed, state) twice. Keys are
independent registers and linearizability is local (Herlihy and Wing, theorem 1), so each key is searched
alone.

Three facts keep the search small without changing its answer:

- a read, a compare-and-swap that failed and a delete that found nothing are placed at once, without a choice,
  when they may come next and fit: in any order that places one later it can be moved here. (A put of what is
  already there must not be: it may have been needed later, after a delete.)
- an operation of unknown fate is never waited for, because it may take effect after everything else or never;
  and it is not worth placing where it changes nothing;
- placed operations are all those before a base, plus a few bits after it, so a visited pair is short however
  long the history is.

A history that is not linearizable is cut down to the smallest window that still shows it: the earliest end,
then the latest start (from any state), then without the reads that do not matter.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tests.history.operations import Kind, Operation, Outcome, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

STEPS_MAX = 2_000_000
"""Operations tried per key before the search gives up; about five seconds."""

FOREVER = 1 << 80


@dataclass(frozen=True, slots=True)
class Linearizable:
    """Every key has an order that explains its history."""

    steps: int


@dataclass(frozen=True, slots=True)
class Violation:
    """No order explains this key's answers; the window alone shows it, whatever the key held before."""

    key: bytes
    window: tuple[Operation, ...]

    def __str__(self) -> str:
        lines = [f"key {self.key!r}: no order explains these {len(self.window)} operations:"]
        return "\n  ".join([*lines, *map(str, self.window)])


@dataclass(frozen=True, slots=True)
class Undecided:
    """The bound was reached before an answer."""

    key: bytes
    steps: int


Verdict = Linearizable | Violation | Undecided


class _Misfit(enum.Enum):
    MISFIT = enum.auto()


_MISFIT: Final = _Misfit.MISFIT


def step(state: Value, operation: Operation) -> Value | _Misfit:
    """The register's state after the operation, or _MISFIT if its result can't come from this state."""
    known = operation.outcome is Outcome.OK
    match operation.kind:
        case Kind.GET:
            return state if not known or operation.found == state else _MISFIT
        case Kind.PUT:
            return operation.value
        case Kind.DELETE:
            return None if not known or operation.hit == (state is not None) else _MISFIT
        case Kind.CAS:
            hit = state == operation.expected
            if known and operation.hit != hit:
                return _MISFIT
            return operation.value if hit else state


def check(history: Iterable[Operation], *, initial: Value = None, steps_max: int = STEPS_MAX) -> Verdict:
    """Check every key of a history; `initial` is what each key held at the start.

    Refused operations and reads that may be stale are left out. A violation of any key wins over an
    undecided one."""
    keys: dict[bytes, list[Operation]] = {}
    for operation in history:
        if operation.outcome is Outcome.REFUSED or (operation.kind is Kind.GET and not _binds(operation)):
            continue
        keys.setdefault(operation.key, []).append(operation)
    steps = 0
    undecided: Undecided | None = None
    for key in sorted(keys):
        search = _Search(keys[key], steps_max)
        found = search.run([initial])
        steps += search.steps
        if found is False:
            return Violation(key, _smallest_window(keys[key], initial, steps_max))
        if found is None:
            undecided = undecided or Undecided(key, search.steps)
    return undecided or Linearizable(steps)


def _binds(operation: Operation) -> bool:
    return operation.linearizable and operation.outcome is Outcome.OK


class _Search:
    """The search over one key's history."""

    def __init__(self, operations: Sequence[Operation], steps_max: int) -> None:
        by_invocation = sorted(operations, key=lambda operation: (operation.invoked, operation.returned))
        self.known = [operation for operation in by_invocation if operation.outcome is Outcome.OK]
        self.lost = [operation for operation in by_invocation if operation.outcome is Outcome.UNKNOWN]
        self.steps = 0
        self.steps_max = steps_max

    def run(self, initial: Iterable[Value]) -> bool | None:
        """Whether an order exists from one of these states; None if the bound was reached."""
        # (base, placed, lost_placed, state): known operations below base are placed, and those whose bit is
        # set in placed, counted from base; lost_placed are bits over the operations of unknown fate.
        stack: list[tuple[int, int, int, Value]] = [(0, 0, 0, state) for state in initial]
        visited = set(stack)
        while stack:
            base, placed, lost_placed, state = stack.pop()
            base, placed, choices, horizon = self._settle(base, placed, state)
            if base == len(self.known):
                return True
            if self.steps > self.steps_max:
                return None
            choices.sort(key=self._promise)
            following = [(base, placed | 1 << (index - base), lost_placed, after) for index, after in choices]
            for index, operation in enumerate(self.lost):
                if operation.invoked > horizon:
                    break
                if lost_placed >> index & 1:
                    continue
                self.steps += 1
                after_lost = step(state, operation)
                if after_lost is not _MISFIT and after_lost != state:
                    following.append((base, placed, lost_placed | 1 << index, after_lost))
            # Last pushed is first tried: the most promising on top, those of unknown fate at the bottom.
            for node in reversed(following):
                if node not in visited:
                    visited.add(node)
                    stack.append(node)
        return False

    def _promise(self, choice: tuple[int, Value]) -> tuple[int, int]:
        """Which to try first: a guess, all are tried in the end. A revision gives the order away."""
        operation = self.known[choice[0]]
        return (operation.revision or FOREVER, operation.returned)

    def _settle(self, base: int, placed: int, state: Value) -> tuple[int, int, list[tuple[int, Value]], int]:
        """Place all that fits and can't change the state; what then may come next, and until when."""
        known = self.known
        while True:
            while placed & 1:
                base += 1
                placed >>= 1
            horizon = FOREVER
            choices: list[tuple[int, Value]] = []
            settled = False
            for index in range(base, len(known)):
                operation = known[index]
                if operation.invoked > horizon:
                    break
                if placed >> (index - base) & 1:
                    continue
                self.steps += 1
                after = step(state, operation)
                if after is not _MISFIT:
                    if not operation.changes:
                        placed |= 1 << (index - base)
                        settled = True
                        continue
                    choices.append((index, after))
                horizon = min(horizon, operation.returned)
            if not settled:
                return base, placed, choices, horizon


def _smallest_window(
    operations: Sequence[Operation], initial: Value, steps_max: int
) -> tuple[Operation, ...]:
    def wrong(window: Sequence[Operation], states: Sequence[Value]) -> bool:
        return _Search(window, steps_max).run(states) is False

    ends = sorted(operation.returned for operation in operations if operation.outcome is Outcome.OK)
    end = _first(len(ends), lambda i: wrong(_until(operations, ends[i]), [initial]))
    window = _until(operations, ends[min(end, len(ends) - 1)])
    anything: list[Value] = [None]
    anything += sorted({v for o in operations for v in (o.value, o.expected, o.found) if v is not None})
    starts = sorted({operation.invoked for operation in window})
    # The latest start that still shows it. If none does from any state, the initial state is part of the
    # proof.
    late = _first(len(starts), lambda i: not wrong(_since(window, starts[i]), anything))
    if late > 0:
        window = _since(window, starts[late - 1])
        states = anything
    else:
        states = [initial]
    for operation in list(window):
        fewer = [other for other in window if other is not operation]
        if operation.kind is Kind.GET and wrong(fewer, states):
            window = fewer
    return tuple(window)


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The smallest index in [0, count) from which `holds` is true, or count; below it, it must be false."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _until(operations: Sequence[Operation], end: int) -> list[Operation]:
    """What an observer knows at `end`: later calls are not there, calls still under way have no result."""
    seen = [operation for operation in operations if operation.invoked <= end]
    return [
        replace(operation, outcome=Outcome.UNKNOWN) if operation.returned > end else operation
        for operation in seen
        if operation.returned <= end or operation.kind is not Kind.GET
    ]


def _since(operations: Sequence[Operation], start: int) -> list[Operation]:
    """What binds the time from `start` on, if the state at `start` may be anything.

    A write under way at `start` may have taken effect before, so it is optional; such a read says nothing."""
    window = []
    for operation in operations:
        if operation.invoked >= start:
            window.append(operation)
        elif operation.kind is not Kind.GET and (
            operation.returned >= start or operation.outcome is Outcome.UNKNOWN
        ):
            window.append(replace(operation, outcome=Outcome.UNKNOWN))
    return window
