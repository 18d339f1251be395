"""What etcd's Go client builds on the API, against etcd and boathouse: the same comes of it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.conformance.conftest import running
from tools.bench import systems

if TYPE_CHECKING:
    from pathlib import Path

RUN_S: Final = 200
PARTS: Final = {
    "mutex",
    "election",
    "stm",
    "namespace",
    "leasing",
    "mirror",
    "ordering",
    "naming",
    "progress",
}


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_same_comes_of_it(go_client: Path, nodes: int, tmp_path: Path) -> None:
    with running(systems.Etcd(tmp_path / "etcd", nodes)) as etcd:
        theirs = said(go_client, etcd)
    assert {line.partition(":")[0] for line in theirs} == PARTS
    folder = tmp_path / "boathouse"
    with running(
        systems.Boathouse(folder, nodes=nodes, shards=1, replicas=nodes, tables=("default",))
    ) as boathouse:
        assert said(go_client, boathouse) == theirs


def said(program: Path, system: systems.System) -> list[str]:
    command = [str(program), ",".join(system.endpoints)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, f"{system.name}: {done.stdout[-1_000:]}{done.stderr[-2_000:]}"
    return done.stdout.splitlines()
