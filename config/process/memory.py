"""Memory: what a process gives back to the system, and how often it looks for cycles of garbage."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Of glibc's malloc.h."""

LARGE_BYTES: Final = 2 << 20
"""More than a part of a long answer has. A part is copied some nine times between one socket and the next; when each
copy came from the system anew, to clear and map its pages took as long as everything else that was done with it."""
REUSED_BYTES: Final = 16 << 20
"""Kept for such copies at the end of a heap."""
GROWN_BYTES: Final = 16 << 20

COLLECT_AFTER: Final = 20_000
"""Objects made, and not freed yet, after which the collector looks at them. Python's own 700 are fewer than the calls
under way have, which then were looked at again and again for nothing."""


class FreeMemory:
    """What the process has freed and not given back to the system.

    Answers of megabytes come and go in bursts. glibc keeps what it got for them: it raises the size from which a block
    is returned as soon as it is freed to the largest that ever was, up to 32 MiB, and what is smaller stays with the
    process, in pieces between others, for good. Other C libraries have none of these functions."""

    def __init__(self) -> None:
        """Have blocks of LARGE_BYTES and more returned as soon as they are freed, and smaller ones used again."""
        libc = ctypes.CDLL(None)
        mallopt = getattr(libc, "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
            mallopt(_M_TRIM_THRESHOLD, REUSED_BYTES)
        self._trim = getattr(libc, "malloc_trim", None)
        self._least_bytes = 0

    def give_back(self) -> None:
        """Return what lies free, if the process has grown by GROWN_BYTES since it last was small. For about once a
        second: looking takes 30 us, and returning 12 ms for each 100 MiB."""
        if self._trim is None:
            return
        with contextlib.suppress(OSError):  # as where no file can be opened: another time, then
            resident_bytes = _resident_bytes()
            if self._least_bytes and resident_bytes > self._least_bytes + GROWN_BYTES:
                self._trim(0)
                self._least_bytes = _resident_bytes()
            else:
                self._least_bytes = min(self._least_bytes or resident_bytes, resident_bytes)


def _resident_bytes() -> int:
    """By Linux, which is where malloc_trim is."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


def collect_rarely() -> None:
    """Have the collector look rarely, since calls leave no cycles. For where a process begins, which has stopped it
    while it imports: all of that lives to the end, and to look at it again and again took a tenth of the start."""
    gc.set_threshold(COLLECT_AFTER)
    gc.enable()


def keep_what_lives() -> None:
    """What lives now lives to the end: the collector need not look at it again. For when the process is about to
    serve."""
    gc.freeze()
