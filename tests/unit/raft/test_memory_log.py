"""The log of the tests' own replicas keeps the contract that SQLite's keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.raft.log_contract import LogContract, LogWriter
from tests.unit.raft.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardworker.raft import Entry, LogIndex, SnapshotMeta


class MemoryLogWriter:
    def __init__(self) -> None:
        self.log = MemoryLog()

    def append(self, entries: Sequence[Entry]) -> None:
        self.log.append(entries)

    def compact(self, index: LogIndex) -> None:
        self.log.compact(index)

    def install(self, meta: SnapshotMeta) -> None:
        self.log.install(meta)


class TestMemoryLog(LogContract):
    def make(self) -> LogWriter:
        return MemoryLogWriter()
