"""The committed protobuf code is what the .proto files give, and loads next to the installed runtime."""

from __future__ import annotations

import importlib
import shutil
import tomllib
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tools.generate_proto import FOLDERS, ROOT, generated_files, stale_files

if TYPE_CHECKING:
    from pathlib import Path


def test_committed_code_is_fresh() -> None:
    assert stale_files() == [], "run `make proto` and commit the result"


def test_a_stale_a_missing_and_a_left_over_file_are_noticed(tmp_path: Path) -> None:
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "proto/etcd/kv_pb2.py").write_text("# edited by hand\n")
    (tmp_path / "proto/etcd/lock_pb2.pyi").unlink()
    (tmp_path / "proto/etcd/gone_pb2_grpc.py").write_text("")
    assert stale_files(tmp_path) == [
        "proto/etcd/gone_pb2_grpc.py",
        "proto/etcd/kv_pb2.py",
        "proto/etcd/lock_pb2.pyi",
    ]


@pytest.mark.parametrize("name", sorted(name for name in generated_files(ROOT) if name.endswith(".py")))
def test_module_imports(name: str) -> None:
    importlib.import_module(name.removesuffix(".py").replace("/", "."))


def test_protobuf_lower_bound_is_what_generated_code_demands() -> None:
    for name, content in generated_files(ROOT).items():
        if name.endswith("_pb2.py"):
            line = next(
                x for x in content.decode().splitlines() if x.startswith("# Protobuf Python Version:")
            )
            assert lower_bound("protobuf") >= Version(line.rpartition(" ")[2]), name


def lower_bound(package: str) -> Version:
    """The version that pyproject.toml's >= names for a dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirement = next(r for r in map(Requirement, project["dependencies"]) if r.name == package)
    return Version(next(s.version for s in requirement.specifier if s.operator == ">="))
