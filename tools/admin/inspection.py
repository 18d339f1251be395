"""What is in a replica's database, and whether it is sound: as data. A worker's module reads it, in a process of its
own, and never writes to it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class NotInspected(Exception):
    """There is no database, or it can't be read; says which."""


def read_inspection(path: Path) -> dict[str, Any]:
    """What shardworker.inspection finds in `path`, a file or a replica's folder, with its fields. Raises
    NotInspected."""
    reader = subprocess.run(  # noqa: S603 -- this interpreter, our own module
        [sys.executable, "-P", "-m", "shardworker.inspection", str(path)],
        capture_output=True,
        check=False,
    )
    if reader.returncode != 0:
        raise NotInspected(
            f"{path} cannot be inspected: {reader.stderr.decode(errors='replace').strip()[-500:]}"
        )
    found: dict[str, Any] = json.loads(reader.stdout)
    if "error" in found:
        raise NotInspected(found["error"])
    return found
