"""Carries out moves of tables, those that were begun here and those that nobody goes on with."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from coordinator.moves.mover import Ask, Outcome, Steps, carry_out
from coordinator.moves.pacing import Pacing
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto import errors
from proto.boathouse import moves_pb2 as api
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.contents import Contents
    from coordinator.catalog.moves import MoveRows
    from coordinator.shards.driver import Driver
    from coordinator.shards.replica_status import ReplicaStatuses
    from coordinator.shards.request_ids import RequestIds
    from proto.catalog import TableEntry, TableMove
    from proto.ids import ShardId

    Check = Callable[[TableEntry], Awaitable[object]]
    """Raises if a table is not the caller's to move."""

LOST_TRIES_MAX: Final = 20
"""Lost tries to change the catalog against other coordinators that do so just then."""

CALL_TIMEOUT_S: Final = 7.0
WAIT_S_MIN: Final = 0.1
WAIT_S_MAX: Final = 5.0
"""After a step that came to nothing, doubled from one time to the next."""
CHECK_INTERVAL_S: Final = 5.0
"""Between looks for moves that nobody goes on with."""
LOOK_S: Final = 0.5
"""A move that another coordinator carries out, and that did not get on from one such look to the next, is taken over.
If that one is there still, the two only repeat each other."""
WAITED_S: Final = 0.25
"""How soon it is noticed that clients wait for a table on its way, which is no time to be idle."""

log = structlog.get_logger()


class Asked:
    """A question of a mover, and when it was asked and answered."""

    def __init__(self, asking: Coroutine[Any, Any, frames.Reply], clock: Callable[[], float]) -> None:
        self._clock = clock
        self.asked_s = self.answered_s = clock()
        self.reply = asyncio.create_task(asking)
        self.reply.add_done_callback(self._done)

    def _done(self, reply: asyncio.Task[frames.Reply]) -> None:
        self.answered_s = self._clock()
        if not reply.cancelled():
            reply.exception()  # nobody may want to know how it ended


class UnderWay:
    """What a mover has asked: what it waits for, and what it most likely asks next."""

    def __init__(
        self, asking: Callable[[Ask], Coroutine[Any, Any, frames.Reply]], clock: Callable[[], float]
    ) -> None:
        self._asking = asking
        self._clock = clock
        self._asked: dict[tuple[ShardId, int, bytes], Asked] = {}

    def ask(self, ask: Ask) -> Asked:
        """This one, and beside it what is ahead, in this order, but for what is under way already; what is left of that
        is given up."""
        before, self._asked = self._asked, {}
        for one in (ask, *ask.ahead):
            question = one.question
            asked = before.pop(question) if question in before else Asked(self._asking(one), self._clock)
            self._asked[question] = asked
        for left in before.values():
            left.reply.cancel()
        return self._asked.pop(ask.question)

    def drop(self) -> None:
        """Nothing is of interest any more."""
        for asked in self._asked.values():
            asked.reply.cancel()
        self._asked.clear()


