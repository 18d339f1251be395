"""Memory: what a process gives back to the system, and how often it looks for cycles of garbage."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
"""Of glibc's malloc.h."""

LARGE_BYTES: Final = 256 << 10

COLLECT_AFTER: Final = 20_000
"""Objects made, and not freed yet, after which the collector looks at them. Python's own 700 are fewer than the calls
under way have, which then were looked at again and again for nothing."""


def give_back_large_blocks() -> None:
    """Have blocks of LARGE_BYTES and more returned to the system as soon as they are freed.

    Answers of megabytes come and go in bursts. glibc raises the size from which it does this by itself to the largest
    block that was ever freed, up to 32 MiB; what is smaller then stays with the process, in pieces, for good. Another C
    library has no such habit and no such function."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def collect_rarely() -> None:
    """Have the collector look rarely, since calls leave no cycles. For where a process begins, which has stopped it
    while it imports: all of that lives to the end, and to look at it again and again took a tenth of the start."""
    gc.set_threshold(COLLECT_AFTER)
    gc.enable()


def keep_what_lives() -> None:
    """What lives now lives to the end: the collector need not look at it again. For when the process is about to
    serve."""
    gc.freeze()
