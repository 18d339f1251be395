"""A follower cluster that is promoted by force, while the one that led can't be reached and goes on: then two clusters
take writes, until the old one hears of it, gives way and follows.

What runs is what runs in promoting.py, and what a promoted cluster's replicator does to be heard.

Judged: the copy that becomes a table of its own is one that the old cluster has had, and begins in a higher epoch; the
old one takes nothing more once its shard has given way; it then comes to what the new one has, and what it alone had
is in a file before anything takes its place. Clients have lost what the old cluster took behind that copy, or after the
new one had begun: the history is judged as if nobody knew what became of that, and of nothing else.

python -m tests.simulation.forcing --seed N
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from coordinator.replication.copies import Copies
from coordinator.replication.leader import Leader, LeaderFailed
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.request_ids import RequestIds
from proto import errors
from proto.catalog import Lead
from tests.history.operations import Outcome
from tests.simulation.build import PRODUCTION
from tests.simulation.following import MAIN, CoordinatorDriver, FollowerCluster, services
from tests.simulation.promoting import NEW, OLD, Local, Promoting, config_of, run_from_command_line
from tests.simulation.simulation import CONVERGE_US_MAX
from tests.simulation.tasks import Task
from tests.simulation.violation import Violation
from tests.simulation.way import WayCalls
from tools.admin.promotion import NotPromoted

if TYPE_CHECKING:
    from coordinator.shards.driver import Driver
    from tests.history.operations import Operation
    from tests.simulation.build import Build
    from tests.simulation.plan import Plan
    from tests.simulation.process import Process, State
    from tests.simulation.world import World

LASTS_S_MAX: Final = 4.0
"""Of each step of what happens."""


class Forcing(Promoting):
    """See Promoting."""

    def __init__(self, world: World, plan: Plan, build: Build = PRODUCTION) -> None:
        super().__init__(world, plan, build)
        self.to_promote = [NEW]
        self._served_by_old: list[Operation] = []
        self.pasts: dict[str, dict[int, int]] = {OLD: {}, NEW: {}}
        """Of the table in each cluster that leads, or led: its checksum at each revision."""
        self.fork: int | None = None
        """The revision at which the copy became a table of its own."""
        self._forked_at = 0
        self._newest = {OLD: (0, 0), NEW: (0, 0)}
        self._has_given_way = False
        self._is_away = False
        self._apart: tuple[int, int, int] | None = None
        """What the old cluster alone has had, until it is in a file."""
        self.leader.cluster.checkers.reached = self._old_reached
        self.follower.cluster.checkers.reached = self._new_reached

    def _heal(self) -> None:
        super()._heal()
        self.way.is_open = not self._is_away

    def _break_things(self) -> None:
        self._schedule("way slow", self._slow)
        self._schedule("replicator killed", self._kill)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def _operate(self) -> None:
        Task(self.world, self._force())

    async def _force(self) -> None:
        clock = self.follower.clock
        while not self._newest[NEW][0]:
            await clock.sleep(0.1)  # it has no copy to lead with yet
        await clock.sleep(self.rng.random() * LASTS_S_MAX)
        await self._promote()
        await clock.sleep(self.rng.random() * LASTS_S_MAX)
        self._is_away, self.way.is_open = False, True
        await self._announce()
        self._follow_back()
        self.to_promote.clear()

    async def _promote(self) -> None:
        leading = self.follower.leading
        assert leading is not None
        shards = self._own_calls(NEW)
        local = Local(self.rows[NEW], leading, Copies(shards))
        self._is_away = True
        self.way.cut()
        while True:
            promotion = self.promotion(local, self._leader(), config_of(NEW, OLD), self.follower.clock)
            try:
                prospect = await promotion.prospect()
                await promotion.promote(prospect, wait=False, say=self.world.note)
            except NotPromoted as refusal:
                self.world.note(f"not promoted: {refusal}")
                await self.follower.clock.sleep(0.5)
            else:
                self.leader.cluster.count("promoted by force")
                self.clients[0].place = NEW
                return

    async def _announce(self) -> None:
        """As replicator.Replicator does."""
        leading = self.follower.leading
        assert leading is not None
        leader = self._leader()
        while True:
            try:
                lead = await leading.now()
                told = await leader.metadata(leading.announcement(lead, self.rows[NEW].entries.values()))
            except (errors.BoathouseError, LeaderFailed) as failure:
                self.world.note(f"not announced: {failure!r}")
            else:
                if (told.lead.epoch, told.lead.cluster) == (lead.epoch, NEW):
                    return
            await self.follower.clock.sleep(0.5)

    def _follow_back(self) -> None:
        rng, clock = self.world.stream("back"), self.follower.clock
        offered = services(NEW, self.clusters[NEW], self.rows[NEW], self.leading_of(NEW, OLD), clock, rng)
        back = FollowerCluster(OLD, self.clusters[OLD], self.rows[OLD])
        back.leading = self.leading_of(OLD, NEW)
        back.follow(self.way, offered)
        self._followers[OLD] = back

    def _leader(self) -> Leader:
        return Leader(NEW, WayCalls(self.way, self._services, self.rng))

    def _own_calls(self, name: str) -> OwnCalls:
        coordinator = self.rng.choice(self.clusters[name].coordinators)
        return OwnCalls(cast("Driver", CoordinatorDriver(coordinator)), RequestIds(self.rng.randbytes(8)))

    # ---- the judges -------------------------------------------------------------------------------------------------

    def _new_reached(self, process: Process, state: State) -> None:
        """A command has made this of a table of the cluster that is promoted. Raises Violation."""
        entry = self.rows[NEW].tables.get(MAIN)
        if entry is None or state.table_id != entry.id:
            return
        past = self.pasts[OLD] if state.origin or self.fork is None else self.pasts[NEW]
        if not state.origin and self.fork is None:
            self._check_begins(process, state)
        elif state.origin or state.revision in past:
            self._check_past(past, process, state)
        else:
            past[state.revision] = state.checksum
        self._newest[NEW] = max(self._newest[NEW], (state.revision, state.checksum))

    def _check_begins(self, process: Process, state: State) -> None:
        lead = self.rows[NEW].lead
        if lead.cluster != NEW or lead.epoch <= Lead().epoch:
            raise Violation("fence", f"{process} takes writes at {state}, by {lead}")
        self._check_past(self.pasts[OLD], process, state)
        self.fork, self._forked_at = state.revision, self.world.now_us
        self.world.note(f"begins at {state}")
        shared = {revision: sum_ for revision, sum_ in self.pasts[OLD].items() if revision <= state.revision}
        self.pasts[NEW] = shared

    def _old_reached(self, process: Process, state: State) -> None:
        """Likewise, of the cluster that led. Raises Violation."""
        entry = self.rows[OLD].tables.get(MAIN)
        if entry is None or state.table_id != entry.id:
            return
        mine, place = self.pasts[OLD], (state.table_id, state.revision, state.checksum)
        if not state.origin:
            if self._has_given_way and state.revision not in mine:
                raise Violation("fence", f"{process} writes {state} after it gave way")
            if mine.setdefault(state.revision, state.checksum) != state.checksum:
                raise Violation("equal-state", f"{process} came to another checksum at {state}")
            self._newest[OLD] = max(self._newest[OLD], (state.revision, state.checksum))
            return
        if not self._has_given_way:
            self._has_given_way = True
            self.world.note(f"{process} gives way at {state}")
            if self.pasts[NEW].get(state.revision) != state.checksum:
                self._apart = place
                self.leader.cluster.count("was ahead")
        if mine.get(state.revision) == state.checksum:
            return  # as it was when it gave way
        if self._apart is not None and self._apart not in self._followers[OLD].kept:
            raise Violation("lost-write", f"{process} is at {state}, and {self._apart} is in no file")
        self._check_past(self.pasts[NEW], process, state)
        self._newest[OLD] = state.revision, state.checksum

    def _check_past(self, past: dict[int, int], process: Process, state: State) -> None:
        if past.get(state.revision) != state.checksum:
            raise Violation("equal-copy", f"{process} is at {state}, where nobody has ever been")

    # ---- the end ----------------------------------------------------------------------------------------------------

    def served(self, place: str) -> None:
        super().served(place)
        if place == OLD:
            self._served_by_old.append(self.leader.cluster.recorder.operations[-1])

    def history(self) -> list[Operation]:
        """Of what was lost by force, or told by who led no longer, nobody knows what became."""
        assert self.fork is not None
        void = {
            id(one)
            for one in self._served_by_old
            if one.revision > self.fork or one.returned >= self._forked_at
        }
        self.leader.cluster.counts["lost by force"] += len(void)
        return [
            replace(one, outcome=Outcome.UNKNOWN, revision=0) if id(one) in void else one
            for one in super().history()
        ]

    def _check_history(self) -> None:
        self._wait(
            CONVERGE_US_MAX,
            lambda: self._has_given_way and self._newest[OLD] == self._newest[NEW],
            "the old leader cluster does not become a copy of the new one",
        )
        super()._check_history()

    @property
    def leads(self) -> str:
        return NEW


if __name__ == "__main__":
    run_from_command_line(__doc__, Forcing)
