"""One replica of one shard: the loop body that orders every effect.

A turn takes what has arrived and produces, in this order and never another:

1. one Ready of the Raft core, with all waiting writes proposed as one entry;
2. the messages that may leave before the disk has them (a leader's appends and heartbeats, Raft thesis 10.2.1);
3. one SQLite transaction with at most one sync: new entries and hard state, committed entries applied, applied index;
4. the messages that promise durability (votes, append responses), and the answers to clients;
5. the reads that the core has confirmed, at the state just committed.

If the process dies anywhere, the database holds a turn whole or not at all, and nothing was promised before step 4.
What is beside that order is a part (part.py). Everything that differs between production and simulation comes in
through the constructor: sockets (`Outbox`), time (`tick` and `wall_clock_ms`), where long work runs (`Background`), and
the disk below the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.machine import Result
from shardworker.raft import EntryKind, MessageKind, NodeId
from shardworker.replica.admission import Admission, is_for_clients
from shardworker.replica.applied import Applied
from shardworker.replica.auto_compaction import AutoCompaction
from shardworker.replica.census import Census
from shardworker.replica.commit_news import CommitNews
from shardworker.replica.cursors import Cursors
from shardworker.replica.defragment import Defragment
from shardworker.replica.disk_space import DiskSpace
from shardworker.replica.feed import Feed
from shardworker.replica.generations import Generations
from shardworker.replica.giving_way import Demand
from shardworker.replica.history_sweep import HistorySweep
from shardworker.replica.integrity import Integrity
from shardworker.replica.leadership import Leadership
from shardworker.replica.lease_questions import LeaseQuestions
from shardworker.replica.leases import LeaseClock
from shardworker.replica.levels import Levels
from shardworker.replica.links import Links
from shardworker.replica.logins import Logins
from shardworker.replica.long_reads import LongReads
from shardworker.replica.members import Members
from shardworker.replica.outgoing import Outgoing
from shardworker.replica.part import Parts, ReplicaContext
from shardworker.replica.proposals import Proposals
from shardworker.replica.quotas import Quotas
from shardworker.replica.reads import Reads
from shardworker.replica.rebuild import Rebuild
from shardworker.replica.slow_disk import SlowDisk
from shardworker.replica.snapshots import Snapshots
from shardworker.store import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig
    from shardworker.background import Background
    from shardworker.machine import StateMachine
    from shardworker.raft import Entry, HardState, Membership, Message, Raft, SnapshotMeta
    from shardworker.replica.outgoing import Outbox
    from shardworker.replica.part import Handler
    from shardworker.store import ReplicaStore, Turn

log = structlog.get_logger()

READYS_PER_TURN_MAX: Final = 4
"""A single voter commits its own append at once; a few rounds settle it without starving the sockets."""

APPLY_ANSWER_BYTES_MAX: Final = 64 << 20
"""Answers that one transaction may collect before it takes no further entry: until it is committed all of them are in
memory, and a few small entries can ask for a quarter of a gigabyte each."""

APPLY_ROWS_MAX: Final = 200_000
"""Rows (machine/budget.py) after which a transaction takes no further entry: heartbeats must leave in between."""

_ELECTIONS: Final = frozenset({MessageKind.VOTE, MessageKind.PRE_VOTE, MessageKind.TIMEOUT_NOW})


class _Applied(NamedTuple):
    """An entry of commands, and what came of each."""

    entry: Entry
    batch: frames.CommandBatch
    results: list[Result]


class Replica:
    """The order of one replica's turn. Single-threaded: every method is called from the loop's thread."""

    def __init__(
        self,
        *,
        shard: int,
        node: NodeId,
        core: Raft,
        store: ReplicaStore,
        machine: StateMachine,
        outbox: Outbox,
        background: Background,
        cluster: ClusterConfig,
        wall_clock_ms: Callable[[], int],
        founders: Membership | None,
        life: int,
        tell_process: Callable[[frames.ReplicaStatus], None] = lambda status: None,
    ) -> None:
        """Wire the parts; nothing runs until turn().

        founders: whom a new shard begins with (census.py), None for a replica that a leader tells. life: a number above
        0 that no earlier process of this replica had. tell_process: adds to a status what the process around the
        replica knows."""
        self._shard = shard
        self._node = node
        self._core = core
        self._store = store
        self._machine = machine
        self._background = background
        self._raft_config = cluster.raft
        self._outgoing = Outgoing(
            core,
            outbox,
            turn_answer_bytes_max=cluster.limits.turn_answer_bytes_max,
            link_answer_bytes_max=cluster.limits.link_answer_bytes_max,
        )
        self._demand = Demand(store.steady_s)
        context = ReplicaContext(
            shard=shard,
            node=node,
            core=core,
            store=store,
            machine=machine,
            background=background,
            cluster=cluster,
            outgoing=self._outgoing,
            demand=self._demand,
        )
        self._proposals = Proposals(context, wall_clock_ms, life)
        self._long_reads = LongReads(context)
        self._logins = Logins(context, self._proposals)
        self._cursors = Cursors(context, self._long_reads, self._logins, first_cursor=life)
        self._leases = LeaseClock(context, self._proposals, self._logins)
        in_parts = (frames.REGATTA_ITERATE, frames.ETCD_RANGE_STREAM, frames.ETCD_HASH_KV)
        openers: dict[int, Handler] = dict.fromkeys(in_parts, self._cursors.open)
        openers[frames.ETCD_SNAPSHOT] = self._cursors.open_file
        openers[frames.TABLE_BACKUP] = self._cursors.open_spooled
        openers[frames.TABLE_PAIRS] = self._cursors.open_pairs
        openers.update(self._leases.openers)
        openers.update(LeaseQuestions(context, self._leases, self._long_reads).openers)
        self._reads = Reads(context, self._long_reads, self._logins, openers)
        self._feed = Feed(context, self._long_reads)
        self._leadership = Leadership(context, prepare=self._prepare_hand_over)
        self._disk_space = DiskSpace(context, self._leadership, self._cursors)
        self._sweep = HistorySweep(context, self._disk_space)
        self._snapshots = Snapshots(context)
        self._integrity = Integrity(context, stop_serving=self._abandon)
        self._levels = Levels(context, self._proposals)
        self._quotas = Quotas(context, self._proposals)
        self._census = Census(context, founders, life)
        self._links = Links(context)
        self._members = Members(context, outbox)
        self._slow_disk = SlowDisk(context, self._leadership, self._disk_space)
        self._generations = Generations(shard, core, self._outgoing)
        self._commit_news = CommitNews(context)
        self._messages_refused = 0
        self._applied = Applied()
        self._tell_process = tell_process
        self._parts = Parts(
            [
                self._proposals,
                self._reads,
                self._long_reads,
                self._cursors,
                self._feed,
                self._leadership,
                self._members,
                self._disk_space,
                self._sweep,
                self._snapshots,
                self._links,
                self._slow_disk,
                self._integrity,
                Rebuild(context),
                self._levels,
                self._logins,
                self._quotas,
                AutoCompaction(context, self._proposals),
                Defragment(context, self._disk_space),
                self._census,
                self._leases,
                self._commit_news,
            ]
        )
        self._admission = Admission(
            outgoing=self._outgoing,
            leadership=self._leadership,
            disk_space=self._disk_space,
            proposals=self._proposals,
            reads=self._reads,
            sweep=self._sweep,
            levels=self._levels,
            logins=self._logins,
            quotas=self._quotas,
            parts=self._parts,
            status=self._answer_status,
            demand=self._demand,
        )

    # ---- what arrives -----------------------------------------------------------------------------------------------

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        """Take one envelope from a coordinator or a peer. Its effects leave with the next turn(). Raises
        GivenUp."""
        if not self._generations.admits(identity, envelope):
            return
        if self._census.waits:
            # It is no member yet, and hears nothing of what members say to each other.
            self._links.handle(identity, envelope)
            self._census.handle(identity, envelope)
        else:
            self._step(envelope)
            self._parts.handle(identity, envelope)
        if envelope.requests:
            self._admission.admit(identity, envelope.requests)

    def _step(self, envelope: frames.Envelope) -> None:
        for message in raft_frames.decode_messages(envelope):
            # A commit index is told as far as its receiver's log is known: it would be false for any other replica.
            if message.to != self._node or (message.kind in _ELECTIONS and not self._parts.vote()):
                continue
            # The core is told of a snapshot by this process alone, once its contents are here.
            if message.kind is MessageKind.SNAPSHOT:
                wrong = "a snapshot without its contents"
            else:
                wrong = self._core.step(message)
            if wrong:
                self._messages_refused += 1
                log.error("dropped a message that breaks Raft's rules", peer=message.sender, reason=wrong)

    def handle_disconnected(self, node: NodeId) -> None:
        """The connection to the peer on this node broke."""
        self._core.report_disconnected(node)

    # ---- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of the Raft clock has passed."""
        if self._parts.vote():
            self._core.tick()
        self._parts.tick()

    def miss(self, ticks: int) -> None:
        """So many have passed, and are not made up for by calls of tick()."""
        self._parts.miss(ticks)

    def ticks_until_action(self) -> int:
        """Ticks that may pass before tick() matters; lets an idle loop sleep."""
        return min(self._core.ticks_until_action(), self._parts.ticks_until_action())

    def owes_commit(self) -> bool:
        """Whether followers lag behind only because they have not been told what is committed."""
        return self._core.owes_commit

    def announce_commit(self) -> None:
        """Tell them with the next turn: no write came along to carry the news."""
        self._core.announce_commit()

    # ---- the turn ---------------------------------------------------------------------------------------------------

    @property
    def is_alone(self) -> bool:
        """Whether nobody but clients talks to it."""
        return self._core.membership.nodes() == (self._node,)

    def has_work(self) -> bool:
        """Whether turn() would do something now."""
        may_advance = self._disk_space.may_write and not self._census.waits
        return self._parts.has_work() or (may_advance and self._core.has_ready())

    def turn(self) -> None:
        """Do everything that is possible now, then send what came of it."""
        self._background.collect()
        self._notice_lost_leadership()
        self._links.announce()
        self._proposals.propose()
        self._reads.ask()
        self._commit_news.learn()
        for _ in range(0 if self._census.waits else READYS_PER_TURN_MAX):
            if not self._core.has_ready() or not self._advance():
                break
        self._serve_reads()
        self._sweep.step()
        self._notice_lost_leadership()
        self._parts.end_turn()
        self._outgoing.flush(self._commit_news.point)

    def _advance(self) -> bool:
        """Carry out one Ready. False if the turn should end: the disk is full and it must come again, or so much
        was applied that answers and heartbeats should leave first."""
        ready = self._core.ready()
        if ready.snapshot is not None and not self._census.may_install(ready.snapshot.membership):
            self._core.advance(ready, durable=False)
            return False
        self._send(ready.early_messages)
        self._reads.confirm(ready.reads)
        results: list[_Applied] = []
        applied = 0
        if ready.snapshot is not None or ready.hard_state is not None or ready.entries or ready.committed:
            try:
                # A turn after the install may have failed, and this Ready come again.
                if ready.snapshot is not None and ready.snapshot.index > self._store.applied_index:
                    self._install(ready.snapshot, ready.hard_state)
                with self._store.turn(sync=ready.must_sync) as turn:
                    turn.append(ready.hard_state, ready.entries)
                    applied, results = self._apply(turn, ready.committed)
                    turn.compact_log(
                        keep_entries=self._raft_config.log_tail_entries,
                        keep_bytes=self._raft_config.log_tail_bytes,
                    )
            except DiskFull as error:
                self._machine.rollback()
                self._core.advance(ready, durable=False)
                self._disk_space.refused(error)
                return False
            self._disk_space.written()
            self._machine.committed()
        self._send(ready.messages)
        if applied:
            self._feed.tell()  # ahead of the answers: who watches hears of a write no later than who made it
        for each in results:
            self._answer(each)
        self._core.advance(ready, applied=applied)
        return applied == len(ready.committed)

    def _install(self, meta: SnapshotMeta, hard_state: HardState | None) -> None:
        """Become the state that a peer sent; iterations over the old one end."""
        assert hard_state is not None, "a snapshot comes with the hard state to keep"
        self._cursors.close_all("the replica was replaced by a snapshot of the leader's")
        self._store.install_snapshot(self._snapshots.received(meta), hard_state)
        self._machine.reload(self._store.connection)
        for part in self._parts:
            part.installed()
        log.info("installed a snapshot", shard=self._shard, node=self._node, index=meta.index)

    def _apply(self, turn: Turn, committed: tuple[Entry, ...]) -> tuple[int, list[_Applied]]:
        """How many entries were applied, and what came of their commands."""
        results: list[_Applied] = []
        began_s = self._store.steady_s()
        count = answer_bytes = rows = 0
        for entry in committed:
            if entry.kind is EntryKind.MEMBERSHIP:
                turn.set_membership(self._core.apply_membership(entry))
            elif entry.data:
                batch = self._proposals.batch(entry)
                applied = self._machine.apply(entry.index, batch)
                results.append(_Applied(entry, batch, applied))
                answer_bytes += sum([len(result.body) for result in applied])
                rows += self._machine.rows_visited
            self._integrity.applied(entry.index)
            count += 1
            if answer_bytes >= APPLY_ANSWER_BYTES_MAX or rows >= APPLY_ROWS_MAX:
                break
        if any(is_for_clients(each.batch) for each in results):
            self._demand.notice()
        if count:
            self._applied.turn(
                (command for each in results for command in each.batch.commands),
                self._store.steady_s() - began_s,
            )
            turn.set_applied(committed[count - 1].index, committed[count - 1].term)
        return count, results

    def _send(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            if message.kind is MessageKind.SNAPSHOT:
                self._snapshots.start(message.to)
        self._outgoing.send_raft(message for message in messages if message.kind is not MessageKind.SNAPSHOT)

    def _answer(self, applied: _Applied) -> None:
        waiters = self._proposals.take_waiters(applied.entry)
        if not waiters:
            return
        for waiter, command, result in zip(waiters, applied.batch.commands, applied.results, strict=True):
            if waiter is not None and not self._sweep.owe(command, waiter, result):
                self._outgoing.answer(waiter.identity, waiter.call, result, is_applied=True)

    def _serve_reads(self) -> None:
        fault = self._parts.fault()
        self._long_reads.serve(fault)
        self._reads.serve(self._store.applied_index, fault)

    def _notice_lost_leadership(self) -> None:
        lost = self._leadership.lost()
        if lost:
            self._abandon(lost)

    def _abandon(self, why: str) -> None:
        """Nobody who waits gets an answer here."""
        for part in self._parts:
            part.abandon(why)

    def _prepare_hand_over(self) -> None:
        """What is to be in the log first."""
        self._leases.prepare_hand_over()
        self._proposals.propose()

    # ---- for people, and the end ------------------------------------------------------------------------------------

    def _answer_status(self, identity: bytes, request: frames.Request) -> None:
        self._outgoing.answer(identity, request.call, Result(0, self.status().SerializeToString()))

    def status(self) -> frames.ReplicaStatus:
        """What people and metrics want to know of this replica."""
        core = self._core.status()
        fault = self._parts.fault()
        status = frames.ReplicaStatus(
            shard=self._shard,
            node=self._node,
            term=core.term,
            leader=core.leader,
            role="learner" if core.is_learner else core.role.value,
            commit_index=core.commit,
            applied_index=core.applied,
            first_index=self._store.log.first_index(),
            last_index=core.last_index,
            database_bytes=self._store.database_bytes(),
            database_in_use_bytes=self._store.database_in_use_bytes(),
            no_space=self._disk_space.is_short,
            fault="" if fault is None else fault.detail,
            tables=self._machine.table_status(),
            highest_table_id=self._machine.highest_table_id,
            moves=self._machine.move_states(),
            voters=sorted(core.membership.voters),
            learners=sorted(core.membership.learners),
        )
        self._members.describe(status)
        for part in self._parts:
            status.statistics.update(part.statistics())
        status.statistics["raft_messages_refused"] = self._messages_refused
        status.statistics["wal_bytes"] = self._store.wal_bytes
        status.reads.update(self._reads.served)
        for name, histogram in self._store.durations().items():
            status.durations[name].CopyFrom(histogram.to_frame())
        self._applied.tell(status)
        self._tell_process(status)
        return status

    def drain(self) -> None:
        """Take no new requests, and hand leadership over if somebody can take it."""
        self._leadership.drain()

    def drained(self) -> bool:
        """Whether nothing would be lost by stopping now: no answer is owed, and nobody is about to take over."""
        return all(part.drained() for part in self._parts)
