"""Why `boathouse up` does not start."""

from __future__ import annotations


class StartRefused(Exception):
    """Nothing was started and nothing was changed. The text is one line for the person who typed the
    command."""
