"""A follower cluster that led once: its table has a past of its own, and became a copy of one that has gone on without.

Judged: nothing takes the place of that past before it was set aside, though the leader cluster may have compacted all
that would not have fitted; and then that the copy is as good as any other (pair.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.request_ids import RequestIds
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import Access
from tests.simulation.clients import TABLE_ID
from tests.simulation.following import MAIN, WRITE_S, CoordinatorDriver
from tests.simulation.tasks import Task
from tests.simulation.violation import Violation
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from coordinator.shards.driver import Driver
    from tests.simulation.pair import Pair
    from tests.simulation.process import Process, State

PUTS_MAX: Final = 5
AWAY_US_MAX: Final = 5 * SECOND
"""For so long the other cluster is out of reach at first, and goes on."""


class Returning:
    """Arranges it, in a Pair that has not begun."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._rng = pair.world.stream("returning")
        self._entry = pair.follower.tables.draw(MAIN)
        self._is_ready = False
        self._copy_reached = pair.follower.cluster.checkers.reached
        pair.follower.cluster.checkers.reached = self._reached
        pair.prepare = self._prepare

    def _prepare(self) -> None:
        world, way = self._pair.world, self._pair.way
        Task(world, self._lead())
        while not self._is_ready:
            world.run_until(world.now_us + SECOND // 10)
        way.cut()
        world.after(self._rng.randrange(AWAY_US_MAX), lambda: setattr(way, "is_open", True))

    async def _lead(self) -> None:
        entry = self._entry
        spec = frames.TableSpec(id=entry.id, name=MAIN, history=-1).SerializeToString()
        await self._insist(frames.TABLE_CREATE, spec)
        for number in range(1 + self._rng.randrange(PUTS_MAX)):
            put = etcd.PutRequest(key=b"own", value=b"%d" % number)
            await self._insist(frames.ETCD_PUT, put.SerializeToString())
        reply = await self._insist(frames.TABLE_STATUS, b"", Access.READ)
        status = frames.TableStatus.FromString(reply.body)
        self._pair.apart.add((entry.id, status.revision, status.checksum))
        gives_way = frames.TableOrigin(table_id=entry.id, was=0, origin=TABLE_ID)
        await self._insist(frames.TABLE_ORIGIN, gives_way.SerializeToString())
        self._pair.follower.tables.tables[MAIN] = replace(entry, origin=TABLE_ID)
        self._is_ready = True

    async def _insist(
        self, method: frames.Method.ValueType, body: bytes, access: Access = Access.WRITE
    ) -> frames.Reply:
        cluster = self._pair.follower.cluster
        driver = cast("Driver", CoordinatorDriver(cluster.coordinators[0]))
        shards = OwnCalls(driver, RequestIds(self._rng.randbytes(8)))
        while True:
            try:
                return await shards.ask(access, method, self._entry, body, WRITE_S)
            except errors.BoathouseError:
                await self._pair.follower.clock.sleep(0.1)

    def _reached(self, process: Process, state: State) -> None:
        """A command has made this of a table. Raises Violation."""
        if state.table_id == self._entry.id and state.origin:
            apart = self._pair.apart
            if (state.table_id, state.revision, state.checksum) in apart:
                return
            if not apart <= self._pair.follower.kept:
                raise Violation("lost-write", f"{process} is at {state}, and {apart} is in no file")
        self._copy_reached(process, state)
