"""The newest results by request id, so that a repeated request gets its first answer and changes nothing.

The window is part of the replicated state: what it holds depends only on the applied commands and the time in their
batches, never on a clock or on when this replica restarted. Two things leave it at different times:

- An *id*, with the fingerprint of its request, the revision and the error if there was one, stays for a number of
  commands or an age. As long as it is here, a repeat changes nothing. A young one stays whatever that number: a
  coordinator that has lost its leader may repeat a write for as long (coordinator/shards/router.py).
- An *answer*'s bytes go earlier if there are many of them. A repeat then hears that the request was applied, and that
  its answer is no longer kept. Most writes are answered by no bytes at all, and lose nothing.

The database holds all of it, a row for each applied entry; memory holds only id -> log index. An entry leaves the
window by raising `floor`, the oldest log index that counts, and its answers leave by raising `answers_floor`. The ids
are kept in a few dicts, oldest first, and a dict is dropped once all of it is below the floor: cheaper in memory and
time than deleting ids one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from shardworker.machine.stored_results import (
    ANSWERS,
    RESULTS,
    SCHEMA,
    Remembered,
    encode,
    found_row,
    ids_of,
    remembered,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import apsw

STEP_MS_MAX = 10_000
"""What an entry adds to the age of the ones before it, at most, however much later its batch says it is.

A leader's clock may be set forward by hours. Taken at its word it would empty the window at once, and a write that is
being retried just then would be applied a second time. On an idle shard answers stay longer than their age, which
costs nothing: the other limits hold."""


PRUNED_ENTRIES_MAX: Final = 100
"""With each new one: what a burst has left may all grow old at once. Part of the replicated behaviour since level 2."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How much the window holds. Must be equal on all replicas of a shard."""

    commands_max: int = 100_000
    """Ids, of the newest commands ..."""
    age_ms_max: int = 300_000
    """... and none older than this."""
    young_ms: int = 20_000
    """Since machine level 2, those that are not older than this stay even if they are more: twice as long as a
    coordinator repeats a write, since one step of a leader's clock may age them by STEP_MS_MAX ..."""
    young_commands_max: int = 500_000
    """... up to so many: a leader's clock that was set back lets nothing grow old for a while."""
    answer_bytes_max: int = 256 << 20
    """Of answers. Those of the newest entry stay whatever their size: they are the likeliest to be asked for again."""


@dataclass(slots=True)
class _Oldest:
    index: int
    age_clock_ms: int
    commands: int


@dataclass(slots=True)
class _Totals:
    commands: int = 0
    answer_bytes: int = 0
    time_ms: int = 0
    """Of the newest entry; never decreases."""
    age_clock_ms: int = 0
    floor: int = 0
    answers_floor: int = 0


