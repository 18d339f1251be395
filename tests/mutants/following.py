"""Known bugs of clusters that follow others; the simulation of two clusters has to find them all."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from coordinator.catalog.source import TableSource
from coordinator.replication import copier
from coordinator.replication.copies import Copies
from coordinator.replication.plan import make_plan
from proto.internal import frames_pb2 as frames
from proto.regatta import replication_pb2 as replication
from shardworker.machine import REGISTRY, Registry
from shardworker.machine.replacing import replace_rows
from shardworker.machine.replication import snapshot
from shardworker.machine.replication.apply import put_stored
from tests.simulation.plan import Plan
from tests.simulation.returning import Returning
from tests.simulation.tasks import WorldClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from coordinator.replication.plan import Plan as TablesPlan
    from coordinator.shards.own_calls import OwnCalls
    from proto.catalog import TableEntry
    from shardworker.machine.replication.apply import Changes
    from shardworker.machine.writer import Writer
    from tests.simulation.pair import Pair


@dataclass(frozen=True)
class PairMutant:
    """A bug, where it matters, and who is to see it."""

    name: str
    kinds: tuple[str, ...]
    seen_by: tuple[str, ...]
    arrange: Callable[[Pair], object] = lambda _pair: None
    patches: tuple[tuple[object, str, object], ...] = ()
    seeds_max: int = 20

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the patches are in place."""
        with ExitStack() as stack:
            for where, name, instead in self.patches:
                stack.enter_context(patch.object(where, name, instead))
            yield

    def plan(self, seed: int) -> Plan:
        """A simulation that gives this bug a chance."""
        return Plan(
            seed=seed,
            voters=1,
            spares=0,
            clients=3,
            safety_ms=8_000,
            intensity=0.6,
            kinds=frozenset(self.kinds),
        )


# ---- a position that is saved apart from the data -------------------------------------------------------------------


def _apply_as_it_comes(writer: Writer, op: Changes) -> bytes:
    """Nobody looks at what the copy has already: that is for who keeps the position."""
    for number, (_, pairs) in enumerate(op.revisions):
        if number:
            writer.end()
            writer.begin()
        for pair in pairs:
            if pair.stored is not None:
                put_stored(writer, pair.key, pair.stored, (pair.create_revision, pair.version, pair.lease))
    return b""


_TRUSTING = Registry(
    REGISTRY.level,
    {
        **REGISTRY.handlers,
        frames.REPLICATE_CHANGES: replace(
            REGISTRY.handlers[frames.REPLICATE_CHANGES], write=_apply_as_it_comes
        ),
    },
)


class PositionApart(Copies):
    """Where a copy is, is written down beside it, a moment after the data."""

    def __init__(self, shards: OwnCalls, positions: dict[int, int], clock: WorldClock) -> None:
        super().__init__(shards)
        self._positions = positions
        self._clock = clock

    async def status(self, copy: TableEntry) -> frames.TableStatus:
        status = await super().status(copy)
        status.revision = self._positions.get(copy.id, 1)
        return status

    async def apply(self, copy: TableEntry, changes: bytes) -> int:
        await super().apply(copy, changes)
        return await self._save(copy, frames.TableChanges.FromString(changes).through)

    async def take_part(self, copy: TableEntry, part: bytes) -> int:
        return await self._save(copy, await super().take_part(copy, part))

    async def _save(self, copy: TableEntry, revision: int) -> int:
        await self._clock.sleep(0.03)
        self._positions[copy.id] = revision
        return revision


def _save_position_apart(pair: Pair) -> None:
    positions: dict[int, int] = {}
    clock = WorldClock(pair.world)
    pair.follower.copies = lambda shards: PositionApart(shards, positions, clock)
    for host in pair.follower.cluster.hosts:
        host.registry = _TRUSTING


# ---- the other two --------------------------------------------------------------------------------------------------


def _forget_revision(writer: Writer, name: str, *, revision: int, **told: int) -> None:
    """A snapshot brings its pairs, and leaves the table's revision as it was."""
    replace_rows(writer, name, revision=writer.table.revision, **told)


class AnyOfThatName(TableSource):
    """The leader cluster goes by a table's name alone."""

    async def find(self, name: bytes, *, table_id: int = 0) -> TableEntry:
        return await super().find(name)


def _plan_by_name(told: Iterable[replication.Table], entries: Iterable[TableEntry]) -> TablesPlan:
    """And so does the follower cluster."""
    here = {entry.name: entry for entry in entries}
    tables: list[Any] = []
    for table in told:
        kept = replication.Table()
        kept.CopyFrom(table)
        if table.name in here:
            kept.id = here[table.name].origin
        tables.append(kept)
    return make_plan(tables, here.values())


def _go_by_name(pair: Pair) -> None:
    pair.source = AnyOfThatName
    pair.follower.make_plan = _plan_by_name


async def _takes_it_for_known(_copier: copier.Copier, _table: bytes) -> bool:
    """What is only told to be too far behind is replaced as if it had always followed."""
    return True


_EQUAL = ("equal-copy", "never-ahead")

PAIR_MUTANTS = (
    PairMutant(
        "a position saved apart from its data",
        kinds=("kill",),
        seen_by=_EQUAL,
        arrange=_save_position_apart,
        patches=((copier, "_check_same", lambda *_: None),),
    ),
    PairMutant(
        "a snapshot that forgets its revision",
        kinds=("compaction",),
        seen_by=_EQUAL,
        patches=((snapshot, "replace_rows", _forget_revision),),
    ),
    PairMutant(
        "a table made again under an old position",
        kinds=(),
        seen_by=_EQUAL,
        arrange=_go_by_name,
    ),
    PairMutant(
        "a past of its own that is taken for the other one's",
        kinds=("compaction",),
        seen_by=("lost-write",),
        arrange=Returning,
        patches=((copier.Copier, "_is_prefix", _takes_it_for_known),),
    ),
)
