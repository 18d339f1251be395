"""What commands print: a table for people, JSON or YAML for programs, never a need for a terminal."""

from __future__ import annotations

import enum
import json
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Output(enum.StrEnum):
    """-o"""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"

    @property
    def is_document(self) -> bool:
        """Whether it is for programs: one document, and no sentences."""
        return self in (Output.JSON, Output.YAML)

    def columns(self, usual: Sequence[str], more: Sequence[str]) -> list[str]:
        """Those of a table: the usual ones, and more of them if it is to be wide."""
        return [*usual, *more] if self is Output.WIDE else list(usual)


def print_document(value: Any, output: Output) -> None:
    """One document: the same value in either notation."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if output is Output.YAML:
        import yaml

        # By way of JSON: what is an enumeration or a path for us is a string for whoever reads it.
        text = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True).removesuffix("\n")
    typer.echo(text)


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Aligned columns with these keys as headings: coloured on a terminal, plain text elsewhere."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if sys.stdout.isatty():
        return _print_rich(columns, cells)
    lines = [[_heading(column) for column in columns], *cells]
    widths = [max(len(line[position]) for line in lines) for position in range(len(columns))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _heading(column: str) -> str:
    return column.upper().replace("_", " ")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


_STYLES = {
    "running": "green",
    "starting": "yellow",
    "backoff": "yellow",
    "stopping": "yellow",
    "failed": "bold red",
    "down": "red",
    "leader": "bold",
}


def _print_rich(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(_heading(column))
    for line in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in line))
    Console().print(table)


def human_bytes(count: int) -> str:
    """1536 -> 1.5 KiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
