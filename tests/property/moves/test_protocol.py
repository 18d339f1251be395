"""The protocol of moves under everything that may happen to its messages and movers; and would it notice?"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from coordinator.moves import mover
from proto.internal import frames_pb2 as frames
from shardworker.machine.machine import StateMachine
from shardworker.machine.moves import commands, copying
from shardworker.machine.moves.states import State, read_move
from shardworker.machine.registry import REGISTRY
from tests.property.moves.world import Broken, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.machine.handler import Shard
    from shardworker.machine.moves.states import Move

SEEDS = 400 if os.environ.get("BOATHOUSE_EXAMPLES") == "fresh" else 12
FIRST_SEED = int(os.environ.get("BOATHOUSE_SEED", "0")) * 1_000
MUTANT_SEEDS = 40


@pytest.fixture(autouse=True)
def small_parts() -> Any:
    """So that a move of a few rows takes several."""
    with mock.patch.object(copying, "PART_ROWS_MAX", 4):
        yield


def test_no_promise_is_broken() -> None:
    ends = dict.fromkeys(mover.Outcome, 0)
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        world = World(seed)
        try:
            world.run()
        except Broken as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken
        for outcome, count in world.ends.items():
            ends[outcome] += count
    assert min(ends.values()) > SEEDS, f"too few moves came to an end: {ends}"


def opens_unfenced() -> Any:
    """The target opens before the source is fenced."""

    def add_rest_always(view: Any, op: copying.Export) -> bytes:
        part = frames.MovePart.FromString(export(view, op))
        if not part.HasField("rest"):
            move = read_move(view.connection, view.table.id)
            assert move is not None
            copying._add_rest(view, move, part)
        return part.SerializeToString()

    export = copying.export
    handlers: Any = REGISTRY.handlers
    handler = replace(handlers[frames.TABLE_EXPORT], read=add_rest_always)
    return mock.patch.dict(handlers, {frames.TABLE_EXPORT: handler})


def forgets_results() -> Any:
    """Results of requests do not go along."""
    return mock.patch.object(StateMachine, "take_results")


def serves_again_at_once() -> Any:
    """The source serves again before the target has given up."""

    def cancel(move: Any) -> Any:
        yield mover._step(move, frames.MoveStep.CANCEL, move.source)
        yield mover._step(move, frames.MoveStep.CANCEL, move.target)
        return mover.Outcome.STAYED

    return mock.patch.object(mover, "_cancel", cancel)


def forgets_cancelled_arrivals() -> Any:
    """A target that has given up an arrival takes it again."""

    def cancel_arrival(shard: Shard, step: frames.MoveStep, move: Move | None) -> None:
        if commands._is(move, step, State.ARRIVING):
            shard.leave_rows(step.table.id)
            shard.moves.forget(step.table.id)

    return mock.patch.object(commands, "_cancel_arrival", cancel_arrival)


def reads_while_fenced() -> Any:
    """The source answers linearizable reads that it may not know the answer of any more."""
    return mock.patch.object(StateMachine, "check_serves")


@pytest.mark.parametrize(
    ("mutant", "found_by"),
    [
        (opens_unfenced, {"one-writer"}),
        (forgets_results, {"exactly-once", "linearizability", "revisions"}),
        (serves_again_at_once, {"one-writer", "linearizability", "exactly-once", "revisions"}),
        (forgets_cancelled_arrivals, {"one-writer", "no-failed-request", "linearizability", "liveness"}),
        (reads_while_fenced, {"linearizability", "revisions"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_known_bug_is_found(mutant: Callable[[], Any], found_by: set[str]) -> None:
    with mutant():
        for seed in range(MUTANT_SEEDS):
            which = broken_in(seed)
            if which:
                assert which in found_by
                return
    pytest.fail(f"{mutant.__name__} was not found in {MUTANT_SEEDS} seeds")


def broken_in(seed: int) -> str:
    """Which promise is broken; empty if none is."""
    try:
        World(seed).run()
    except Broken as broken:
        return broken.which
    return ""
