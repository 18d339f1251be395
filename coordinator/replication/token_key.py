"""What clusters show each other."""

from typing import Final

TOKEN_KEY: Final = "boathouse-replication-token"  # noqa: S105
"""Metadata of every call to another cluster, where the file names a token."""
