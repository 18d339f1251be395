"""What both APIs' transactions may ask for at most."""

from __future__ import annotations

from typing import Final

TXN_OPERATIONS_MAX: Final = 20_000
"""Comparisons and operations of one transaction, in all of its lists. Each takes 5 to 15 us of a replica, so it is
applied in 0.3 s at most, where followers wait a second for their leader."""
