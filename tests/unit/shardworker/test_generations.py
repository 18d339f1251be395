"""Whose word counts when a lost majority was given up: that of the generation that went on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.raft import MessageKind
from shardworker.replica.generations import GivenUp
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shardworker.raft import Message

PEER = b"node 2"


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Bench]:
    """A replica of the second generation, which leads node 2."""
    bench = Bench(tmp_path / "second", replace(members(1, 2), generation=1))
    bench.other_clients.add(PEER)
    bench.lead()
    yield bench
    bench.store.close()


def says(bench: Bench, generation: int | None, said: Message) -> list[frames.Superseded]:
    """A peer of that generation, None for one that knows no members, speaks; what it is told of its own."""
    bench.noticed.clear()
    envelope = frames.Envelope(raft=[raft_frames.encode_message(said)])
    if generation is not None:
        envelope.generation = generation + 1
    bench.replica.handle(PEER, envelope)
    bench.replica.turn()
    return bench.noticed


def test_who_was_given_up_is_not_heard_and_told_why(second: Bench) -> None:
    later = message(
        MessageKind.VOTE, 2, second.core.term + 5, index=99, log_term=second.core.term, forced=True
    )
    assert says(second, 0, later) == [frames.Superseded(sender=1, generation=1)]
    assert second.core.role.value == "leader"
    assert says(second, 1, later) == []
    assert second.core.term == later.term, "it would have been heard otherwise"


def test_who_knows_no_members_is_heard(second: Bench) -> None:
    refusal = message(MessageKind.APPEND_REPLY, 2, second.core.term + 1, reject=True)
    assert says(second, None, refusal) == []
    assert second.core.term == refusal.term


@pytest.mark.parametrize("heard", ["a message", "a notice", "a snapshot"])
def test_who_was_given_up_ends_when_it_hears_of_it(led: Bench, heard: str) -> None:
    envelope = frames.Envelope()
    match heard:
        case "a message":
            envelope.raft.append(raft_frames.encode_message(message(MessageKind.HEARTBEAT, 2, led.core.term)))
            envelope.generation = 2
        case "a snapshot":
            envelope.snapshot_chunk.sender = 2
            envelope.generation = 2
        case _:
            envelope.superseded.sender, envelope.superseded.generation = 2, 1
    with pytest.raises(GivenUp, match="recovered without this replica, as node 2 tells"):
        led.replica.handle(PEER, envelope)


def test_messages_say_of_which_generation_they_are(second: Bench, tmp_path: Path) -> None:
    assert set(second.generations) == {2}
    fresh = Bench(tmp_path / "fresh", members(2, 3), has_begun=False)
    fresh.hear(message(MessageKind.APPEND, 2, 1))
    assert set(fresh.generations) <= {0}
    fresh.store.close()
