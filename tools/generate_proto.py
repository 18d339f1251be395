"""Regenerates the committed protobuf code: `python tools/generate_proto.py [--check]`.

Without an argument the code is written beside the .proto files; --check writes nothing, names the files that
would change and fails if there are any. File names are given to protoc relative to the repository root, so
that generated imports read `from proto.x import y_pb2`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("proto", "tests/conformance/foreign")
"""Where .proto files are."""


def proto_files() -> list[str]:
    """The project's .proto files, relative to the repository root, sorted."""
    return sorted(
        str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*.proto")
    )


def generate(output: Path) -> None:
    """Write _pb2.py and _pb2.pyi below output.

    No _pb2_grpc: servers and clients here name a method by its path.
    Raises RuntimeError if protoc refuses a file; protoc itself has then said why on standard error."""
    run_protoc([f"--python_out={output}", f"--mypy_out=quiet:{output}", *proto_files()])


def run_protoc(arguments: list[str]) -> None:
    # protoc looks its plugins up on PATH, and nobody should have to activate the environment to run this.
    plugins = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": f"{plugins}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *arguments]
    if subprocess.run(command, cwd=ROOT, env=environment).returncode != 0:  # noqa: S603 - our own arguments
        raise RuntimeError(f"protoc failed: {' '.join(arguments)}")


def generated_files(folder: Path) -> dict[str, bytes]:
    """The generated modules below folder, by their path relative to it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in ("*_pb2*.py", "*_pb2*.pyi")
        for place in FOLDERS
        for path in (folder / place).rglob(pattern)
    }


def stale_files(root: Path = ROOT) -> list[str]:
    """Generated files below root that are missing, left over or unlike what the .proto files give now."""
    committed = generated_files(root)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = generated_files(Path(folder))
    return sorted(name for name in committed.keys() | fresh.keys() if committed.get(name) != fresh.get(name))


def main(arguments: list[str]) -> int:
    match arguments:
        case []:
            generate(ROOT)
            return 0
        case ["--check"]:
            stale = stale_files()
            for name in stale:
                sys.stderr.write(f"{name} does not match its .proto file: run `make proto`\n")
            return 1 if stale else 0
        case _:
            sys.stderr.write("usage: python tools/generate_proto.py [--check]\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
