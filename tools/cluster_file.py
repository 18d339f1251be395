"""The cluster that a command is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from config import ClusterConfig, ConfigError, load
from tools.failure import Failed

if TYPE_CHECKING:
    from pathlib import Path


def read_cluster(file: Path | None) -> ClusterConfig:
    """The cluster of a file, or the built-in default for None. Raises Failed with every problem of the
    file."""
    try:
        return load(file)
    except ConfigError as error:
        raise Failed(str(error)) from None
