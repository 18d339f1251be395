"""Forgetting a follower cluster: every table by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.replication.followers import Forgotten, forget
from proto import errors
from proto.catalog import TableEntry
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import in_loop
from tools.admin.followers import NotForgotten, all_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proto.methods import Access

TABLES = [TableEntry(name, 10_001 + number, ShardId(1)) for number, name in enumerate("abcd")]


class Shards:
    """What they answer, by table; else that it is done."""

    def __init__(self, answers: Mapping[str, errors.BoathouseError]) -> None:
        self._answers = answers

    async def ask(
        self, access: Access, method: frames.Method.ValueType, table: TableEntry, body: bytes, time_s: float
    ) -> frames.Reply:
        assert frames.FollowerPosition.FromString(body).gone
        if table.name in self._answers:
            raise self._answers[table.name]
        return frames.Reply()


@in_loop
async def test_a_table_that_fails_or_is_deleted_meanwhile_holds_up_no_other() -> None:
    shards = Shards(
        {"a": errors.TableNotFound(), "b": errors.InvalidRequest("no follower"), "c": errors.TimedOut("slow")}
    )
    assert await forget(shards, TABLES, "island") == Forgotten(["d"], {"c": "TimedOut: slow"})


def test_what_is_not_done_is_said_with_what_is() -> None:
    assert all_of(Forgotten(["a", "d"], {}), "harbour", "island") == ["a", "d"]
    with pytest.raises(
        NotForgotten, match=r"may not be forgotten in c, but is in a, d \(c: TimedOut: slow\)"
    ):
        all_of(Forgotten(["a", "d"], {"c": "TimedOut: slow"}), "harbour", "island")
    with pytest.raises(NotForgotten, match=r"no table of cluster harbour is followed .* any more"):
        all_of(Forgotten([], {}), "harbour", "island")
