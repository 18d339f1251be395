"""How long leases live: the leader counts, renews what is kept alive, and proposes the end of what has run out.

**A lease is never ended early.** Its time to live counts from the moment at which the request that granted or renewed
it was sent, by the clock of whoever leads; a leader's count of ticks never runs ahead of its clock.

- A keep-alive is answered by a leader that has proved its leadership after the request had come, and has applied
  everything that was committed then: it takes the way of a linearizable read (reads.py). So each later leader was
  elected after the request had come, and gives every lease its full time again, with an election timeout on top, as
  etcd does; or what was written down of it (lease_checkpoints.py), and then the keep-alive was, too.
- The end of a lease is an entry of the log, proposed by a leader whose own count says so. If that leader was deposed
  before, the entry is in no later leader's log. If it was not, the entry is ahead of the one that opens the later
  leader's term, which that leader has applied before it renews anything.
- From the moment its end is proposed a lease is not renewed: the answer waits until the end is applied, and is then
  that there is no such lease. What waits so, or for the proof, is refused when leadership is lost, and asks elsewhere.
- An end names the entry that granted the lease. Another one of the same id, granted meanwhile, is not meant.

**It ends soon after.** What has run out is proposed in batches, so much at a time, each as soon as there is room for
it: neither a herd of leases nor a flood of writes holds up the other. A proposal that came to nothing is made again
after an election timeout. While a process is stopped its ticks stand still, so that whoever was kept from renewing has
time; what it misses of them by less than an election timeout, because the machine is busy, is made up for.

**A change of leaders postpones it little.** What is left of it is written down in steps (lease_checkpoints.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import Result
from shardworker.raft import NEVER_TICKS, Role
from shardworker.replica.deadlines import Deadlines, Key
from shardworker.replica.lease_checkpoints import (
    CHECKPOINT_STEP_MS_MAX,
    GRANULARITY_TICKS,
    LeaseCheckpoints,
    ticks_of,
)
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.machine.auth import Caller
    from shardworker.machine.leases import Lease
    from shardworker.machine.tables import TableState
    from shardworker.raft import Term
    from shardworker.replica.logins import Logins
    from shardworker.replica.part import Handler, ReplicaContext
    from shardworker.replica.proposals import Proposals

ENDING_MAX: Final = 1_000
"""Leases whose end is proposed and not applied yet. Applying that many takes about as long as a batch of puts."""

WAITING_MAX: Final = 10_000
"""Renewals that wait for the end of their lease, or until they are written down; any more are refused."""

M = TypeVar("M", bound=Message)


class _Waiter(NamedTuple):
    identity: bytes
    call: int


class LeaseClock(Part):
    """The leases of one replica's tables, in time."""

    def __init__(self, context: ReplicaContext, proposals: Proposals, logins: Logins) -> None:
        self._core = context.core
        self._store = context.store
        self._machine = context.machine
        self._outgoing = context.outgoing
        self._proposals = proposals
        self._logins = logins
        self._tick_ms = context.cluster.raft.tick_ms
        self._retry_ticks = context.cluster.raft.election_ticks
        self._led_term: Term | None = None
        self._deadlines = Deadlines(
            self._retry_ticks,
            step_ticks_min=self._retry_ticks,
            step_ticks_max=max(self._retry_ticks, CHECKPOINT_STEP_MS_MAX // self._tick_ms),
        )
        self._checkpoints = LeaseCheckpoints(
            context.machine, self._deadlines, tick_ms=self._tick_ms, round_ticks=self._retry_ticks
        )
        self._ending: dict[Key, int] = {}
        """When their end was proposed last."""
        self._waiting: dict[Key, list[_Waiter]] = {}
        self._waiting_count = 0
        self._take_over_all()

    @property
    def openers(self) -> Mapping[int, Handler]:
        """What is answered as a read that only a proven leader can answer, by frames.Method."""
        return {frames.LEASE_KEEP_ALIVE: self._keep_alive}

    # ---- what there is ----------------------------------------------------------------------------------------------

    def _take_over_all(self) -> None:
        self._machine.leases.take_changed()
        self._machine.leases.take_counted()
        self._deadlines.clear()
        for table_id, leases in self._machine.leases.tables.items():
            for lease in leases.values():
                self._add((table_id, lease.id), lease)

    def _add(self, key: Key, lease: Lease) -> None:
        """One that has ended, and has keys left, is due at once."""
        if lease.ttl_s:
            whole, left = ticks_of(1000 * lease.ttl_s, self._tick_ms), ticks_of(lease.left_ms, self._tick_ms)
            self._deadlines.add(key, whole, left)
        else:
            self._deadlines.add(key, 0)

    def installed(self) -> None:
        self._ending.clear()
        self._checkpoints.abandon()
        self._take_over_all()

    def end_turn(self) -> None:
        """Go on with what has run out."""
        self._take_over_changes()
        # What earlier turns and ticks have added was proposed at the beginning of this turn.
        self._checkpoints.settle(
            last_index=self._core.log.last_index, applied_index=self._store.applied_index
        )
        self._notice_leadership()
        self._propose()

    def _take_over_changes(self) -> None:
        """Take over what this turn has granted and ended so far. Reads of the same turn ask for it too."""
        for key in self._machine.leases.take_changed():
            lease = self._machine.leases.find(*key)
            self._ending.pop(key, None)
            self._checkpoints.forget(key)
            if lease is None:
                self._deadlines.remove(key)
            else:
                self._add(key, lease)
            for waiter in self._take_waiting(key):
                self._answer_gone(waiter, key)
        for key in self._machine.leases.take_counted():
            lease = self._machine.leases.get(*key)
            if lease is not None and self._checkpoints.applied(key, lease):
                for waiter in self._take_waiting(key):
                    self._answer_renewed(waiter, key, lease)

    # ---- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self._deadlines.tick()
        self._propose()

    def miss(self, ticks: int) -> None:
        """What a busy process has missed is made up for; a pause is not."""
        if ticks < self._retry_ticks:
            self._deadlines.tick(ticks)

    def ticks_until_action(self) -> int:
        if self._led_term is None:
            return NEVER_TICKS
        checkpoints = self._checkpoints.ticks_until_action()
        if not self._ending:
            return min(checkpoints, self._deadlines.ticks_until_due())
        retry = max(1, min(self._ending.values()) + self._retry_ticks - self._deadlines.now)
        if len(self._ending) >= ENDING_MAX:
            return min(checkpoints, retry)
        return min(checkpoints, retry, self._deadlines.ticks_until_due())

    @property
    def _leads(self) -> bool:
        """Whether this replica leads, and all that was counted in an earlier term is void."""
        core = self._core
        return self._led_term is not None and self._led_term == core.term and core.role is Role.LEADER

    def _notice_leadership(self) -> None:
        """A leader counts once it has applied an entry of its own term: by then it knows all that earlier ones have
        written down."""
        core = self._core
        leads = core.role is Role.LEADER and self._store.applied_term == core.term
        term = core.term if leads else None
        if term != self._led_term:
            self._led_term = term
            if term is not None:
                self._deadlines.restart()

    def _propose(self) -> None:
        """The end of what has run out, and again of what was proposed long ago."""
        if not self._leads:
            return
        now = self._deadlines.now
        due = [key for key, since in self._ending.items() if now - since >= self._retry_ticks]
        due += self._deadlines.take_due(ENDING_MAX - len(self._ending))
        tables: dict[int, frames.ExpiredLeases] = {}
        for key in due:
            table_id, lease_id = key
            lease = self._machine.leases.find(table_id, lease_id)
            assert lease is not None, "a lease that is gone is taken off the clock at the end of its turn"
            self._ending[key] = now
            self._checkpoints.forget(key)
            batch = tables.setdefault(table_id, frames.ExpiredLeases())
            batch.leases.add(id=lease_id, granted_at=lease.granted_at)
        for table_id, batch in tables.items():
            self._proposals.add_own(frames.LEASE_EXPIRE, batch.SerializeToString(), table_id=table_id)
        self._write_down(self._checkpoints.take())

    def _write_down(self, tables: Mapping[int, frames.LeaseCheckpoints]) -> None:
        for table_id, batch in tables.items():
            self._proposals.add_own(frames.LEASE_CHECKPOINT, batch.SerializeToString(), table_id=table_id)

    def prepare_hand_over(self) -> None:
        """Leadership is about to go, by plan: what the next leader should know is proposed first."""
        if self._leads:
            self._write_down(self._checkpoints.take_before_hand_over())

    def abandon(self, why: str) -> None:
        """Leadership is lost: whoever leads next counts from what is written down."""
        self._led_term = None
        self._checkpoints.abandon()
        for key in self._ending:
            self._deadlines.renew(key)
        self._ending.clear()
        waiting, self._waiting, self._waiting_count = self._waiting, {}, 0
        for waiters in waiting.values():
            for waiter in waiters:
                self._outgoing.refuse(waiter.identity, waiter.call, errors.NotLeader(why))

    # ---- requests, those of lease_questions.py too ------------------------------------------------------------------

    def table(self, request: frames.Request) -> TableState:
        """The request's table, if this replica may answer for its leases. Raises NotLeader, TableNotFound."""
        self._notice_leadership()
        if not self._leads:
            raise errors.NotLeader
        table = self._machine.tables.get(request.table_id)
        if table is None:
            raise self._machine.moves.absence(request.table_id)
        self._take_over_changes()
        return table

    def caller(self, request: frames.Request) -> Caller:
        """Whose request it is. Raises InvalidAuthToken, and UserEmpty for nobody where only users are served."""
        caller = self._machine.caller(request.table_id, self._logins.identify(request))
        caller.check_user()
        return caller

    def _keep_alive(self, identity: bytes, request: frames.Request) -> None:
        """Raises PermissionDenied for who may not write all keys of the lease."""
        table = self.table(request)
        key = (table.id, parsed(etcd.LeaseKeepAliveRequest(), request.body).ID)
        self.caller(request).check_lease(key[1])
        lease = self._machine.leases.find(*key)
        waiter = _Waiter(identity, request.call)
        if lease is None:
            self._answer_gone(waiter, key)
        elif key in self._ending or not lease.ttl_s:
            self._wait(waiter, key)
        elif self._checkpoints.is_whole(key, lease):
            self._deadlines.renew(key)
            self._answer_renewed(waiter, key, lease)
        else:
            self._wait(waiter, key)
            self._deadlines.renew(key)
            self._checkpoints.renew(key)

    def _wait(self, waiter: _Waiter, key: Key) -> None:
        if self._waiting_count >= WAITING_MAX:
            raise errors.QueueFull(f"{self._waiting_count} renewals wait for what is written of their leases")
        self._waiting_count += 1
        self._waiting.setdefault(key, []).append(waiter)

    def _take_waiting(self, key: Key) -> list[_Waiter]:
        waiters = self._waiting.pop(key, [])
        self._waiting_count -= len(waiters)
        return waiters

    def _answer_gone(self, waiter: _Waiter, key: Key) -> None:
        self._answer(waiter, key, etcd.LeaseKeepAliveResponse(ID=key[1]))

    def _answer_renewed(self, waiter: _Waiter, key: Key, lease: Lease) -> None:
        self._answer(waiter, key, etcd.LeaseKeepAliveResponse(ID=lease.id, TTL=lease.ttl_s))

    def _answer(self, waiter: _Waiter, key: Key, response: etcd.LeaseKeepAliveResponse) -> None:
        table = self._machine.tables.get(key[0])
        if table is None:
            self._outgoing.refuse(waiter.identity, waiter.call, self._machine.moves.absence(key[0]))
        else:
            result = Result(table.revision, response.SerializeToString())
            self._outgoing.answer(waiter.identity, waiter.call, result)

    def remaining_s(self, table_id: int, lease: Lease) -> int:
        """Whole seconds that are left. The moment that has passed of this tick counts as well."""
        ticks = self._deadlines.deadline((table_id, lease.id)) - GRANULARITY_TICKS - self._deadlines.now
        return max(0, min((ticks * self._tick_ms - 1) // 1000, lease.ttl_s))

    def ends_at(self, table_id: int, lease: Lease) -> int:
        """In ticks, on the clock of this leader."""
        return self._deadlines.deadline((table_id, lease.id))

    # ---- the end, and figures ---------------------------------------------------------------------------------------

    def drained(self) -> bool:
        return not self._waiting_count and self._checkpoints.drained()

    def statistics(self) -> Mapping[str, int]:
        return {
            "leases": len(self._deadlines),
            "leases_ending": len(self._ending),
            "lease_checkpoints": self._checkpoints.written_count,
        }


def parsed(message: M, body: bytes) -> M:
    """The message, filled. Raises MalformedRequest."""
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise errors.MalformedRequest(str(error)) from None
    return message
