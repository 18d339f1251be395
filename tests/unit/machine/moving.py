"""Two shards, and the steps of a table's move from one to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.internal import frames_pb2 as frames
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from shardworker.machine import Result

SOURCE, TARGET = 2, 3

DEPART = frames.MoveStep.DEPART
ARRIVE = frames.MoveStep.ARRIVE
FENCE = frames.MoveStep.FENCE
LEAVE = frames.MoveStep.LEAVE
CANCEL = frames.MoveStep.CANCEL


class Moving:
    """Move `number` of one table between two machines, step by step."""

    def __init__(self, *, history: int = -1) -> None:
        self.history = history
        self.table = TABLE
        self.shards = {
            SOURCE: Shard(history=history, shard=SOURCE),
            TARGET: Shard(history=history, shard=TARGET, create=False),
        }
        self.source_number, self.target_number = SOURCE, TARGET
        self.number = 1

    @property
    def source(self) -> Shard:
        """Which has the table at first."""
        return self.shards[self.source_number]

    @property
    def target(self) -> Shard:
        """Which is to have it."""
        return self.shards[self.target_number]

    def step(self, step: frames.MoveStep.Step.ValueType, *, number: int = 0) -> frames.MoveStep:
        """A step of this move."""
        return frames.MoveStep(
            step=step,
            number=number or self.number,
            table=frames.TableSpec(id=self.table, name="t", history=self.history),
            source=self.source_number,
            target=self.target_number,
        )

    def take(self, shard: Shard, step: frames.MoveStep.Step.ValueType) -> frames.MoveState:
        """The shard takes the step, and is fine."""
        result = shard.write(self.step(step))
        assert result.error is None, result.error
        return frames.MoveState.FromString(result.body)

    def export(self, after: frames.MovePosition) -> frames.MovePart:
        """The next part."""
        result = self.source.read(frames.ExportRequest(number=self.number, after=after), self.table)
        assert result.error is None, result.error
        return frames.MovePart.FromString(result.body)

    def bring(self, part: frames.MovePart) -> Result:
        """The target takes a part."""
        return self.target.write(frames.MoveImport(table_id=self.table, number=self.number, part=part))

    def copy_part(self) -> frames.MovePart:
        """The next part goes over."""
        stands = self.take(self.target, ARRIVE)
        assert stands.state == frames.MoveState.ARRIVING
        part = self.export(stands.position)
        result = self.bring(part)
        assert result.error is None, result.error
        return part

    def begin(self) -> None:
        """The table is to be copied from now on."""
        self.take(self.source, DEPART)
        self.take(self.target, ARRIVE)

    def finish(self) -> None:
        """The source takes no more writes, the rest goes over, and the target serves it."""
        self.take(self.source, FENCE)
        while not self.copy_part().HasField("rest"):
            pass

    def turn_round(self) -> None:
        """The next move goes the other way."""
        self.source_number, self.target_number = self.target_number, self.source_number
        self.number += 1
