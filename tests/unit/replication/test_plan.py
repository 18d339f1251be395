"""Which tables a follower cluster makes, deletes and copies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.replication.carry_out import carry_out
from coordinator.replication.local import check_is
from coordinator.replication.plan import Plan, copies_of, make_plan
from proto import errors
from proto.catalog import CATALOG, ELSEWHERE, TableEntry
from proto.ids import ShardId
from proto.regatta.replication_pb2 import Table
from tests.unit.coordinator.running import in_loop

ONE = ShardId(1)


def copy(name: str, origin: int, *, history: int = -1) -> TableEntry:
    return TableEntry(name, origin + 5, ONE, history, origin=origin)


def test_what_the_leader_has_is_made_and_copied_and_what_it_lacks_is_deleted() -> None:
    kept, gone = copy("kept", 10_001), copy("gone", 10_002)
    new = Table(name="new", id=10_003, history=-1)
    plan = make_plan([Table(name="kept", id=10_001, history=-1), new], [CATALOG, kept, gone])
    assert (plan.delete, plan.create, plan.copy, plan.refuse) == ([gone], [new], [kept], {})


def test_what_was_made_is_copied_if_it_is_still_that() -> None:
    made = [
        Table(name=name, id=id_, history=-1) for name, id_ in (("a", 10_001), ("b", 10_002), ("c", 10_003))
    ]
    here = [CATALOG, copy("a", 10_001), copy("b", 10_009), copy("c", 10_003, history=5), copy("d", 10_004)]
    assert copies_of(made, here) == [here[1]]
    assert copies_of([Table(name="own")], [TableEntry("own", 10_001, ONE, -1)]) == []


def test_a_table_that_was_made_again_is_made_again() -> None:
    old, again = copy("t", 10_001), Table(name="t", id=10_004, history=-1)
    plan = make_plan([again], [old])
    assert (plan.delete, plan.create, plan.copy) == ([old], [again], [])


def test_this_clusters_own_tables_stay() -> None:
    own = TableEntry("own", 10_001, ONE)
    assert make_plan([], [own]).delete == []
    plan = make_plan([Table(name="own", id=10_001, history=-1)], [own])
    assert (plan.delete, plan.create, plan.copy) == ([], [], [])
    assert "of its own" in plan.refuse["own"]


def test_local_tables_of_the_leader_are_none_of_ours() -> None:
    plan = make_plan([Table(name="l", id=10_001, type=Table.LOCAL)], [])
    assert (plan.create, plan.refuse) == ([], {})


def test_a_leader_that_says_no_ids_is_refused_and_nothing_is_deleted() -> None:
    old = copy("t", 10_001)
    plan = make_plan([Table(name="t")], [old])
    assert (plan.delete, plan.create, plan.copy) == ([], [], [])
    assert "no boathouse" in plan.refuse["t"]


def test_what_led_before_and_was_not_copied_stays_until_somebody_deletes_it() -> None:
    secret = TableEntry("secret", 10_002, ONE, origin=ELSEWHERE)
    for leader in (
        [],
        [Table(name="secret", id=20_009, history=-1)],
        [Table(name="secret", id=20_009, origin=7)],
    ):
        plan = make_plan(leader, [secret])
        assert (plan.delete, plan.create, plan.copy, plan.adopt) == ([], [], [], [])
        assert "led before" in plan.refuse["secret"]


def test_what_led_before_becomes_a_copy_of_what_took_it_over() -> None:
    old = TableEntry("t", 10_002, ONE, origin=ELSEWHERE)
    plan = make_plan([Table(name="t", id=20_009, history=-1, origin=10_002)], [old])
    assert (plan.delete, plan.create, plan.copy, plan.refuse) == ([], [], [], {})
    assert plan.adopt == [(old, 20_009)]


class Tables:
    """A follower cluster's, one of which can't be deleted just now."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    async def create(self, name: str, *, history: int, origin: int) -> None:
        assert (history, origin) == (-1, 10_009)
        self.done.append(("create", name))

    async def delete(self, copy: TableEntry) -> None:
        if copy.name == "moving":
            raise errors.InvalidSettings("it is on its way to another shard")
        self.done.append(("delete", copy.name))

    async def adopt(self, entry: TableEntry, origin: int) -> None:
        self.done.append(("adopt", entry.name))


@in_loop
async def test_a_table_that_is_held_up_holds_up_no_other() -> None:
    tables = Tables()
    held_up = await carry_out(
        Plan(
            delete=[copy("again", 10_001), copy("moving", 10_002)],
            create=[Table(name=name, id=10_009, history=-1) for name in ("again", "moving", "new")],
            copy=[],
            adopt=[(copy("before", ELSEWHERE), 10_003)],
            refuse={},
        ),
        tables,
    )
    assert list(held_up) == ["moving"]
    assert "on its way" in held_up["moving"]
    assert sorted(tables.done) == [
        ("adopt", "before"),
        ("create", "again"),
        ("create", "new"),
        ("delete", "again"),
    ]
    assert tables.done.index(("delete", "again")) < tables.done.index(("create", "again"))


def test_only_the_copy_that_was_meant_is_deleted() -> None:
    """Between the look at the catalog and the deletion the name may have got to another table."""
    meant = copy("t", 10_001)
    check_is(meant, meant)
    for found in (replace(meant, id=meant.id + 1), replace(meant, origin=0), replace(meant, origin=10_002)):
        with pytest.raises(errors.OtherOrigin):
            check_is(found, meant)
