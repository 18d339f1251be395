"""Regenerates the committed protobuf code: `python tools/generate_proto.py [OUTPUT_FOLDER]`.

Without an argument the code is written beside the .proto files; the freshness test passes a temporary folder
and compares. File names are given to protoc relative to the repository root, so that generated imports read
`from proto.x import y_pb2`.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def proto_files() -> list[str]:
    """The project's .proto files, relative to the repository root, sorted."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").rglob("*.proto"))


def has_services(name: str) -> bool:
    """Whether the .proto file declares a gRPC service and so gets _pb2_grpc modules."""
    return any(line.startswith("service ") for line in (ROOT / name).read_text().splitlines())


def generate(output: Path) -> None:
    """Write _pb2.py, _pb2.pyi and, for files with services, _pb2_grpc.py and _pb2_grpc.pyi below output.

    Raises RuntimeError if protoc refuses a file; protoc itself has then said why on standard error."""
    # protoc looks its plugins up on PATH, and nobody has to activate the environment to run this.
    plugins = Path(sysconfig.get_path("scripts"))
    os.environ["PATH"] = f"{plugins}{os.pathsep}{os.environ.get('PATH', '')}"

    well_known = resources.files("grpc_tools") / "_proto"
    common = ["protoc", f"-I{ROOT}", f"-I{well_known}"]
    files = proto_files()
    with_services = [name for name in files if has_services(name)]
    steps = [
        [*common, f"--python_out={output}", f"--mypy_out=quiet:{output}", *files],
        [*common, f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}", *with_services],
    ]
    for step in steps:
        if protoc.main(step) != 0:
            raise RuntimeError(f"protoc failed: {' '.join(step[3:])}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
