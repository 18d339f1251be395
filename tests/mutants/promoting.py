"""Known bugs of promotions; the simulation of one has to find them all."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from coordinator.replication import copier
from coordinator.services.regatta_replication import RegattaReplication
from proto.catalog import Lead
from tests.mutants.following import PairMutant
from tests.simulation.promoting import OLD, Promoting
from tests.simulation.world import MS
from tools.admin import promotion as module
from tools.admin.promotion import Promotion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coordinator.catalog.contents import Contents
    from proto.catalog import TableEntry
    from tests.simulation.pair import Pair
    from tools.admin.promotion import Prospect
    from tools.admin.standings import Standing


def _known_to_lack_something(standings: Iterable[Standing]) -> list[Standing]:
    """What is not known is taken for level."""
    return [standing for standing in standings if standing.lacks]


def _look_only_before(pair: Pair) -> None:
    """Copies that were near before the fence are taken for level after it, on a slow way that breaks just then."""
    assert isinstance(pair, Promoting)

    class LooksOnlyBefore(Promotion):
        async def _ask_to_give_way(self, prospect: Prospect, say: Callable[[str], object]) -> None:
            pair.way.delay_us_max = 500 * MS
            await pair.follower.clock.sleep(1.0)
            await super()._ask_to_give_way(prospect, say)
            pair.way.cut()

        async def _wait_level(self, prospect: Prospect) -> None:
            del prospect

    pair.promotion = LooksOnlyBefore


def _fence_in_the_catalog(pair: Pair) -> None:
    """The shards of the cluster that gave way are not told."""
    assert isinstance(pair, Promoting)
    rows = pair.rows[OLD]

    async def origin_in_shard(entry: TableEntry) -> int:
        return rows.tables[entry.name].origin

    async def change_origin(entry: TableEntry, held: int, changed: TableEntry, *, seen: Contents) -> bool:
        del held, seen
        rows.tables[entry.name] = changed
        return True

    rows.origin_in_shard = origin_in_shard  # type: ignore[method-assign]
    rows.change_origin = change_origin  # type: ignore[method-assign]


async def _no_position(_service: RegattaReplication, _table: TableEntry) -> None:
    """The old leader cluster does not say where its tables stand."""


class EpochAsItIs(Promotion):
    """Who leads by force leads in the epoch of the cluster that can't be reached."""

    async def prospect(self) -> Prospect:
        return replace(await super().prospect(), epoch=Lead().epoch)


def _in_the_same_epoch(pair: Pair) -> None:
    assert isinstance(pair, Promoting)
    pair.promotion = EpochAsItIs


FORCING_MUTANTS = (
    PairMutant(
        "a promotion by force begins no epoch",
        kinds=(),
        seen_by=("fence",),
        arrange=_in_the_same_epoch,
    ),
    PairMutant(
        "what a cluster alone has is taken for nothing",
        kinds=(),
        seen_by=("lost-write",),
        patches=((copier, "CREATION", sys.maxsize),),
    ),
)

PROMOTION_MUTANTS = (
    PairMutant(
        "what is not known is level",
        kinds=("compaction",),
        seen_by=("lost-write",),
        patches=(
            (module, "behind", _known_to_lack_something),
            (RegattaReplication, "_position", _no_position),
        ),
    ),
    PairMutant(
        "copies are looked at before the fence alone",
        kinds=(),
        seen_by=("lost-write",),
        arrange=_look_only_before,
    ),
    PairMutant(
        "a fence in the catalog alone",
        kinds=(),
        seen_by=("fence", "linearizability", "revisions", "lost-write"),
        arrange=_fence_in_the_catalog,
    ),
)
