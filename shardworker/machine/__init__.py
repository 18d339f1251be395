"""The replicated state machine: multi-version key-value tables of both APIs over SQLite. See DESIGN.md."""

from shardworker.machine.auth import NOBODY, SYSTEM, Who
from shardworker.machine.changes import Change, Edit, HistoryLimits, Listen, history, oldest
from shardworker.machine.handler import Result, TooNew, UnreadableEntry
from shardworker.machine.machine import FORMAT, StateMachine
from shardworker.machine.recoveries import note_recovery
from shardworker.machine.registry import REGISTRY, Registry
from shardworker.machine.requests import Parsed
from shardworker.machine.window import WindowLimits

__all__ = [
    "FORMAT",
    "NOBODY",
    "REGISTRY",
    "SYSTEM",
    "Change",
    "Edit",
    "HistoryLimits",
    "Listen",
    "Parsed",
    "Registry",
    "Result",
    "StateMachine",
    "TooNew",
    "UnreadableEntry",
    "Who",
    "WindowLimits",
    "history",
    "note_recovery",
    "oldest",
]
