"""A cluster's first start: the tables that its file names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from proto import errors
from proto.catalog import LOCAL, TableSettings, history_number
from proto.ids import ShardId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config import TableConfig
    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.tables import Tables

RETRY_S: Final = 0.5
LOST_TRIES_MAX: Final = 100
"""Lost tries to win the race for the next id against other coordinators that start at the same time."""

log = structlog.get_logger()


async def bootstrap(catalog: Catalog, tables: Tables, wanted: Mapping[str, TableConfig]) -> None:
    """Make the tables that the cluster file names, unless they exist or were deleted by hand. Returns when all of them
    do.

    Tried again for as long as it takes: there may be no quorum yet."""
    is_first = True
    while True:
        try:
            if is_first:
                # Not the newest perhaps, but there without a quorum: enough for reads that may be stale.
                await catalog.load(linearizable=False)
                is_first = False
            await _add_missing(catalog, tables, wanted)
            await catalog.confirm_all()
        except errors.BoathouseError as error:
            log.warning("the catalog is not ready", error=type(error).__name__, detail=error.detail)
            await asyncio.sleep(RETRY_S)
        else:
            log.info("the catalog is ready", tables=len(catalog.tables))
            catalog.keep_promises()
            return


async def _add_missing(catalog: Catalog, tables: Tables, wanted: Mapping[str, TableConfig]) -> None:
    lost = 0
    refused: set[str] = set()
    while lost < LOST_TRIES_MAX:
        contents = await catalog.load(linearizable=True)
        if await tables.restore(contents):
            continue
        passed_over = contents.entries.keys() | contents.deleted_names | refused
        missing = [name for name in wanted if name not in passed_over]
        if not missing:
            return
        # Those with a shard of their own first, so that the others can be spread over the rest.
        name = min(missing, key=lambda name: (wanted[name].shard is None, name))
        try:
            lost += await tables.add(name, _settings(wanted[name]), seen=contents) is None
        except errors.TableContradicted as error:
            log.error("a table is not made", table=name, reason=error.detail)
            refused.add(name)
    raise errors.NoLeader("other coordinators kept changing the catalog")


def _settings(table: TableConfig) -> TableSettings:
    return TableSettings(
        shard=ShardId(table.shard) if table.shard else None,
        history=history_number(table.history),
        is_local=table.type == LOCAL,
        owner=table.owner,
    )
