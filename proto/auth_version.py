"""A table's auth version: one number for its auth revision and whether authentication is enabled.

It rises with every change of who may do what, and is odd while authentication is enabled: to enable it is no new
revision, to disable it is one.
"""

from __future__ import annotations


def auth_version(revision: int, *, enabled: bool) -> int:
    """Of a table at this auth revision."""
    return 2 * revision + enabled


def is_enabled(version: int) -> bool:
    """Whether authentication is; otherwise everybody may do everything."""
    return version % 2 == 1


def revision_of(version: int) -> int:
    """The auth revision."""
    return version // 2
