"""The shard's machine level: it only rises, with the log, and a build that does not know it stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest

from proto.internal import frames_pb2 as frames
from proto.methods import LEVEL
from shardworker.machine import REGISTRY, Registry, StateMachine, TooNew
from shardworker.machine.level import FIRST
from tests.unit.machine.shard import Shard

if TYPE_CHECKING:
    from pathlib import Path

NEWER = Registry(LEVEL + 1, REGISTRY.handlers)


def newer(path: Path) -> Shard:
    return Shard(str(path), create=False, registry=NEWER)


def test_a_new_shard_begins_at_the_first_level() -> None:
    assert Shard().machine.level == FIRST


def test_a_level_that_was_raised_stays(tmp_path: Path) -> None:
    shard = newer(tmp_path / "s.db")
    before = shard.machine.checksum
    assert shard.write(frames.MachineLevel(level=LEVEL + 1)).error is None
    assert shard.machine.level == LEVEL + 1
    assert shard.machine.checksum != before, "replicas compare it"
    assert shard.write(frames.MachineLevel(level=LEVEL)).error is None
    assert shard.machine.level == LEVEL + 1, "it never goes down"
    shard.connection.close()
    assert newer(tmp_path / "s.db").machine.level == LEVEL + 1


def test_a_raise_that_is_rolled_back_has_not_happened(tmp_path: Path) -> None:
    shard = newer(tmp_path / "s.db")
    shard.connection.execute("BEGIN IMMEDIATE")
    shard.apply_uncommitted(shard.command(frames.MachineLevel(level=LEVEL + 1)))
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert shard.machine.level == FIRST


def test_an_older_build_stops_at_the_command_and_at_the_tables(tmp_path: Path) -> None:
    shard = newer(tmp_path / "s.db")
    older = Shard()
    sentence = f"gone on to machine level {LEVEL + 1}, and this version can apply up to {LEVEL}. Install"
    with pytest.raises(TooNew, match=sentence):
        older.write(frames.MachineLevel(level=LEVEL + 1))
    shard.write(frames.MachineLevel(level=LEVEL + 1))
    shard.connection.close()
    with pytest.raises(TooNew, match=sentence):
        StateMachine(apsw.Connection(str(tmp_path / "s.db")), 2)
    older = Shard()
    with pytest.raises(TooNew, match=sentence):
        older.machine.reload(apsw.Connection(str(tmp_path / "s.db")))
