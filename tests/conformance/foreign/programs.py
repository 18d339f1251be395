"""Programs in Go that others wrote, to try servers or as servers to be held against, and some of ours over etcd's
client library, built into the user's cache.

Nothing of theirs is kept in this repository: a module file is written when they are built, with the versions below, and
the Go module proxy has the rest. `python -m tests.conformance.foreign.programs NAME` prints where a program is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CACHE: Final = Path.home() / ".cache" / "boathouse-conformance"
BUILD_S: Final = 900

PROGRAMS: Final = {
    "h2spec": ("github.com/summerwind/h2spec", "v2.2.1+incompatible", "cmd/h2spec"),
    "interop": ("google.golang.org/grpc", "v1.85.0", "interop/client"),
    "etcd-3.5": ("go.etcd.io/etcd/server/v3", "v3.5.35", ""),
    "etcd-3.7": ("go.etcd.io/etcd/server/v3", "v3.7.3", ""),
}
"""Module, version and package below it, by the name that the program gets."""

OURS: Final = {
    "clientv3": "go.etcd.io/etcd/client/v3@v3.5.35",
    "getstream": "go.etcd.io/etcd/client/v3@v3.7.3",
}
"""What those need that are here as source, in a folder of their name."""

MODULE: Final = "module boathouse.invalid/conformance\n\ngo 1.25.0\n"


class NotBuilt(Exception):
    """A program can't be had; the message says what is missing."""


def program(name: str) -> Path:
    """The program, built if it is not there yet. Raises NotBuilt."""
    if name in OURS:
        source = (Path(__file__).parent / name / "main.go").read_bytes()
        return _built(name, hashlib.sha256(source).hexdigest()[:12], OURS[name], ".", source)
    module, version, below = PROGRAMS[name]
    package = f"{module}/{below}" if below else module
    return _built(name, version, f"{package}@{version}", package)


def _built(name: str, version: str, needs: str, package: str, source: bytes = b"") -> Path:
    built = CACHE / f"{name}-{version}" / name
    if not built.exists():
        if shutil.which("go") is None:
            raise NotBuilt(
                f"{name} is built with Go, and there is no `go` on the PATH: install Go 1.25 or newer"
            )
        built.parent.mkdir(parents=True, exist_ok=True)
        (built.parent / "go.mod").write_text(MODULE)
        if source:
            (built.parent / "main.go").write_bytes(source)
        _go(built.parent, "get", needs)
        _go(built.parent, "build", "-mod=mod", "-o", f"{name}.new", package)
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


if __name__ == "__main__":
    print(program(sys.argv[1]))  # noqa: T201 - for make
