"""The newest results by request id, so that a repeated request gets its first answer and changes nothing.

The window is part of the replicated state: what it holds depends only on the applied commands and the time in
their batches, never on a clock or on when this replica restarted. The database holds the answers, one row for each
applied entry; memory holds only id -> log index. An entry leaves the window by raising `_floor`, the oldest log
index that counts. The ids are kept in a few dicts, oldest first, and a dict is dropped once all of it is below the
floor: cheaper in memory and time than deleting ids one by one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

from proto.errors import Corrupt
from proto.internal import frames_pb2

if TYPE_CHECKING:
    import apsw

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    log_index INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,      -- of its batch
    age_clock_ms INTEGER NOT NULL, -- see STEP_MS_MAX
    commands INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    data BLOB NOT NULL,            -- boathouse.internal.StoredResults
    crc INTEGER NOT NULL           -- of all that, checked whenever the row is read
) STRICT
"""

_SELECT = "SELECT log_index, time_ms, age_clock_ms, commands, bytes, data, crc FROM results"
_NUMBERS = struct.Struct("<5q")

STEP_MS_MAX = 10_000
"""What an entry adds to the age of the ones before it, at most, however much later its batch says it is.

A leader's clock may be set forward by hours. Taken at its word it would empty the window at once, and a write that is
being retried just then would be applied a second time. On an idle shard answers stay longer than their age, which
costs nothing: the other limits hold."""

_OVERHEAD_BYTES = 64
"""Counted for each remembered command on top of its answer."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How much the window holds: the first limit to bite counts. Must be equal on all replicas of a shard."""

    commands_max: int = 100_000
    age_ms_max: int = 300_000
    bytes_max: int = 256 << 20
    """The newest entry stays whatever its size: it is the one most likely to be asked for again."""


_Row = tuple[int, int, int, int, int, bytes]
"""log_index, time_ms, age_clock_ms, commands, bytes, data."""


@dataclass(slots=True)
class _Oldest:
    index: int
    age_clock_ms: int
    commands: int
    size_bytes: int


@dataclass(slots=True)
class _Totals:
    commands: int = 0
    size_bytes: int = 0
    time_ms: int = 0
    """Of the newest entry; never decreases."""
    age_clock_ms: int = 0
    floor: int = 0


