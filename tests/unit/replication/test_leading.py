"""Which cluster leads, and how that changes, over a catalog in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest

from config import ClusterConfig
from coordinator.replication import leading as module
from coordinator.replication.clock import AT_ONCE_MAX
from coordinator.replication.leading import Leading, LeadWatch, OldEpoch
from proto import errors
from proto.catalog import CATALOG, ELSEWHERE, Lead, TableEntry
from proto.ids import ShardId
from proto.regatta.replication_pb2 import Table
from tests.unit.coordinator.running import in_loop
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.contents import Contents
    from coordinator.catalog.lead import LeadRow
    from coordinator.catalog.tables import Tables


@dataclass
class Rows:
    """The catalog, and what its shards say of the tables."""

    entries: dict[str, TableEntry] = field(default_factory=lambda: {CATALOG.name: CATALOG})
    row: Lead = field(default_factory=Lead)
    changed: int = 0
    lost: int = 0
    """So many changes of rows are lost to somebody else who is faster."""
    held: dict[int, int] = field(default_factory=dict)
    """Origins by table id, where a shard was told another one than the row says."""
    dies: bool = False
    """Whoever changes an origin dies between the shard and the row."""
    stuck: int = 0
    """The id of a table whose shard takes no change."""
    silent: int = 0
    """The id of a table whose shard does not answer."""
    broken: bool = False
    looks: int = 0
    gate: asyncio.Barrier | None = None
    """A question to a shard, or a change of a row, waits there for others of its kind."""
    unmade: set[int] = field(default_factory=set)
    """Tables whose shard does not have them: who was to make them died at it."""

    async def load(self, *, linearizable: bool) -> Rows:
        assert linearizable
        return replace(self, entries=dict(self.entries))

    async def read(self) -> tuple[Lead, int]:
        self.looks += 1
        if self.broken:
            raise errors.NoLeader
        return self.row, self.changed

    async def write(self, lead: Lead, *, seen: int) -> bool:
        assert seen == self.changed
        if self._loses():
            return False
        self.row, self.changed = lead, self.changed + 1
        return True

    async def origin_in_shard(self, entry: TableEntry) -> int:
        if entry.id == self.silent:
            raise errors.NoLeader
        if self.gate is not None:
            await self.gate.wait()
        return self.held.get(entry.id, entry.origin)

    async def change_origin(
        self, entry: TableEntry, held: int, changed: TableEntry, *, seen: Contents
    ) -> bool:
        assert held == self.held.get(entry.id, entry.origin), "the shard refuses it"
        assert (entry.name, entry.id) == (changed.name, changed.id)
        if entry.id in self.unmade:
            raise errors.TableNotFound
        if self.gate is not None:
            await self.gate.wait()
        if entry.id == self.stuck:
            raise errors.TimedOut
        self.held[entry.id] = changed.origin
        if self.dies:
            raise errors.TimedOut
        if self._loses():
            return False
        self.entries[entry.name] = changed
        return True

    async def make_in_shard(self, entry: TableEntry) -> None:
        self.unmade.discard(entry.id)

    def _loses(self) -> bool:
        self.lost -= 1
        return self.lost >= 0

    @property
    def origins(self) -> Mapping[str, int]:
        return {name: entry.origin for name, entry in self.entries.items() if not entry.is_reserved}


def entry(name: str, id_: int, origin: int = 0, *, is_local: bool = False) -> TableEntry:
    return TableEntry(name, id_, ShardId(1), origin=origin, is_local=is_local)


def cluster(name: str, follows: str = "") -> ClusterConfig:
    settings = {"follows": {"cluster": follows, "endpoints": ["127.0.0.1:1"]}} if follows else {}
    return ClusterConfig.model_validate({"cluster": name, "nodes": {"n1": {}}, **settings})


def leading(rows: Rows, name: str, follows: str = "") -> Leading:
    return Leading(cluster(name, follows), cast("Catalog", rows), cast("Tables", rows), cast("LeadRow", rows))


async def anybodys(_: TableEntry) -> None:
    """No table is somebody's own."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    monkeypatch.setattr(module, "LOOK_S", 0.01)


@in_loop
async def test_at_first_the_cluster_file_says_who_leads() -> None:
    harbour, island = leading(Rows(), "harbour"), leading(Rows(), "island", "harbour")
    assert await harbour.now() == await island.now() == Lead(1, "harbour")
    assert harbour.is_ours(await harbour.now())
    assert not island.is_ours(await island.now())


