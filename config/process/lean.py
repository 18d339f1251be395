"""What a process of a node does without: it is there for people, and is imported by libraries that would use it."""

from __future__ import annotations

import sys


def leave_out_rich() -> None:
    """Have structlog not import rich, by which it shows tracebacks on a terminal: 5 MB of a process that logs JSON.

    To be called before structlog is imported; whoever imports rich later in this process finds that it is not there."""
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
