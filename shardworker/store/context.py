"""What everything in this package needs of the store it works for; none of it changes while the store is open."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shardworker.store.crash_points import CrashPoints
    from shardworker.store.database import StoreSettings
    from shardworker.store.files import Files
    from shardworker.store.records import Identity


@dataclass(frozen=True, slots=True)
class StoreContext:
    """Whose replica it is, where, and what it stands on."""

    path: Path
    """The replica's folder."""
    identity: Identity
    settings: StoreSettings
    vfs: str | None
    files: Files
    crash_points: CrashPoints
    clock_ns: Callable[[], int] = time.perf_counter_ns
    """Measures how long the disk takes; nothing that is stored depends on it."""
