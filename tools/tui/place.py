"""Where the user is: a view, and what it is about. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class View(enum.StrEnum):
    """The views, by the names that the command palette has."""

    OVERVIEW = "overview"
    PROCESSES = "processes"
    SHARDS = "shards"
    REPLICAS = "replicas"
    TABLES = "tables"
    FINDINGS = "findings"
    CALLS = "calls"
    REPLICATION = "replication"
    KEYS = "keys"
    HISTORY = "history"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Place:
    """One view of one thing."""

    view: View
    subject: str = ""
    """A node (PROCESSES, REPLICAS), a shard's number (REPLICAS), a table (KEYS, HISTORY), a process (LOG); "" for
    all."""
    key: bytes = b""
    """Of HISTORY: the key. Of KEYS: where the page begins."""


TOP_VIEWS = (
    View.OVERVIEW,
    View.PROCESSES,
    View.SHARDS,
    View.REPLICAS,
    View.TABLES,
    View.FINDINGS,
    View.CALLS,
    View.REPLICATION,
)
"""Those about the whole cluster; the keys 1 to 8 lead there."""
