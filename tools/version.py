"""`boathouse version`."""

from __future__ import annotations

import platform
from importlib import metadata

from tools.output import Output, print_json, print_table

_FOUNDATIONS = ("apsw", "grpcio", "protobuf", "pyzmq", "pydantic")


def version(output: Output) -> None:
    """Our version and those that matter for a bug report."""
    import apsw

    versions = {
        "boathouse": metadata.version("boathouse"),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        **{name: metadata.version(name) for name in _FOUNDATIONS},
    }
    if output is Output.JSON:
        return print_json(versions)
    print_table(["name", "version"], [{"name": name, "version": number} for name, number in versions.items()])