@in_loop
async def test_a_cluster_that_takes_over_has_no_copies_any_more() -> None:
    rows = Rows(lost=3)
    rows.entries |= {"a": entry("a", 10_005, 10_001), "own": entry("own", 10_006)}
    island = leading(rows, "island", "harbour")
    taken = await island.take_over(2)
    assert {one.name for one in taken} == {"a"}
    assert rows.row == Lead(2, "island")
    assert rows.origins == {"a": 0, "own": 0}
    assert await island.take_over(2) == []


@in_loop
async def test_a_table_whose_change_was_lost_at_first_is_named_once() -> None:
    rows = Rows(row=Lead(2, "island"), lost=2)
    rows.entries["a"] = entry("a", 20_005, 10_001)
    assert [one.name for one in await leading(rows, "island", "harbour").take_over(2)] == ["a"]
    assert rows.origins == {"a": 0}


@in_loop
async def test_a_cluster_that_gives_way_copies_what_the_other_one_has() -> None:
    rows = Rows(lost=2)
    rows.entries |= {
        "a": entry("a", 10_005),
        "b": entry("b", 10_006),
        "mine": entry("mine", 10_007, is_local=True),
    }
    harbour = leading(rows, "harbour")
    await harbour.give_way(Lead(2, "island"), [Table(name="a", id=20_001, origin=10_005)], anybodys)
    assert rows.origins == {"a": 20_001, "b": ELSEWHERE, "mine": 0}
    assert not harbour.is_ours(await harbour.now())
    await harbour.give_way(Lead(2, "island"), [Table(name="a", id=20_001, origin=10_005)], anybodys)
    assert rows.changed == 1


@in_loop
async def test_only_a_copy_of_this_very_table_takes_its_place() -> None:
    rows = Rows()
    rows.entries |= {
        "old": entry("old", 10_005),
        "again": entry("again", 10_006),
        "own": entry("own", 10_007),
    }
    told = [
        Table(name="old", id=20_001),  # an earlier version tells names alone
        Table(name="again", id=20_002, origin=10_001),
        Table(name="other", id=20_003, origin=10_007),
    ]
    await leading(rows, "harbour").give_way(Lead(2, "island"), told, anybodys)
    assert rows.origins == {"old": 20_001, "again": ELSEWHERE, "own": ELSEWHERE}


@in_loop
async def test_a_promoted_cluster_tells_of_what_it_has_copied_and_of_nothing_else() -> None:
    rows = Rows()
    rows.entries |= {"a": entry("a", 20_005, 10_001), "kept": entry("kept", 20_006, ELSEWHERE)}
    island = leading(rows, "island", "harbour")
    before = island.announcement(Lead(2, "island"), rows.entries.values())
    await island.take_over(2)
    rows.entries["made since"] = entry("made since", 20_007)
    after = island.announcement(Lead(2, "island"), rows.entries.values())
    assert before == after
    assert [(table.name, table.id, table.origin) for table in after.tables] == [("a", 20_005, 10_001)]
    assert island.counterpart(rows.entries["a"], "reef") == 0


@in_loop
async def test_a_change_that_somebody_died_at_is_finished_or_undone_by_the_next_one() -> None:
    rows = Rows(dies=True)
    rows.entries["a"] = entry("a", 10_005)
    harbour = leading(rows, "harbour")
    with pytest.raises(errors.TimedOut):
        await harbour.give_way(Lead(2, "island"), [Table(name="a", id=20_001, origin=10_005)], anybodys)
    assert (rows.origins, rows.held) == ({"a": 0}, {10_005: 20_001})
    rows.dies = False
    await harbour.take_over(3)
    assert (rows.origins, rows.held) == ({"a": 0}, {10_005: 0}), "it takes writes again"

    rows.dies = True
    rows.entries["b"] = entry("b", 10_006, 20_002)
    with pytest.raises(errors.TimedOut):
        await harbour.take_over(4)
    rows.dies = False
    await harbour.give_way(Lead(5, "island"), (), anybodys)
    assert rows.held[10_006] == ELSEWHERE, "it takes no writes any more"
    assert rows.origins == {"a": ELSEWHERE, "b": ELSEWHERE}


