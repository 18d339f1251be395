"""Two shards, clients, and movers that are killed, doubled and late, in one thread from one seed.

Each shard is production's state machine behind a log, which is what consensus makes of its replicas. Requests are
letters: they arrive in any order, perhaps twice, and their answers may be lost. What may never happen is checked after
each of them, the clients' history at the end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from coordinator.moves.mover import Ask, Outcome, carry_out
from proto import errors
from proto.catalog import TableEntry, TableMove
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access
from shardworker.machine import Result
from tests.history import linearizability, revisions
from tests.history.operations import Kind, Recorder
from tests.movers import Mover
from tests.unit.machine.moving import SOURCE, TARGET
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.history.operations import Pending

KEYS: Final = (b"a", b"b")
DOOMED: Final = (b"c",)
"""These are deleted, too: their versions count nothing."""
CLIENTS: Final = 3
EVENTS: Final = 1_200
DRAIN_EVENTS: Final = 60_000
LOST_SHARE: Final = 0.12
DOUBLED_SHARE: Final = 0.12
AHEAD_SHARE: Final = 0.7
"""Of what a mover may ask ahead of its turn: so much it does."""


class Broken(AssertionError):
    """A promise was broken; `which` one."""

    def __init__(self, which: str, detail: str) -> None:
        super().__init__(f"{which}: {detail}")
        self.which = which


@dataclass(slots=True)
class Letter:
    """A request on its way to a shard."""

    shard: ShardId
    method: int
    body: bytes
    request_id: bytes
    linearizable: bool
    answered: Callable[[Result | None], None] | None
    """None is told if the answer was lost. No callback: nobody waits for it any more."""


class World:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.shards = {
            ShardId(SOURCE): Shard(shard=SOURCE, history=self.rng.choice((-1, 0, 3))),
            ShardId(TARGET): Shard(shard=TARGET, create=False),
        }
        table = self.shards[ShardId(SOURCE)].machine.tables.get(TABLE)
        assert table is not None
        self.entry = TableEntry("t", TABLE, ShardId(SOURCE), table.history)
        self.move: TableMove | None = None
        self.moves = 0
        self.ends: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.mail: list[Letter] = []
        self.recorder = Recorder(clock=lambda: self.now)
        self.movers: list[RunningMover] = []
        self.clients = [Client(self, number) for number in range(CLIENTS)]
        self._ids = 0

    def new_id(self) -> bytes:
        self._ids += 1
        return b"world".ljust(8) + self._ids.to_bytes(8)

    # ---- the run --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Broken."""
        for _ in range(EVENTS):
            self._happen()
        for _ in range(DRAIN_EVENTS):
            if self.move is None and all(client.idle for client in self.clients):
                break
            self._happen(draining=True)
        else:
            raise Broken("liveness", "a move or a client does not end")
        self._check_history()

    def _happen(self, *, draining: bool = False) -> None:
        self.now += 1
        what = self.rng.random()
        if what < 0.75 and self.mail:
            self._deliver(self.mail.pop(self.rng.randrange(len(self.mail))))
        elif what < 0.9:
            self.rng.choice(self.clients).act(draining=draining)
        elif what < 0.95:
            self._operate(draining=draining)
        else:
            shard = self.rng.choice(list(self.shards.values()))
            shard.sweep_once(3)

    def _operate(self, *, draining: bool) -> None:
        """Somebody begins or cancels a move, or a mover comes or dies."""
        what = self.rng.random()
        if self.move is None:
            if not draining:
                self.moves += 1
                target = next(shard for shard in self.shards if shard != self.entry.shard)
                self.move = TableMove(self.entry, target, self.moves)
        elif what < 0.1 and not draining:
            self.move = replace(self.move, cancelled=True)
        elif what < 0.3 and self.movers and not draining:
            self.movers.pop(self.rng.randrange(len(self.movers))).killed = True
        elif len(self.movers) < 2:
            self.movers.append(RunningMover(self, self.move))

    def ended(self, move: TableMove, outcome: Outcome) -> None:
        """A mover says that its move has ended: the catalog takes it down, unless that was done."""
        if self.move is not None and self.move.number == move.number:
            self.ends[outcome] += 1
            self.entry = replace(move.entry, shard=move.target if outcome is Outcome.MOVED else move.source)
            self.move = None

    # ---- shards -----------------------------------------------------------------------------------------------------

    def send(self, letter: Letter) -> None:
        self.mail.append(letter)

    def _deliver(self, letter: Letter) -> None:
        result = self._ask(letter)
        self._check_one_writer()
        answered = letter.answered
        if self.rng.random() < DOUBLED_SHARE:
            self.mail.append(replace(letter, answered=None))
        if answered is not None:
            answered(None if self.rng.random() < LOST_SHARE else result)

    def _ask(self, letter: Letter) -> Result:
        shard = self.shards[letter.shard]
        request = frames.Request(
            method=frames.Method.ValueType(letter.method),
            table_id=TABLE,
            body=letter.body,
            request_id=letter.request_id,
            linearizable=letter.linearizable,
        )
        try:
            if letter.request_id:
                if (
                    self.rng.random() < 0.5
                ):  # a leader that has applied everything refuses at the door already
                    shard.machine.check_takes(request)
                command = frames.Command(
                    method=request.method, table_id=TABLE, body=letter.body, request_id=letter.request_id
                )
                return shard.apply(command)[0]
            if letter.linearizable:
                shard.machine.check_serves(request)
            return shard.read_as(letter.method, letter.body)
        except errors.BoathouseError as error:
            return Result(0, b"", error)

    def _check_one_writer(self) -> None:
        writers = []
        for number, shard in self.shards.items():
            try:
                shard.machine.moves.check_serves(TABLE)
            except errors.TableAway:
                continue
            if shard.machine.tables.get(TABLE) is not None:
                writers.append(number)
        if len(writers) > 1:
            raise Broken("one-writer", f"shards {writers} both take writes")

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _check_history(self) -> None:
        history = self.recorder.history()
        verdict = linearizability.check(history)
        if isinstance(verdict, linearizability.Violation):
            raise Broken("linearizability", str(verdict))
        anomalies = revisions.check(history)
        if anomalies:
            raise Broken("revisions", str(anomalies[0]))
        shard = self.shards[self.entry.shard]
        for key, puts in [
            (key, [one for one in history if one.key == key and one.kind is Kind.PUT]) for key in KEYS
        ]:
            version = next((kv.version for kv in shard.range(key)[1].kvs), 0)
            if version != len(puts):
                raise Broken(
                    "exactly-once", f"{key!r} was put {version} times, and {len(puts)} puts were asked for"
                )


