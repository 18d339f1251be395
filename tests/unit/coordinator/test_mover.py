"""Which parts a mover brings at a time, and what it does where they do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.moves.mover import UNDER_WAY_MAX, Ask, carry_out
from proto.catalog import TableEntry, TableMove
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from coordinator.moves.mover import Steps

SOURCE, TARGET = ShardId(2), ShardId(3)
MOVE = TableMove(TableEntry("t", 10_001, SOURCE), TARGET, 1)


class Shards:
    """A table of so many parts, as both shards would answer."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.stands = 0
        self.is_fenced = False
        self.is_here = False
        self.exported: list[int] = []

    def reply(self, ask: Ask) -> frames.Reply:
        return frames.Reply(body=self._answer(ask).SerializeToString())

    def _answer(self, ask: Ask) -> Message:
        if ask.method == frames.TABLE_EXPORT:
            after = frames.ExportRequest.FromString(ask.body).after.change
            self.exported.append(after)
            return self._part(after)
        if ask.method == frames.TABLE_IMPORT:
            return self._import(frames.MoveImport.FromString(ask.body).part)
        step = frames.MoveStep.FromString(ask.body).step
        self.is_fenced |= step == frames.MoveStep.FENCE
        return self._target() if ask.shard == TARGET else frames.MoveState(state=frames.MoveState.COPYING)

    def _part(self, after: int) -> frames.MovePart:
        through = min(after + 1, self.parts)
        part = frames.MovePart(
            after=frames.MovePosition(change=after),
            through=frames.MovePosition(change=through),
            whole=through == self.parts,
        )
        if part.whole and self.is_fenced:
            part.rest.SetInParent()
        return part

    def _import(self, part: frames.MovePart) -> frames.MoveState:
        if part.after.change == self.stands:
            self.stands = part.through.change
            self.is_here = part.HasField("rest")
        return self._target()

    def _target(self) -> frames.MoveState:
        state = frames.MoveState.HERE if self.is_here else frames.MoveState.ARRIVING
        return frames.MoveState(state=state, position=frames.MovePosition(change=self.stands))


def imports(ask: Ask) -> list[int]:
    """Behind what the parts are that are asked for, or ahead."""
    told = [one for one in (ask, *ask.ahead) if one.method == frames.TABLE_IMPORT]
    return [frames.MoveImport.FromString(one.body).part.after.change for one in told]


def asked(steps: Steps, shards: Shards) -> Iterator[Ask]:
    """Everything that is asked, each before it is answered."""
    try:
        ask = next(steps)
        while True:
            yield ask
            ask = steps.send(shards.reply(ask))
    except StopIteration:
        return


def test_parts_are_under_way_some_at_a_time_in_order_and_each_is_read_once() -> None:
    shards = Shards(parts=12)
    under_way = [imports(ask) for ask in asked(carry_out(MOVE), shards)]
    assert shards.is_here
    assert all(parts == sorted(parts) for parts in under_way)
    assert max(map(len, under_way)) == UNDER_WAY_MAX
    assert shards.exported[:12] == list(range(12))


def test_the_source_is_fenced_only_after_a_part_that_was_read_with_none_before_it_under_way() -> None:
    shards = Shards(parts=6)
    for _ in asked(carry_out(MOVE), shards):
        if shards.is_fenced:
            break
    assert shards.stands == 6
    assert shards.exported == [0, 1, 2, 3, 4, 5, 6]


def test_where_another_one_has_brought_parts_it_goes_on_behind_them() -> None:
    shards = Shards(parts=40)
    for ask in asked(carry_out(MOVE), shards):
        if imports(ask) and not shards.stands:
            shards.stands = 30
    assert shards.is_here
    assert not set(range(UNDER_WAY_MAX + 1, 30)) & set(shards.exported)
