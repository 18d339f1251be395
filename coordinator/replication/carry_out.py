"""What a plan of tables (plan.py) comes to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from coordinator.replication.leader import reason_of
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.replication.plan import Plan
    from proto.catalog import TableEntry

CHANGES_MAX: Final = 4
"""Tables that are made and deleted at once. They compete for the catalog's rows."""

log = structlog.get_logger()


class Tables(Protocol):
    """The follower cluster's: local.LocalCluster. All raise what the shards have to say."""

    async def create(self, name: str, *, history: int, origin: int) -> None: ...
    async def delete(self, copy: TableEntry) -> None: ...
    async def adopt(self, entry: TableEntry, origin: int) -> None: ...


async def carry_out(plan: Plan, tables: Tables) -> Mapping[str, str]:
    """Each table by itself, so that one that is held up holds up no other: which are, and why."""
    heirs = {entry.name: (entry, origin) for entry, origin in plan.adopt}
    gone = {entry.name: entry for entry in plan.delete}
    new = {table.name: table for table in plan.create}
    slots = asyncio.Semaphore(CHANGES_MAX)
    held_up: dict[str, str] = {}

    async def change(name: str) -> None:
        if name in heirs:
            log.warning("a table that led before becomes a copy", table=name, origin=heirs[name][1])
            await tables.adopt(*heirs[name])
        if name in gone:
            log.info("deletes a table, as its leader cluster has", table=name)
            await tables.delete(gone[name])
        if name in new:
            await tables.create(name, history=new[name].history, origin=new[name].id)

    async def try_to_change(name: str) -> None:
        async with slots:
            try:
                await change(name)
            except errors.BoathouseError as error:
                held_up[name] = f"it can't be changed as in its cluster: {reason_of(error)}"

    await asyncio.gather(*map(try_to_change, sorted(heirs.keys() | gone.keys() | new.keys())))
    return held_up
