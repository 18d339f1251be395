"""Memory that a process gives back to the system."""

from __future__ import annotations

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
"""Of glibc's malloc.h."""

LARGE_BYTES: Final = 256 << 10


def give_back_large_blocks() -> None:
    """Have blocks of LARGE_BYTES and more returned to the system as soon as they are freed.

    Answers of megabytes come and go in bursts. glibc raises the size from which it does this by itself to the largest
    block that was ever freed, up to 32 MiB; what is smaller then stays with the process, in pieces, for good. Another C
    library has no such habit and no such function."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
