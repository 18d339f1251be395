"""What a coordinator knows of the catalog, when its reads are slow, old, or cross with each other."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from coordinator.catalog.cache import Catalog
from coordinator.catalog.contents import Contents
from proto import catalog, errors
from proto.catalog import TableEntry
from proto.ids import ShardId
from tests.unit.coordinator.running import in_loop
from tests.waiting import wait_until_async

USERS = TableEntry("users", 10_001, ShardId(1))
ORDERS = TableEntry("orders", 10_002, ShardId(2))


class FakeSource:
    """A catalog and shards that the test changes. A stale read gives what `stale` says."""

    def __init__(self, *entries: TableEntry) -> None:
        self.revision = 10
        self.entries = {entry.name: entry for entry in entries}
        self.stale: Contents | None = None
        self.made = set(entries)
        self.counts: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()

    def contents(self) -> Contents:
        return Contents(self.revision, {catalog.CATALOG_NAME: catalog.CATALOG, **self.entries}, 10_003, 1)

    async def load(self, *, linearizable: bool) -> Contents:
        self.counts["load"] += 1
        gate, contents = self.gate, self.contents()
        await gate.wait()
        return contents if linearizable or self.stale is None else self.stale

    async def is_in_shard(self, entry: TableEntry, *, linearizable: bool) -> bool:
        await self.gate.wait()
        return entry in self.made

    async def make_in_shard(self, entry: TableEntry) -> None:
        self.counts["make"] += 1
        self.made.add(entry)


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def make(*entries: TableEntry) -> tuple[FakeSource, Catalog]:
    source = FakeSource(*entries)
    return source, Catalog(source, promised=())


@in_loop
async def test_a_stale_read_takes_the_place_of_nothing_newer() -> None:
    source, cache = make(USERS)
    source.stale = Contents(9, {catalog.CATALOG_NAME: catalog.CATALOG}, 10_001, 1)
    await cache.load(linearizable=True)
    await cache.load(linearizable=False)
    assert await cache.find("users", soon()) == USERS
    assert source.counts["load"] == 2, "it was known all the time"


@in_loop
async def test_a_slow_read_does_not_end_after_a_newer_one() -> None:
    source, cache = make(USERS)
    fast, source.gate = source.gate, asyncio.Event()
    slow = asyncio.ensure_future(cache.load(linearizable=True))
    await wait_until_async(lambda: source.counts["load"] == 1, timeout_s=5, what="the slow read")
    held, source.gate = source.gate, fast
    source.entries["orders"], source.revision = ORDERS, 11
    source.made.add(ORDERS)
    found = asyncio.ensure_future(cache.find("orders", soon()))
    await asyncio.wait({found}, timeout=0.2)
    held.set()
    assert await found == ORDERS
    await slow
    assert await cache.find("orders", soon()) == ORDERS
    assert source.counts["load"] == 2


@in_loop
async def test_a_table_is_there_before_it_is_handed_out_and_made_once() -> None:
    source, cache = make(USERS)
    source.made.clear()
    assert "users" not in cache.tables
    found = await asyncio.gather(*(cache.find("users", soon()) for _ in range(20)))
    assert set(found) == {USERS}
    assert source.counts["make"] == 1
    assert cache.tables["users"] == USERS


@in_loop
async def test_what_was_deleted_meanwhile_is_not_made_again() -> None:
    source, cache = make(USERS)
    await cache.load(linearizable=True)
    # Gone from the catalog and from its shard, which this coordinator has not heard of.
    del source.entries["users"]
    source.made.clear()
    with pytest.raises(errors.TableNotFound):
        await cache.find("users", soon())
    assert source.counts["make"] == 0


@in_loop
async def test_a_name_that_got_another_table_is_renewed() -> None:
    source, cache = make(USERS)
    assert await cache.find("users", soon()) == USERS
    other = TableEntry("users", 10_002, ShardId(2))
    source.entries["users"], source.revision = other, 11
    source.made = {other}
    assert await cache.renewed(USERS, soon()) == other
    assert cache.tables["users"] == other


@in_loop
async def test_a_name_that_lost_its_table_is_forgotten() -> None:
    source, cache = make(USERS)
    await cache.find("users", soon())
    del source.entries["users"]
    source.made.clear()
    with pytest.raises(errors.TableNotFound):
        await cache.renewed(USERS, soon())
    assert "users" not in cache.tables
    with pytest.raises(errors.TableNotFound):
        await cache.renewed(catalog.CATALOG, soon())


@in_loop
async def test_a_changed_entry_is_confirmed_by_its_shard_again() -> None:
    source, cache = make(USERS)
    await cache.find("users", soon())
    changed = TableEntry("users", USERS.id, USERS.shard, history=0)
    source.entries["users"] = changed
    await cache.load(linearizable=True)
    assert "users" not in cache.tables
    assert await cache.find("users", soon()) == changed
    assert cache.tables["users"] == changed


@in_loop
async def test_waiting_for_the_catalog_ends_with_the_deadline() -> None:
    source, cache = make(USERS)
    source.gate.clear()
    with pytest.raises(errors.ReadTimedOut):
        await cache.find("users", soon(0.05))
    source.gate.set()
    assert await cache.find("users", soon()) == USERS
