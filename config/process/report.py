"""How a supervised process is doing, as plain values that travel over the control socket."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from config.process.names import ProcessName, kind_named


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
class ProcessReport:
    """What the supervisor knows of one process."""

    name: ProcessName
    state: State
    pid: int | None = None
    """None while no process runs."""
    restarts: int = 0
    """Starts after the first, whether after a crash or by request."""
    reason: str = ""
    """Why it is not running, or why it last ended by itself; may be empty."""
    started_at: float | None = None
    """Unix time of the last start."""
    log: str = ""
    """Path of its log file."""

    def to_json(self) -> dict[str, Any]:
        """For the control socket and for `-o json`."""
        return {
            "node": self.name.node,
            "process": self.name.local,
            "kind": self.name.kind.module,
            "shard": self.name.shard,
            "number": self.name.number,
            "pid": self.pid,
            "state": str(self.state),
            "restarts": self.restarts,
            "reason": self.reason,
            "started_at": self.started_at,
            "log": self.log,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ProcessReport:
        """The report that to_json() wrote. Raises KeyError, TypeError or ValueError if it is none that this version
        knows."""
        return cls(
            name=ProcessName(data["node"], kind_named(data["kind"]), data["number"]),
            state=State(data["state"]),
            pid=data["pid"],
            restarts=data["restarts"],
            reason=data["reason"],
            started_at=data["started_at"],
            log=data["log"],
        )