class ResultWindow:
    def __init__(self, connection: apsw.Connection, limits: WindowLimits):
        """Takes over what the database holds. Raises Corrupt."""
        self._connection = connection
        self._limits = limits
        self._generation_ids = max(1, limits.commands_max // 4)
        connection.execute(SCHEMA)
        self._generations: list[dict[bytes, int]] = [{}]
        self._last_index: list[int] = [0]
        self._totals = _Totals()
        self._oldest: _Oldest | None = None
        self._before_turn: tuple[_Totals, _Oldest | None, list[dict[bytes, int]], list[int]] | None = None
        self._added: list[tuple[dict[bytes, int], list[bytes], dict[bytes, int]]] = []
        for row in RESULTS.all(connection, "ORDER BY log_index"):
            index, time_ms, age_clock_ms, commands, data = row
            if self._oldest is None:
                self._oldest = _Oldest(index, age_clock_ms, commands)
                self._totals.floor = index
            self._count(time_ms, age_clock_ms, commands)
            for request_id in ids_of(data, commands):
                self._generation(index)[request_id] = index
        for index, bodies in ANSWERS.all(connection, "ORDER BY log_index"):
            if not self._totals.answer_bytes:
                self._totals.answers_floor = index
            self._totals.answer_bytes += len(bodies)

    def find(self, request_id: bytes) -> Remembered | None:
        """What is remembered of a request. Raises Corrupt."""
        for generation in self._generations:
            index = generation.get(request_id, 0)
            if index and index >= self._totals.floor:
                return self._read(request_id, index)
        return None

    def known(self, request_ids: Iterable[bytes]) -> set[bytes]:
        """Those of these ids that are remembered, and perhaps some that have just left the window: a fifth of the time
        of a find() for each, and nearly always none."""
        asked = set(request_ids)
        return set().union(*[asked & generation.keys() for generation in self._generations])

    def _read(self, request_id: bytes, index: int) -> Remembered:
        *_, commands, data = found_row(RESULTS.find(self._connection, "WHERE log_index = ?", (index,)))
        return remembered(data, commands, request_id, lambda: self._answers(index))

    def _answers(self, index: int) -> bytes | None:
        if index < self._totals.answers_floor or not self._totals.answer_bytes:
            return None
        _, bodies = found_row(ANSWERS.find(self._connection, "WHERE log_index = ?", (index,)))
        return bytes(bodies)

    def add(self, index: int, time_ms: int, fresh: Mapping[bytes, Remembered], *, keeps_young: bool) -> None:
        """Remembers an entry's results and forgets what no longer fits. keeps_young: whether the shard is at a level
        at which young ones stay. Raises Corrupt."""
        if self._before_turn is None:
            totals = self._totals
            self._before_turn = (totals, self._oldest, self._generations, self._last_index)
            self._totals = replace(totals)
            self._generations = self._generations[:]
            self._last_index = self._last_index[:]
        time_ms = max(time_ms, self._totals.time_ms)
        age_clock_ms = self._totals.age_clock_ms + min(time_ms - self._totals.time_ms, STEP_MS_MAX)
        data, bodies = encode(fresh)
        row = RESULTS.sealed(index, time_ms, age_clock_ms, len(fresh), data)
        self._connection.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)", row)
        if self._oldest is None:
            self._oldest = _Oldest(index, age_clock_ms, len(fresh))
            self._totals.floor = index
        self._count(time_ms, age_clock_ms, len(fresh))
        generation = self._generation(index)
        # An id can be here twice: its first entry has left the window, and waits for its dict to be dropped.
        overwritten = {request_id: generation[request_id] for request_id in generation.keys() & fresh.keys()}
        self._added.append((generation, list(fresh), overwritten))
        generation.update(dict.fromkeys(fresh, index))
        if bodies:
            self._add_answers(index, bodies)
        self._prune(index, keeps_young=keeps_young)

    def _add_answers(self, index: int, bodies: bytes) -> None:
        self._connection.execute("INSERT INTO answers VALUES (?, ?, ?)", ANSWERS.sealed(index, bodies))
        if not self._totals.answer_bytes:
            self._totals.answers_floor = index
        self._totals.answer_bytes += len(bodies)

    def _count(self, time_ms: int, age_clock_ms: int, commands: int) -> None:
        self._totals.commands += commands
        self._totals.time_ms = time_ms
        self._totals.age_clock_ms = age_clock_ms

    def _generation(self, index: int) -> dict[bytes, int]:
        """The dict that takes ids of the entry at index."""
        if len(self._generations[-1]) >= self._generation_ids:
            self._generations.append({})
            self._last_index.append(index)
        self._last_index[-1] = index
        return self._generations[-1]

    def _prune(self, newest_index: int, *, keeps_young: bool) -> None:
        totals, limits = self._totals, self._limits
        oldest = self._oldest
        assert oldest is not None
        start = oldest.index
        for _ in range(PRUNED_ENTRIES_MAX if keeps_young else newest_index):
            if oldest.index == newest_index:
                break
            age_ms = totals.age_clock_ms - oldest.age_clock_ms
            is_young = keeps_young and age_ms <= limits.young_ms
            commands_max = limits.young_commands_max if is_young else limits.commands_max
            if totals.commands <= commands_max and age_ms <= limits.age_ms_max:
                break
            totals.commands -= oldest.commands
            newer = "WHERE log_index > ? ORDER BY log_index LIMIT 1"
            row = found_row(RESULTS.find(self._connection, newer, (oldest.index,)))
            index, _, age_clock_ms, commands, _ = row
            oldest = _Oldest(index, age_clock_ms, commands)
        if oldest.index != start:
            self._oldest = oldest
            totals.floor = oldest.index
            self._connection.execute("DELETE FROM results WHERE log_index < ?", (oldest.index,))
            while len(self._generations) > 1 and self._last_index[0] < totals.floor:
                del self._generations[0], self._last_index[0]
        self._prune_answers(newest_index)

    def _prune_answers(self, newest_index: int) -> None:
        """Gives up answers that belong to no id any more, or are too many."""
        totals = self._totals
        while (
            totals.answer_bytes
            and totals.answers_floor != newest_index
            and (totals.answers_floor < totals.floor or totals.answer_bytes > self._limits.answer_bytes_max)
        ):
            oldest, bodies = found_row(ANSWERS.find(self._connection, "ORDER BY log_index LIMIT 1"))
            self._connection.execute("DELETE FROM answers WHERE log_index = ?", (oldest,))
            totals.answer_bytes -= len(bodies)
            next_index = self._connection.execute("SELECT min(log_index) FROM answers").get
            totals.answers_floor = oldest + 1 if next_index is None else next_index

    def committed(self) -> None:
        self._before_turn = None
        self._added.clear()

    def rollback(self) -> None:
        """Back to the last committed()."""
        if self._before_turn is None:
            return
        for generation, request_ids, overwritten in reversed(self._added):
            for request_id in request_ids:
                del generation[request_id]
            generation.update(overwritten)
        self._totals, self._oldest, self._generations, self._last_index = self._before_turn
        self.committed()

    @property
    def time_ms(self) -> int:
        return self._totals.time_ms

    @property
    def age_clock_ms(self) -> int:
        """What ages are counted by; never decreases."""
        return self._totals.age_clock_ms

    @property
    def commands(self) -> int:
        return self._totals.commands

    @property
    def answer_bytes(self) -> int:
        return self._totals.answer_bytes