@in_loop
async def test_a_follower_whose_predecessor_died_at_giving_way_gives_away_what_is_named_and_nothing_else() -> (
    None
):
    rows = Rows(row=Lead(2, "island"), lost=1)
    rows.entries |= {
        "a": entry("a", 10_005),
        "b": entry("b", 10_006, 20_002),
        "own": entry("own", 10_007),
        "mine": entry("mine", 10_008, is_local=True),
    }
    harbour = leading(rows, "harbour", "island")
    told = [Table(name="a", id=20_001, origin=10_005), Table(name="b", id=20_002, origin=10_006)]
    told.append(Table(name="own", id=20_003))

    async def refuse(_: TableEntry) -> None:
        raise errors.PermissionDenied

    with pytest.raises(errors.PermissionDenied):
        await harbour.finish_giving_way(told, refuse)
    assert not rows.origins["a"]
    await harbour.finish_giving_way(told, anybodys)
    assert rows.origins == {"a": 20_001, "b": 20_002, "own": 0, "mine": 0}
    await harbour.finish_giving_way(told, refuse)  # nothing is left that anybody could refuse


@in_loop
async def test_what_is_given_away_at_last_is_asked_of_who_may_whatever_the_row_says_of_it() -> None:
    """The row was left behind by a promotion of this cluster, which somebody died at; the shard takes writes."""
    rows = Rows(row=Lead(2, "island"), held={10_005: 0})
    rows.entries["a"] = entry("a", 10_005, 20_001)
    harbour = leading(rows, "harbour", "island")

    async def refuse(_: TableEntry) -> None:
        raise errors.PermissionDenied

    told = [Table(name="a", id=20_001, origin=10_005)]
    with pytest.raises(errors.PermissionDenied):
        await harbour.finish_giving_way(told, refuse)
    assert not rows.held[10_005]
    await harbour.finish_giving_way(told, anybodys)
    assert rows.held[10_005] == rows.origins["a"] == 20_001


@in_loop
async def test_a_cluster_that_is_promoted_again_meanwhile_keeps_what_it_took_over() -> None:
    rows = Rows(row=Lead(2, "island"))
    rows.entries |= {"a": entry("a", 10_005), "b": entry("b", 10_006, 20_002)}
    harbour = leading(rows, "harbour", "island")
    told = [Table(name="a", id=20_001, origin=10_005), Table(name="b", id=20_002, origin=10_006)]

    async def promote(_: TableEntry) -> None:
        rows.row = Lead(3, "harbour")
        rows.entries["b"] = entry("b", 10_006)

    await harbour.finish_giving_way(told, promote)
    assert not rows.origins["b"]


@in_loop
async def test_many_tables_are_asked_about_and_changed_together() -> None:
    """Somebody waits for it, and not for ever."""
    rows = Rows(gate=asyncio.Barrier(AT_ONCE_MAX))
    rows.entries |= {f"t{number}": entry(f"t{number}", 10_005 + number) for number in range(2 * AT_ONCE_MAX)}
    async with asyncio.timeout(20):
        await leading(rows, "harbour").give_way(Lead(2, "island"), (), anybodys)
    assert set(rows.origins.values()) == {ELSEWHERE}


@in_loop
async def test_a_cluster_that_gave_way_in_part_gives_away_the_rest_when_it_is_asked_again() -> None:
    ids = range(10_005, 10_005 + AT_ONCE_MAX + 1)
    rows = Rows(stuck=ids[-1])
    rows.entries |= {f"t{id_}": entry(f"t{id_}", id_) for id_ in ids}
    asked: list[int] = []

    async def may_be_taken(one: TableEntry) -> None:
        asked.append(one.id)

    harbour = leading(rows, "harbour")
    with pytest.raises(errors.TimedOut):
        await harbour.give_way(Lead(2, "island"), (), may_be_taken)
    rows.stuck = 0
    await harbour.give_way(Lead(2, "island"), (), may_be_taken)
    assert set(rows.origins.values()) == {ELSEWHERE}
    assert asked == [*ids, ids[-1]], "the second time of what is left"


@in_loop
async def test_all_tables_whose_shards_answer_give_way_whatever_becomes_of_others() -> None:
    rows = Rows(silent=10_005, stuck=10_007)
    rows.entries |= {f"t{id_}": entry(f"t{id_}", id_) for id_ in range(10_005, 10_009)}
    with pytest.raises(errors.NoLeader):
        await leading(rows, "harbour").give_way(Lead(2, "island"), (), anybodys)
    assert rows.held == {10_006: ELSEWHERE, 10_008: ELSEWHERE}