class TableMoves:
    """Of one coordinator."""

    def __init__(
        self,
        catalog: Catalog,
        rows: MoveRows,
        driver: Driver,
        statuses: ReplicaStatuses,
        request_ids: RequestIds,
        *,
        shards: Sequence[ShardId],
    ) -> None:
        """shards are those that can hold tables."""
        self._catalog = catalog
        self._rows = rows
        self._driver = driver
        self._statuses = statuses
        self._request_ids = request_ids
        self._shards = shards
        self._running: dict[int, asyncio.Task[None]] = {}
        """By table id."""
        self._trouble: dict[int, str] = {}
        self._stood: dict[int, bytes] = {}
        """How others' moves stood at the last look, by table id."""

    # ---- what is asked for ------------------------------------------------------------------------------------------

    async def move(self, name: str, shard: ShardId, check: Check) -> api.MoveProgress:
        """How the move of a table to this shard goes; it is begun if it is not under way.

        Raises TableNotFound, InvalidSettings, NoLeader, and what check does."""
        if shard not in self._shards:
            raise errors.InvalidSettings(
                f"there is no shard {shard}; this cluster has shards 1 to {self._shards[-1]}"
            )
        for _ in range(LOST_TRIES_MAX):
            seen, entry = await self._find(name)
            await check(entry)
            move = seen.moves.get(entry.id)
            if move is None and entry.shard == shard:
                return api.MoveProgress(phase=api.MoveProgress.DONE, source=shard)
            if move is None:
                move = await self._rows.begin(entry, shard, seen=seen)
                if move is None:
                    continue
                log.info(
                    "a table moves",
                    table=name,
                    id=entry.id,
                    source=entry.shard,
                    target=shard,
                    number=move.number,
                )
            elif move.cancelled or move.target != shard:
                what = "being cancelled" if move.cancelled else f"on its way to shard {move.target}"
                raise errors.InvalidSettings(f"table {name} is {what}")
            self._run(move)
            return await self._progress(move)
        raise errors.NoLeader("other coordinators kept changing the catalog")

    async def cancel(self, name: str, check: Check) -> None:
        """The table stays where it is when this returns. Raises TableNotFound; InvalidSettings if it does not move, or
        has moved; and what check and the shards do: then it may stay nevertheless, or move."""
        for _ in range(LOST_TRIES_MAX):
            seen, entry = await self._find(name)
            await check(entry)
            move = seen.moves.get(entry.id)
            if move is None:
                raise errors.InvalidSettings(
                    f"table {name} is in shard {entry.shard}, and on its way nowhere"
                )
            if not move.cancelled and not await self._rows.cancel(move, seen=seen):
                continue
            self._stop(entry.id)
            seen, entry = await self._find(name)
            cancelled = seen.moves.get(entry.id)
            outcome = None if cancelled is None else await self._carry_out_once(cancelled)
            if outcome is Outcome.MOVED or entry.shard == move.target:
                raise errors.InvalidSettings(f"it is too late: table {name} is in shard {move.target}")
            return
        raise errors.NoLeader("other coordinators kept changing the catalog")

    async def _find(self, name: str) -> tuple[Contents, TableEntry]:
        seen = await self._catalog.load(linearizable=True)
        entry = seen.entries.get(name)
        if entry is None:
            raise errors.TableNotFound(name)
        if entry.is_reserved:
            raise errors.InvalidSettings(f"table {name} is boathouse's own, and stays")
        return seen, entry

    async def _progress(self, move: TableMove) -> api.MoveProgress:
        progress = api.MoveProgress(source=move.source, trouble=self._trouble.get(move.entry.id, ""))
        for status in await self._statuses.everywhere(move.source):
            for table in status.tables:
                if table.id == move.entry.id:
                    progress.keys_total = max(progress.keys_total, table.keys)
        for state in await self._states(move, move.target):
            progress.keys = max(progress.keys, state.keys)
        for state in await self._states(move, move.source):
            if state.state in (frames.MoveState.FENCED, frames.MoveState.MOVED):
                progress.phase = api.MoveProgress.SWITCHING
        return progress

    async def _states(self, move: TableMove, shard: ShardId) -> list[frames.MoveState]:
        """What the replicas of a shard know of this move."""
        return [
            state
            for status in await self._statuses.everywhere(shard)
            for state in status.moves
            if state.table_id == move.entry.id and state.number == move.number
        ]

    # ---- one move ---------------------------------------------------------------------------------------------------

    def _run(self, move: TableMove) -> None:
        table_id = move.entry.id
        if table_id not in self._running:
            task = self._running[table_id] = asyncio.create_task(self._carry_out(move))
            task.add_done_callback(lambda _: self._ended(table_id, task))

    def _ended(self, table_id: int, task: asyncio.Task[None]) -> None:
        if self._running.get(table_id) is task:
            del self._running[table_id]
        self._trouble.pop(table_id, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("a table's move is stuck", id=table_id, exc_info=task.exception())

    def _stop(self, table_id: int) -> None:
        task = self._running.pop(table_id, None)
        if task is not None:
            task.cancel()

    async def _carry_out(self, begun: TableMove) -> None:
        """Until it has ended, here or elsewhere."""
        move: TableMove | None = begun
        wait_s = WAIT_S_MIN
        while move is not None:
            try:
                await self._carry_out_once(move)
            except errors.BoathouseError as error:
                self._trouble[begun.entry.id] = f"{type(error).__name__} {error.detail}".strip()
                log.warning(
                    "a table does not get on",
                    table=begun.entry.name,
                    error=type(error).__name__,
                    detail=error.detail,
                )
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, WAIT_S_MAX)
                with contextlib.suppress(errors.BoathouseError):
                    move = (await self._catalog.load(linearizable=True)).moves.get(begun.entry.id)
            else:
                return

    async def _carry_out_once(self, move: TableMove) -> Outcome:
        """Raises what the shards say; then it is to be tried again."""
        outcome, term = await self._ask_all(move, carry_out(move))
        shard = move.target if outcome is Outcome.MOVED else move.source
        while True:
            seen = await self._catalog.load(linearizable=True)
            newest = seen.moves.get(move.entry.id)
            if newest is None or newest.number != move.number:
                return outcome
            if await self._rows.end(newest, shard, term=term, seen=seen):
                break
        log.info(
            "a move has ended", table=move.entry.name, id=move.entry.id, shard=shard, outcome=outcome.value
        )
        await self._catalog.load(linearizable=True)
        return outcome

    async def _ask_all(self, move: TableMove, steps: Steps) -> tuple[Outcome, int]:
        """How it ends, and in which term of the source: nobody was told of a higher one while that served the table."""
        pacing, term = Pacing(), 0
        under_way = UnderWay(partial(self._ask, move), self._driver.time)
        try:
            ask = next(steps)
            while True:
                asked = under_way.ask(ask)
                try:
                    reply = await asked.reply
                except errors.BoathouseError as error:
                    ask = steps.throw(error)
                else:
                    if ask.shard == move.source:
                        term = max(term, reply.term)
                    if ask.paced:
                        await asyncio.sleep(pacing.rest_s(asked.asked_s, asked.answered_s))
                    ask = steps.send(reply)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome, term
        finally:
            under_way.drop()

    async def _ask(self, move: TableMove, ask: Ask) -> frames.Reply:
        access = COMMANDS[ask.method].access
        return await self._driver.ask(
            ShardCall(
                ask.shard,
                NEAREST if ask.nearest else LEADER,
                access,
                ask.method,
                move.entry.id,
                ask.body,
                deadline=self._driver.time() + CALL_TIMEOUT_S,
                request_id=self._request_ids.draw() if access is Access.WRITE else b"",
                linearizable=access is Access.READ and not ask.nearest,
                in_shard=True,
            )
        )

    # ---- moves that nobody goes on with -----------------------------------------------------------------------------

    async def keep_going(self) -> None:
        """For ever: take over moves whose mover has gone."""
        while True:
            await self._pause()
            with contextlib.suppress(
                errors.BoathouseError
            ):  # no replica of the catalog answers: others say so
                await self._look()

    async def _pause(self) -> None:
        if self._stood:
            await asyncio.sleep(LOOK_S)
            return
        for _ in range(int(CHECK_INTERVAL_S / WAITED_S)):
            await asyncio.sleep(WAITED_S)
            if self._driver.take_waited():
                return

    async def _look(self) -> None:
        seen = await self._catalog.load(linearizable=False)
        stands: dict[int, bytes] = {}
        for table_id, move in seen.moves.items():
            if table_id in self._running:
                continue
            states = [*await self._states(move, move.source), *await self._states(move, move.target)]
            stands[table_id] = b"".join(
                [b"%d %d" % (move.number, move.cancelled), *(state.SerializeToString() for state in states)]
            )
            if stands[table_id] == self._stood.get(table_id):
                log.info("a move is taken over", table=move.entry.name, id=table_id, number=move.number)
                self._run(move)
        self._stood = {table_id: state for table_id, state in stands.items() if table_id not in self._running}

    def close(self) -> None:
        """Leave what is under way to others."""
        for table_id in list(self._running):
            self._stop(table_id)