class RunningMover:
    """One process that carries a move out, until it has ended or the process is killed."""

    def __init__(self, world: World, move: TableMove) -> None:
        self.killed = False
        self._world = world
        self._move = move
        rng = world.rng
        Mover(carry_out(move), self._send, self._ended, asks_ahead=lambda: rng.random() < AHEAD_SHARE)

    def _ended(self, outcome: Outcome | None) -> None:
        if outcome is not None:  # otherwise another one tries again
            self._world.ended(self._move, outcome)
        if self in self._world.movers:
            self._world.movers.remove(self)
        self.killed = True

    def _send(self, ask: Ask, told: Callable[[frames.Reply | errors.BoathouseError], None]) -> None:
        is_write = COMMANDS[ask.method].access is Access.WRITE
        letter = Letter(
            ask.shard,
            ask.method,
            ask.body,
            self._world.new_id() if is_write else b"",
            not is_write and not ask.nearest,
            None,
        )

        def answered(result: Result | None) -> None:
            if self.killed:
                return
            if result is None:
                self._world.send(letter)  # as the router does: the same id
            else:
                told(result.error or frames.Reply(revision=result.revision, body=result.body))

        letter.answered = answered
        self._world.send(letter)


class Client:
    """One client and its router: one operation at a time, sent where the table is thought to be."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._place = world.entry.shard
        self._values = 0
        self.idle = True

    def act(self, *, draining: bool) -> None:
        """Begin the next operation, unless one is under way."""
        if not self.idle or draining:
            return
        self.idle = False
        key = self._world.rng.choice(KEYS + DOOMED)
        what = self._world.rng.random()
        if what < 0.25 and key in DOOMED:
            pending = self._world.recorder.invoke(self._number, Kind.DELETE, key)
            body = etcd.DeleteRangeRequest(key=key).SerializeToString()
            self._ask(frames.ETCD_DELETE_RANGE, body, self._world.new_id(), pending)
        elif what < 0.5:
            self._values += 1
            value = b"%d-%d" % (self._number, self._values)
            pending = self._world.recorder.invoke(self._number, Kind.PUT, key, value=value)
            body = etcd.PutRequest(key=key, value=value).SerializeToString()
            self._ask(frames.ETCD_PUT, body, self._world.new_id(), pending)
        else:
            pending = self._world.recorder.invoke(self._number, Kind.GET, key)
            self._ask(frames.ETCD_RANGE, etcd.RangeRequest(key=key).SerializeToString(), b"", pending)

    def _ask(self, method: int, body: bytes, request_id: bytes, pending: Pending) -> None:
        def send() -> None:
            self._world.send(Letter(self._place, method, body, request_id, not request_id, answered))

        def answered(result: Result | None) -> None:
            error = None if result is None else result.error
            if isinstance(error, errors.TableElsewhere):
                self._place = ShardId(int(error.detail))
            if result is None or isinstance(error, errors.TableAway):
                send()
                return
            if error is not None:
                raise Broken("no-failed-request", f"{type(error).__name__} {error.detail}")
            self.idle = True
            if method == frames.ETCD_PUT:
                pending.succeeded(revision=result.revision)
                return
            if method == frames.ETCD_DELETE_RANGE:
                deleted = etcd.DeleteRangeResponse.FromString(result.body).deleted
                pending.succeeded(hit=deleted > 0, revision=result.revision)
                return
            kvs = etcd.RangeResponse.FromString(result.body).kvs
            found = kvs[0].value if kvs else None
            mod_revision = kvs[0].mod_revision if kvs else 0
            pending.succeeded(found=found, revision=result.revision, mod_revision=mod_revision)

        send()
