"""A real process is killed at every named step; what it acknowledged is there, and the file is sound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from shardworker.store import CrashPoint
from shardworker.store.crash_points import VARIABLE
from tests.unit.store.replicas import open_replica, put, rows

if TYPE_CHECKING:
    from pathlib import Path


def run_until_killed(folder: Path, at: str) -> tuple[int, list[str]]:
    child = subprocess.run(
        [sys.executable, "-m", "tests.integration.store.crashing_replica", str(folder)],
        env={**os.environ, VARIABLE: at},
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
        text=True,
    )
    return child.returncode, child.stdout.splitlines()


@pytest.mark.parametrize(
    "at",
    [
        *CrashPoint,
        "commit:before:17",
        "commit:done:17",
        "checkpoint:before:3",
        "checkpoint:done:4",
        "receive:chunk:2",
    ],
)
def test_kill(tmp_path: Path, at: str) -> None:
    status, said = run_until_killed(tmp_path, at)
    assert status == -signal.SIGKILL
    acknowledged = max((int(line.split()[1]) for line in said if line.startswith("acknowledged")), default=0)

    store = open_replica(tmp_path / "replica")
    assert store.applied_index >= acknowledged, "nothing acknowledged is lost"
    assert rows(store) == store.applied_index, "nothing is applied twice or by halves"
    assert store.hard_state.commit >= store.applied_index
    assert store.verify() == []
    assert not list(store.path.glob("*.tmp*"))
    assert len(list(store.path.glob("*.db"))) == 1
    before = store.log.last_index()
    assert put(store) == before + 1 or store.applied_index < before
    store.close()