class ResultWindow:
    def __init__(self, connection: apsw.Connection, limits: WindowLimits):
        self._connection = connection
        self._limits = limits
        self._generation_ids = max(1, limits.commands_max // 4)
        connection.execute(_SCHEMA)
        self.load()

    def load(self) -> None:
        """Takes over what the database holds. Raises Corrupt."""
        self._generations: list[dict[bytes, int]] = [{}]
        self._last_index: list[int] = [0]
        self._totals = _Totals()
        self._oldest: _Oldest | None = None
        self._saved: tuple[_Totals, _Oldest | None, list[dict[bytes, int]], list[int]] | None = None
        self._added: list[tuple[dict[bytes, int], bytes, int | None]] = []
        for row in self._connection.execute(_SELECT + " ORDER BY log_index"):
            index, time_ms, age_clock_ms, commands, size_bytes, data = _checked(row)
            if self._oldest is None:
                self._oldest = _Oldest(index, age_clock_ms, commands, size_bytes)
                self._totals.floor = index
            self._count(time_ms, age_clock_ms, commands, size_bytes)
            for result in frames_pb2.StoredResults.FromString(data).results:
                self._generation(index)[result.request_id] = index

    def find(self, request_id: bytes) -> frames_pb2.StoredResult | None:
        """The first result of a request that is still remembered. Raises Corrupt."""
        for generation in self._generations:
            index = generation.get(request_id, 0)
            if index and index >= self._totals.floor:
                return self._read(request_id, index)
        return None

    def _read(self, request_id: bytes, index: int) -> frames_pb2.StoredResult:
        row = _checked(self._connection.execute(_SELECT + " WHERE log_index = ?", (index,)).fetchone())
        for result in frames_pb2.StoredResults.FromString(row[-1]).results:
            if result.request_id == request_id:
                return result
        raise AssertionError(f"entry {index} has no result for request {request_id.hex()}")

    def add(self, index: int, time_ms: int, stored: frames_pb2.StoredResults) -> None:
        """Remembers an entry's results and forgets what no longer fits. Raises Corrupt."""
        if self._saved is None:
            totals = self._totals
            self._saved = (totals, self._oldest, self._generations, self._last_index)
            self._totals = replace(totals)
            self._generations = self._generations[:]
            self._last_index = self._last_index[:]
        time_ms = max(time_ms, self._totals.time_ms)
        age_clock_ms = self._totals.age_clock_ms + min(time_ms - self._totals.time_ms, STEP_MS_MAX)
        results = stored.results
        size_bytes = sum([len(result.body) + _OVERHEAD_BYTES for result in results])
        row = (index, time_ms, age_clock_ms, len(results), size_bytes, stored.SerializeToString())
        self._connection.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, _crc(*row)))
        if self._oldest is None:
            self._oldest = _Oldest(index, age_clock_ms, len(results), size_bytes)
            self._totals.floor = index
        self._count(time_ms, age_clock_ms, len(results), size_bytes)
        generation = self._generation(index)
        for result in results:
            request_id = result.request_id
            self._added.append((generation, request_id, generation.get(request_id)))
            generation[request_id] = index
        self._prune(index)

    def _count(self, time_ms: int, age_clock_ms: int, commands: int, size_bytes: int) -> None:
        self._totals.commands += commands
        self._totals.size_bytes += size_bytes
        self._totals.time_ms = time_ms
        self._totals.age_clock_ms = age_clock_ms

    def _generation(self, index: int) -> dict[bytes, int]:
        """The dict that takes ids of the entry at index."""
        if len(self._generations[-1]) >= self._generation_ids:
            self._generations.append({})
            self._last_index.append(index)
        self._last_index[-1] = index
        return self._generations[-1]

    def _prune(self, newest_index: int) -> None:
        totals, limits = self._totals, self._limits
        oldest = self._oldest
        assert oldest is not None
        start = oldest.index
        while oldest.index != newest_index and (
            totals.commands > limits.commands_max
            or totals.size_bytes > limits.bytes_max
            or oldest.age_clock_ms < totals.age_clock_ms - limits.age_ms_max
        ):
            totals.commands -= oldest.commands
            totals.size_bytes -= oldest.size_bytes
            row = _checked(
                self._connection.execute(
                    _SELECT + " WHERE log_index > ? ORDER BY log_index LIMIT 1", (oldest.index,)
                ).fetchone()
            )
            index, _, age_clock_ms, commands, size_bytes, _ = row
            oldest = _Oldest(index, age_clock_ms, commands, size_bytes)
        if oldest.index == start:
            return
        self._oldest = oldest
        totals.floor = oldest.index
        self._connection.execute("DELETE FROM results WHERE log_index < ?", (oldest.index,))
        while len(self._generations) > 1 and self._last_index[0] < totals.floor:
            del self._generations[0], self._last_index[0]

    def committed(self) -> None:
        self._saved = None
        self._added.clear()

    def rollback(self) -> None:
        """Back to the last committed()."""
        if self._saved is None:
            return
        for generation, request_id, before in reversed(self._added):
            if before is None:
                del generation[request_id]
            else:
                generation[request_id] = before
        self._totals, self._oldest, self._generations, self._last_index = self._saved
        self.committed()

    @property
    def time_ms(self) -> int:
        return self._totals.time_ms

    @property
    def commands(self) -> int:
        return self._totals.commands


def _crc(index: int, time_ms: int, age_clock_ms: int, commands: int, size_bytes: int, data: bytes) -> int:
    return crc32(data, crc32(_NUMBERS.pack(index, time_ms, age_clock_ms, commands, size_bytes)))


def _checked(found: tuple[Any, ...] | None) -> _Row:
    if found is None:
        raise Corrupt("a row of remembered results is missing")
    row, crc = found[:-1], found[-1]
    try:
        sound = _crc(*row) == crc
    except (struct.error, TypeError):
        sound = False  # a flipped bit can change the type of a value just as well
    if not sound:
        raise Corrupt(
            f"the remembered results of log index {row[0]} fail their checksum; the disk returned other bytes"
            " than were written"
        )
    return row
