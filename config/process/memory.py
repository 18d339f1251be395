"""What a process gives back to the system."""

from __future__ import annotations

import ctypes
from typing import Final

LARGE_BYTES: Final = 128 << 10
"""glibc's own first value for what it takes from the system apart, and gives back as soon as it is free."""
_M_MMAP_THRESHOLD: Final = -3


def give_large_blocks_back() -> None:
    """Have freed blocks above LARGE_BYTES returned to the system at once.

    glibc raises that bound to the size of whatever large block it has freed, up to 32 MiB, and from then on keeps such
    blocks in its heap: a burst of answers of a megabyte left 420 MB behind in a process of 60. Setting the bound by
    hand keeps it where it is. Other libraries for C have no such call, and no need for it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