@in_loop
async def test_who_leads_is_written_down_while_a_shard_does_not_answer_if_he_may_say_so() -> None:
    rows = Rows(silent=10_005)
    rows.entries |= {"a": entry("a", 10_005), "b": entry("b", 10_006)}

    async def refuse(one: TableEntry) -> None:
        if one.id == 10_005:
            raise errors.PermissionDenied

    with pytest.raises(errors.PermissionDenied):
        await leading(rows, "harbour").give_way(Lead(2, "island"), (), refuse)
    assert rows.row == Lead()
    with pytest.raises(errors.NoLeader):
        await leading(rows, "harbour").give_way(Lead(2, "island"), (), anybodys)
    assert rows.row == Lead(2, "island")


@in_loop
async def test_who_takes_away_a_table_is_asked_whether_he_may_if_it_takes_writes_whatever_its_row_says() -> (
    None
):
    rows = Rows(held={10_005: 0, 10_006: 20_002})
    rows.entries |= {"a": entry("a", 10_005, 20_001), "b": entry("b", 10_006)}
    asked: list[str] = []

    async def refuse(one: TableEntry) -> None:
        asked.append(one.name)
        raise errors.PermissionDenied

    with pytest.raises(errors.PermissionDenied):
        await leading(rows, "harbour").give_way(Lead(2, "island"), (), refuse)
    assert (asked, rows.row, rows.held[10_005]) == (["a"], Lead(), 0)


@in_loop
async def test_a_table_that_gave_way_by_hand_is_adopted() -> None:
    rows = Rows(lost=1)
    rows.entries |= {"a": entry("a", 10_005, ELSEWHERE), "b": entry("b", 10_006, ELSEWHERE)}
    await leading(rows, "harbour", "island").adopt(rows.entries["a"], 20_001)
    assert rows.origins == {"a": 20_001, "b": ELSEWHERE}


@in_loop
async def test_a_table_that_is_not_the_callers_keeps_the_cluster_from_giving_way() -> None:
    rows = Rows()
    rows.entries["a"] = entry("a", 10_005)

    async def refuse(_: TableEntry) -> None:
        raise errors.PermissionDenied

    with pytest.raises(errors.PermissionDenied):
        await leading(rows, "harbour").give_way(Lead(2, "island"), (), refuse)
    assert (rows.row, rows.origins) == (Lead(), {"a": 0})


@in_loop
async def test_of_two_epochs_the_higher_one_counts() -> None:
    rows = Rows(Rows().entries, Lead(3, "island"))
    harbour = leading(rows, "harbour")
    for older in (Lead(2, "reef"), Lead(3, "reef"), Lead(1, "harbour")):
        with pytest.raises(OldEpoch, match="cluster island leads since epoch 3"):
            await harbour.hear(older)
    await harbour.hear(Lead(3, "island"))
    await harbour.hear(Lead(4, "reef"))
    assert rows.row == Lead(4, "reef")


@in_loop
async def test_a_follower_of_a_follower_learns_who_leads() -> None:
    rows = Rows()
    reef = leading(rows, "reef", "island")
    await reef.hear(Lead(1, "harbour"))
    assert await reef.now() == Lead(1, "harbour")
    with pytest.raises(OldEpoch):
        await reef.hear(Lead(1, "island"))


@in_loop
async def test_a_coordinator_passes_on_until_it_hears_otherwise_and_never_without_having_looked() -> None:
    rows = Rows()
    now = 0.0
    loads: list[None] = []

    async def changed() -> None:
        loads.append(None)

    watch = LeadWatch(leading(rows, "island", "harbour"), changed, lambda: now)
    with pytest.raises(errors.NoLeader):
        await watch.passes_on(0.0)
    task = asyncio.create_task(watch.run())
    await wait_until_async(lambda: rows.looks > 1, timeout_s=5, what="two looks")
    assert await watch.passes_on(0.0)
    rows.broken = True
    now += module.TRUSTED_S
    with pytest.raises(errors.NoLeader):
        await watch.passes_on(now)
    rows.broken, rows.row = False, Lead(2, "island")
    await wait_until_async(lambda: bool(loads), timeout_s=5, what="the news")
    assert not await watch.passes_on(now + 1)
    assert loads == [None]
    task.cancel()


@in_loop
async def test_a_copy_that_was_never_made_keeps_no_cluster_from_leading() -> None:
    rows = Rows({"t": entry("t", 10_001, 7)}, unmade={10_001})
    await leading(rows, "island", "harbour").take_over(2)
    assert (rows.origins, rows.unmade) == ({"t": 0}, set())
