"""What `boathouse backup` and `boathouse restore` have in common."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tools.completion import table_names
from tools.failure import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.admin.backup import Rate

LIST_TIMEOUT_S: Final = 10.0
"""For a look at the cluster's tables."""

RATE_MIN: Final = 16 << 10
"""Bytes in a second. A slower reader would be taken for one that has gone (limits.cursor_idle_ms)."""


def _check_rate(value: str) -> str:
    if value and _bytes_of(value) < RATE_MIN:
        raise typer.BadParameter("a rate is at least 16KiB a second: 512KiB, 20MiB")
    return value


def _bytes_of(rate: str) -> int:
    from config.values import size_of

    return int(rate) if rate.isascii() and rate.isdigit() else size_of(rate) or 0


DirOption = Annotated[Path, typer.Option("--dir", help="Folder of the backup.")]
TablesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        "-t",
        help="Only this table; may be given several times.",
        autocompletion=table_names,
    ),
]
RateOption = Annotated[
    str, typer.Option("--rate", callback=_check_rate, help="At most so much in a second, as 20MiB.")
]


def rate_of(value: str) -> Rate:
    """What --rate says, from now on."""
    from tools.admin.backup import Rate

    return Rate(_bytes_of(value))


def speed(keys: int, seconds: float) -> str:
    """How long it took, and how many that is a second."""
    return f"{seconds:.1f} s, {keys / max(seconds, 1e-3):,.0f}/s"


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Within the block, what tools/admin raises about backups ends the command."""
    from tools.admin.backup import BackupFailed
    from tools.admin.backup_folder import Unsound

    try:
        yield
    except (BackupFailed, Unsound) as error:
        raise Failed(str(error)) from None
