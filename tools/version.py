"""`boathouse version`."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from tools.output import Output, print_document, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOUNDATIONS = ("apsw", "grpcio", "protobuf", "pyzmq", "pydantic")
_MORE = (
    "bcrypt",
    "cryptography",
    "h11",
    "hpack",
    "psutil",
    "rich",
    "textual",
    "typer",
    "uvloop",
    "zstandard",
)


def version(output: Output) -> None:
    """Our version and those that matter for a bug report; wide: of everything that we stand on."""
    versions = read_versions(output.columns(_FOUNDATIONS, _MORE))
    if output.is_document:
        return print_document(versions, output)
    print_table(["name", "version"], [{"name": name, "version": number} for name, number in versions.items()])


def read_versions(packages: Sequence[str] = (*_FOUNDATIONS, *_MORE)) -> dict[str, str]:
    """By name: ours, of the interpreter, of SQLite and of packages."""
    import apsw

    return {
        "boathouse": metadata.version("boathouse"),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        **{name: metadata.version(name) for name in packages},
    }
