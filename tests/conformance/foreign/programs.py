"""Programs in Go that others wrote to try servers, built from the Go module proxy into the user's cache.

Nothing of theirs is kept in this repository: a module file is written when they are built, with the versions below.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

CACHE: Final = Path.home() / ".cache" / "boathouse-conformance"
BUILD_S: Final = 900

PROGRAMS: Final = {
    "h2spec": ("github.com/summerwind/h2spec", "v2.2.1+incompatible", "cmd/h2spec"),
    "interop": ("google.golang.org/grpc", "v1.85.0", "interop/client"),
}
"""Module, version and package below it, by the name that the program gets."""

MODULE: Final = "module boathouse.invalid/conformance\n\ngo 1.25.0\n"


class NotBuilt(Exception):
    """A program can't be had; the message says what is missing."""


def program(name: str) -> Path:
    """The program, built if it is not there yet. Raises NotBuilt."""
    module, version, package = PROGRAMS[name]
    built = CACHE / f"{name}-{version}" / name
    if not built.exists():
        if shutil.which("go") is None:
            raise NotBuilt(
                f"{name} is built with Go, and there is no `go` on the PATH: install Go 1.25 or newer"
            )
        built.parent.mkdir(parents=True, exist_ok=True)
        (built.parent / "go.mod").write_text(MODULE)
        _go(built.parent, "get", f"{module}/{package}@{version}")
        _go(built.parent, "build", "-o", f"{name}.new", f"{module}/{package}")
        (built.parent / f"{name}.new").rename(built)
    return built


def _go(folder: Path, *arguments: str) -> None:
    # Plain `go`, whatever flags its user likes otherwise; C code is not needed.
    environment = {**os.environ, "GOFLAGS": "", "CGO_ENABLED": "0"}
    done = subprocess.run(
        ["go", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=BUILD_S
    )
    if done.returncode != 0:
        raise NotBuilt(f"go {' '.join(arguments)} failed: {done.stderr.strip()[-2_000:]}")
