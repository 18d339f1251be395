"""The cluster that a command is about."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from config import ClusterConfig, ConfigError
from config.loading import load, load_draft, load_with_files
from tools.failure import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read_cluster(file: Path | None) -> ClusterConfig:
    """The cluster of a file, or the built-in default for None. Raises Failed with every problem of the
    file."""
    with _in_words():
        return load(file)


def read_cluster_to_start(file: Path | None, node: str | None) -> ClusterConfig:
    """As read_cluster(), and the certificates and keys that it names are sound: of the node named, or of all that have
    a loopback host."""
    with _in_words():
        return load_with_files(file, node)


def read_cluster_draft(file: Path | None) -> ClusterConfig:
    """As read_cluster(), of a file that may lack what is about to be made for it."""
    with _in_words():
        return load_draft(file)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise Failed(str(error)) from None
