"""Replicas that most tests of a replica's parts begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shardworker.raft import MessageKind
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Bench]:
    """The only replica of its shard, with a table."""
    bench = Bench(tmp_path / "alone", members(1))
    bench.core.campaign()
    bench.replica.turn()
    bench.fill()
    yield bench
    bench.store.close()


@pytest.fixture
def led(tmp_path: Path) -> Iterator[Bench]:
    """One of three, with a table; it has led, and now node 2 leads."""
    bench = Bench(tmp_path / "led", members(1, 2, 3))
    bench.lead()
    bench.fill()
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    yield bench
    bench.store.close()
