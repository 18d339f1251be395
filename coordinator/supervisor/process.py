"""What a supervised process is called and how it is doing, as plain values that travel over the control
socket."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class State(enum.StrEnum):
    """Where a process is in its life."""

    STARTING = "starting"
    """Started, has not said that it is ready."""
    RUNNING = "running"
    BACKOFF = "backoff"
    """Crashed; waits for its next start."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """Was asked to stop. Stays so until asked to start."""
    FAILED = "failed"
    """Crashed too often or refused to start; `reason` says why. Stays so until asked to start."""


@dataclass(frozen=True, slots=True)
class ProcessName:
    """One process of a cluster. `shard` is None for a coordinator."""

    node: str
    shard: int | None = None

    @property
    def kind(self) -> str:
        """The module that runs it."""
        return "coordinator" if self.shard is None else "shardworker"

    @property
    def local(self) -> str:
        """Its name within its node: coordinator, shard-2."""
        return "coordinator" if self.shard is None else f"shard-{self.shard}"

    def __str__(self) -> str:
        return f"{self.node}/{self.local}"


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """One row of `boathouse status`."""

    node: str
    kind: str
    shard: int | None
    pid: int | None
    """None while no process runs."""
    state: State
    restarts: int
    """Starts after the first, whether after a crash or by request."""
    reason: str
    """Why it is not running, or why it last crashed; may be empty."""
    started_at: float | None
    """Unix time of the last start."""
    log: str
    """Path of its log file."""

    @property
    def name(self) -> ProcessName:
        return ProcessName(self.node, self.shard)

    def to_json(self) -> dict[str, Any]:
        """For the control socket."""
        return {field: getattr(self, field) for field in self.__slots__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ProcessReport:
        """The report that to_json() wrote. Raises KeyError or TypeError if it is none."""
        return cls(**{**data, "state": State(data["state"])})
