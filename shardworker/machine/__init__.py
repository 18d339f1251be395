"""The replicated state machine: multi-version key-value tables of both APIs over SQLite. See DESIGN.md."""

from shardworker.machine.changes import Change, Edit, HistoryLimits, Listen, history
from shardworker.machine.handler import Result
from shardworker.machine.machine import FORMAT, Parsed, StateMachine, UnknownEntry
from shardworker.machine.window import WindowLimits

__all__ = [
    "FORMAT",
    "Change",
    "Edit",
    "HistoryLimits",
    "Listen",
    "Parsed",
    "Result",
    "StateMachine",
    "UnknownEntry",
    "WindowLimits",
    "history",
]
