"""The list of commands and what the machine can carry out agree."""

from __future__ import annotations

import pytest

from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, LEVEL, Access
from shardworker.machine.registry import REGISTRY


@pytest.mark.parametrize("method", sorted(COMMANDS))
def test_every_command_is_carried_out_as_the_list_says(method: int) -> None:
    access, handler = COMMANDS[method].access, REGISTRY.handlers.get(method)
    if access in (Access.LEADER, Access.REPLICA, Access.PROVEN_LEADER):
        assert handler is None, "this is no business of the tables"
        return
    assert handler is not None
    if access in (Access.WRITE, Access.INTERNAL):
        assert [handler.write, handler.administer, handler.on_shard].count(None) == 2
        assert handler.parts is None
        assert handler.inspect is None
    else:
        assert [handler.read, handler.inspect, handler.parts].count(None) == 2
        assert handler.write is None
        assert handler.administer is None
        assert handler.on_shard is None


def test_nothing_is_carried_out_that_is_not_on_the_list() -> None:
    assert REGISTRY.handlers.keys() <= COMMANDS.keys()
    assert COMMANDS.keys() == set(frames.Method.values()) - {frames.METHOD_UNSPECIFIED}


def test_this_build_knows_every_command_on_the_list() -> None:
    assert all(1 <= command.since_level <= LEVEL for command in COMMANDS.values())
