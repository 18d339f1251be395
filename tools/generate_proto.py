"""Regenerates the committed protobuf code: `python tools/generate_proto.py [OUTPUT_FOLDER]`.

Without an argument the code is written beside the .proto files; the freshness test passes a temporary folder and
compares. protoc runs from the repository root with `-I .`, so that generated imports read `from proto.x import y_pb2`.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def proto_files() -> list[str]:
    """The project's .proto files, relative to the repository root, sorted."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").rglob("*.proto"))


def generate(output: Path) -> None:
    """Write _pb2.py, _pb2.pyi and, for files with services, _pb2_grpc.py below output.

    Raises RuntimeError if protoc refuses a file; protoc itself has then said why on standard error."""
    well_known = resources.files("grpc_tools") / "_proto"
    files = proto_files()
    common = ["protoc", f"-I{ROOT}", f"-I{well_known}"]
    steps = [[*common, f"--python_out={output}", f"--mypy_out=quiet:{output}", *files]]
    if with_services := [name for name in files if "\nservice " in (ROOT / name).read_text()]:
        steps.append([*common, f"--grpc_python_out={output}", *with_services])
    for step in steps:
        if protoc.main(step) != 0:
            raise RuntimeError(f"protoc failed: {' '.join(step[3:])}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
