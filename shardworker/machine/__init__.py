"""The replicated state machine: multi-version key-value tables of both APIs over SQLite. See DESIGN.md."""

from shardworker.machine.machine import MachineSettings, Result, StateMachine
from shardworker.machine.window import WindowLimits

__all__ = ["MachineSettings", "Result", "StateMachine", "WindowLimits"]
