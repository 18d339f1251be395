"""One replica of one shard: the loop body that orders every effect.

A turn takes what has arrived and produces, in this order and never another:

1. one Ready of the Raft core, with all waiting writes proposed as one entry;
2. the messages that may leave before the disk has them (a leader's appends and heartbeats, Raft thesis 10.2.1);
3. one SQLite transaction with at most one sync: new entries and hard state, committed entries applied, applied index;
4. the messages that promise durability (votes, append responses), and the answers to clients;
5. the reads that the core has confirmed, at the state just committed.

If the process dies anywhere, the database holds a turn whole or not at all, and nothing was promised before step 4.
Everything that differs between production and simulation comes in through the constructor: sockets (`Outbox`), time
(`tick` and `wall_clock_ms`), where long work runs (`Background`), and the disk below the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog
from google.protobuf.message import DecodeError

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.machine import Result
from shardworker.raft import Accepted, EntryKind, MessageKind, NodeId, Role
from shardworker.replica.census import Census
from shardworker.replica.integrity import Integrity
from shardworker.replica.proposals import Proposals
from shardworker.replica.reads import Reads
from shardworker.replica.snapshots import Snapshots
from shardworker.store import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from config import ClusterConfig
    from shardworker.background import Background
    from shardworker.machine import StateMachine
    from shardworker.raft import (
        Entry,
        HardState,
        LogIndex,
        Membership,
        Message,
        Raft,
        Ready,
        Reason,
        SnapshotMeta,
    )
    from shardworker.replica.proposals import Waiter
    from shardworker.replica.reads import Answer
    from shardworker.store import ReplicaStore, Turn

log = structlog.get_logger()

LINKS_MAX: Final = 256
"""Coordinators remembered for leader announcements; the oldest is forgotten first."""

FULL_ELECTIONS: Final = 5
"""Election timeouts after which a leader whose disk is full tries again to hand over. Not sooner: where all disks are
full, leadership goes from one to the next."""

READYS_PER_TURN_MAX: Final = 4
"""A single voter commits its own append at once; a few rounds settle it without starving the sockets."""

APPLY_ANSWER_BYTES_MAX: Final = 64 << 20
"""Answers that one transaction may collect before it takes no further entry: until it is committed all of them are in
memory, and a few small entries can ask for a quarter of a gigabyte each."""

ATTACHMENT_BYTES_MIN: Final = 256 * 1024
"""Bodies from this size on travel beside the Envelope: copying them into it and out again cost 100 ms for 28 MB."""

ENVELOPE_BYTES_MAX: Final = 16 << 20
"""Bodies of the answers in one Envelope; more than that leave in further ones. protobuf encodes nothing over 2 GiB, and
the thousands of reads that a turn may answer come to more."""


class Outbox(Protocol):
    """Where envelopes leave. Neither call blocks; either may lose what it is given."""

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        """Send to the same shard's replica on another node."""

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        """Send to the coordinator behind this link; attachments are what Reply.attachment counts."""


class Replica:
    """The replica's queues and its turn. Single-threaded: every method is called from the loop's thread."""

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
    ) -> None:
        """Wire the parts; nothing runs until turn().

        founders: whom a new shard begins with (census.py), None for a replica that a leader tells. life: a number above
        0 that no earlier process of this replica had."""
        self._shard = shard
        self._node = node
        self._core = core
        self._store = store
        self._machine = machine
        self._outbox = outbox
        self._cluster = cluster
        self._background = background
        self._wall_clock_ms = wall_clock_ms
        self._proposals = Proposals(
            requests_max=cluster.limits.pending_requests_max,
            bytes_max=cluster.limits.pending_bytes_max,
            batch_bytes_max=cluster.raft.entry_bytes_max,
        )
        self._reads = Reads(
            core=core,
            store=store,
            machine=machine,
            background=background,
            cluster=cluster,
            first_cursor=life,
        )
        self._snapshots = Snapshots(
            node=node, core=core, store=store, background=background, send=outbox.send_peer, cluster=cluster
        )
        self._integrity = Integrity(
            shard=shard,
            node=node,
            core=core,
            store=store,
            machine=machine,
            send=outbox.send_peer,
            stop_serving=self._abandon_clients,
            background=background,
            cluster=cluster,
        )
        self._census = Census(
            node=node,
            core=core,
            store=store,
            founders=founders,
            life=life,
            send=outbox.send_peer,
            patience_ticks=2 * cluster.raft.election_ticks,
        )
        self._own_batches: dict[LogIndex, tuple[int, frames.CommandBatch]] = {}
        self._links: dict[bytes, None] = {}
        self._announced: tuple[int, int] = (-1, -1)
        self._led_term: int | None = None
        self._last_time_ms = 0
        self._disk_full = False
        self._full_ticks = 0
        self._retry_disk = True
        self._turn_refused = False
        self._compacting = True
        self._unswept: list[tuple[int, Waiter, Result]] = []
        self._compaction_due = True
        self._draining = False
        self._handing_over = False
        self._clients: dict[bytes, frames.Envelope] = {}
        self._attachments: dict[bytes, list[bytes]] = {}
        self._answer_bytes: dict[bytes, int] = {}
        self._full_envelopes: list[tuple[bytes, frames.Envelope, Sequence[bytes]]] = []
        self._peers: dict[NodeId, frames.Envelope] = {}

    # ---- what arrives -------------------------------------------------------------------------------------------

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        """Take one envelope from a coordinator or a peer. Its effects leave with the next turn()."""
        if not self._census.waits:
            self._handle_peer(envelope)
        for request in envelope.requests:
            self._admit(identity, request)
        if envelope.HasField("census_question"):
            self._census.handle_question(envelope.census_question)
        if envelope.HasField("census_answer"):
            self._census.handle_answer(envelope.census_answer)
        if envelope.HasField("hello"):
            self._remember(identity)

    def _handle_peer(self, envelope: frames.Envelope) -> None:
        """What a member of the group hears from the others."""
        for message in raft_frames.decode_messages(envelope):
            # A commit index is told as far as its receiver's log is known: it would be false for any other replica.
            if message.to == self._node and self._integrity.hears(message.kind):
                self._core.step(message)
        if envelope.HasField("snapshot_chunk"):
            self._snapshots.handle_chunk(envelope.snapshot_chunk)
        if envelope.HasField("snapshot_ack"):
            self._snapshots.handle_ack(envelope.snapshot_ack)
        for digest in envelope.digests:
            self._integrity.handle_digest(digest)
        if envelope.HasField("verdict"):
            self._integrity.handle_verdict(envelope.verdict)

    def handle_disconnected(self, node: NodeId) -> None:
        """The connection to the peer on this node broke."""
        self._core.report_disconnected(node)

    def _remember(self, identity: bytes) -> None:
        self._links.pop(identity, None)
        self._links[identity] = None
        if len(self._links) > LINKS_MAX:
            del self._links[next(iter(self._links))]
        self._client(identity).state.CopyFrom(self._state())

    def _admit(self, identity: bytes, request: frames.Request) -> None:
        try:
            self._route(identity, request)
        except errors.BoathouseError as error:
            self._refuse(identity, request.call, error)

    def _route(self, identity: bytes, request: frames.Request) -> None:
        if request.method != frames.REPLICA_STATUS:
            self._integrity.check_serves()
            self._census.check_serves()
        if request.request_id:
            self._check_leads()
            if self._disk_full:
                raise errors.NoSpace(f"the disk of node {self._node} is full")
            self._proposals.admit(identity, request)
        elif request.method == frames.REPLICA_STATUS:
            self._client(identity).replies.add(call=request.call, body=self.status().SerializeToString())
        elif request.method == frames.TRANSFER_LEADER:
            self._check_leads()
            self._transfer(request.body)
            self._client(identity).replies.add(call=request.call)
        elif request.linearizable:
            self._check_leads()
            self._reads.admit(identity, request)
        else:
            answer = self._reads.read(identity, request)
            if answer is not None:
                self._post([answer])

    def _check_leads(self) -> None:
        if self._core.role is not Role.LEADER:
            raise errors.NotLeader
        if self._draining:
            raise errors.ShuttingDown

    # ---- time ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of the Raft clock has passed."""
        if self._integrity.votes and not self._census.waits:
            self._core.tick()
        self._census.tick()
        self._integrity.tick()
        self._reads.tick()
        self._snapshots.tick()
        self._retry_disk = True
        self._watch_disk()
        self._compacting = self._machine.is_compacting
        self._compaction_due = self._compacting

    def ticks_until_action(self) -> int:
        """Ticks that may pass before tick() matters; lets an idle loop sleep."""
        waiting = self._census.waits or self._integrity.needs_ticks
        if waiting or self._disk_full or self._snapshots.is_active():
            return 1
        return self._core.ticks_until_action()

    def owes_commit(self) -> bool:
        """Whether followers lag behind only because they have not been told what is committed."""
        return self._core.owes_commit

    def announce_commit(self) -> None:
        """Tell them with the next turn: no write came along to carry the news."""
        self._core.announce_commit()

    # ---- the turn -----------------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether turn() would do something now."""
        if self._proposals or self._reads:
            return True
        return self._retry_disk and (self._compacting or self._core.has_ready())

    def turn(self) -> None:
        """Do everything that is possible now, then send what came of it."""
        idle = not self._proposals and not self._reads
        self._background.collect()
        self._notice_lost_leadership()
        self._propose()
        self._post(self._reads.ask())
        for _ in range(READYS_PER_TURN_MAX):
            if not self._core.has_ready() or not self._advance():
                break
        self._answer_reads()
        self._snapshots.drop_unwanted()
        if self._compacting and (idle or self._compaction_due):
            self._compact_history()
        self._notice_lost_leadership()
        self._announce()
        self._integrity.end_turn()
        self._census.end_turn()
        self._flush()

    def _answer_reads(self) -> None:
        try:
            self._integrity.check_serves()
        except errors.Corrupt as fault:
            self._post(self._reads.refuse(fault))
            return
        self._post(self._reads.serve(self._store.applied_index))
        self._post(self._reads.late())

    def _propose(self) -> None:
        if not self._proposals:
            return
        self._last_time_ms = max(self._last_time_ms + 1, self._machine.time_ms, self._wall_clock_ms())
        for batch in self._proposals.take(self._last_time_ms):
            outcome = self._core.propose(batch.SerializeToString())
            if isinstance(outcome, Accepted):
                # The leader need not parse what it has just built.
                self._own_batches[outcome.index] = (outcome.term, batch)
            else:
                self._give_up(batch, outcome.reason)

    def _give_up(self, batch: frames.CommandBatch, reason: Reason) -> None:
        """The core refused the batch. An id in it may have been proposed before, so nobody hears "definitely not"."""
        lost = errors.LeaderLost(f"not proposed: {reason.value}")
        for command in batch.commands:
            for waiter in self._proposals.resolve(command.request_id):
                self._refuse(waiter.identity, waiter.call, lost)

    def _advance(self) -> bool:
        """Carry out one Ready. False if the turn should end: the disk is full and it must come again, or there are so
        many answers that they should leave before more is applied."""
        raft = self._cluster.raft
        ready = self._core.ready()
        self._send(ready.early_messages)
        self._reads.confirm(ready.reads)
        results: list[tuple[frames.Command, Result]] = []
        applied = 0
        if ready.snapshot is not None or ready.hard_state is not None or ready.entries or ready.committed:
            try:
                # A turn after the install may have failed, and this Ready come again.
                if ready.snapshot is not None and ready.snapshot.index > self._store.applied_index:
                    self._install(ready.snapshot, ready.hard_state)
                with self._store.turn(sync=ready.must_sync) as turn:
                    turn.append(ready.hard_state, ready.entries)
                    applied, results = self._apply(turn, ready.committed)
                    turn.compact_log(keep_entries=raft.log_tail_entries, keep_bytes=raft.log_tail_bytes)
            except DiskFull as error:
                self._machine.rollback()
                self._stop_writing(error, ready)
                return False
            self._turn_refused = False
            self._machine.committed()
        self._send(ready.messages)
        for command, result in results:
            for waiter in self._proposals.resolve(command.request_id):
                if self._machine.waits_for_sweep(command):
                    self._unswept.append((command.table_id, waiter, result))
                else:
                    self._answer(waiter.identity, waiter.call, result)
        self._core.advance(ready, applied=applied)
        return applied == len(ready.committed)

    def _compact_history(self) -> None:
        """One bounded step of removing what compaction made unreachable: all the time when idle, else once a tick."""
        self._compaction_due = False
        try:
            with self._store.turn(sync=False):
                self._compacting = self._machine.compaction_step(self._cluster.store.compaction_rows_max) > 0
        except DiskFull as error:
            self._machine.rollback()
            self._retry_disk = False
            log.warning("history is not compacted: the disk is full", shard=self._shard, reason=str(error))
            return
        self._machine.committed()
        unswept, self._unswept = self._unswept, []
        for table_id, waiter, result in unswept:
            if self._machine.is_swept(table_id):
                self._answer(waiter.identity, waiter.call, result)
            else:
                self._unswept.append((table_id, waiter, result))

    def _install(self, meta: SnapshotMeta, hard_state: HardState | None) -> None:
        """Become the state that a peer sent; iterations over the old one end."""
        assert hard_state is not None, "a snapshot comes with the hard state to keep"
        self._reads.close()
        self._store.install_snapshot(self._snapshots.received(meta), hard_state)
        self._snapshots.installed()
        self._machine.reload(self._store.connection)
        self._integrity.installed()
        log.info("installed a snapshot", shard=self._shard, node=self._node, index=meta.index)

    def _apply(
        self, turn: Turn, committed: tuple[Entry, ...]
    ) -> tuple[int, list[tuple[frames.Command, Result]]]:
        """How many entries were applied, and what came of their commands."""
        results: list[tuple[frames.Command, Result]] = []
        count = answer_bytes = 0
        for entry in committed:
            if entry.kind is EntryKind.MEMBERSHIP:
                turn.set_membership(self._core.apply_membership(entry))
            elif entry.data:
                batch = self._batch(entry)
                applied = self._machine.apply(entry.index, batch)
                results.extend(zip(batch.commands, applied, strict=True))
                answer_bytes += sum([len(result.body) for result in applied])
            self._integrity.applied(entry.index)
            count += 1
            if answer_bytes >= APPLY_ANSWER_BYTES_MAX:
                break
        if count:
            turn.set_applied(committed[count - 1].index, committed[count - 1].term)
        return count, results

    def _batch(self, entry: Entry) -> frames.CommandBatch:
        own = self._own_batches.pop(entry.index, None)
        if own is not None and own[0] == entry.term:
            return own[1]
        return frames.CommandBatch.FromString(entry.data)

    def _send(self, messages: Iterable[Message]) -> None:
        """Send Raft messages; everything for one peer in one envelope."""
        for message in messages:
            if message.kind is MessageKind.SNAPSHOT:
                self._snapshots.start(message.to)
                continue
            envelope = self._peers.get(message.to)
            if envelope is None:
                envelope = self._peers[message.to] = frames.Envelope()
            envelope.raft.append(raft_frames.encode_message(message))
        for node, envelope in self._peers.items():
            self._outbox.send_peer(node, envelope)
        self._peers.clear()

    # ---- leadership ---------------------------------------------------------------------------------------------

    def _notice_lost_leadership(self) -> None:
        led, self._led_term = self._led_term, self._core.term if self._core.role is Role.LEADER else None
        if led is None or led == self._led_term:
            return
        self._own_batches.clear()
        self._abandon_clients(f"node {self._node} led shard {self._shard} in term {led} and leads no longer")

    def _abandon_clients(self, why: str) -> None:
        """Nobody who waits gets an answer here; who wrote has to ask elsewhere, with the same request id."""
        self._post(self._reads.abandon())
        lost = errors.LeaderLost(why)
        for waiter in self._proposals.abandon():
            self._refuse(waiter.identity, waiter.call, lost)

    def _hand_over(self) -> bool:
        """Ask the most up-to-date voter that answers to lead. False if there is none, or nothing to hand over."""
        return isinstance(self._core.transfer_leadership(), Accepted)

    def _transfer(self, body: bytes) -> None:
        """Hand over as a TransferLeader says. Raises NoSuccessor, BadTransferee or MalformedRequest."""
        try:
            target = NodeId(frames.TransferLeader.FromString(body).target)
        except DecodeError:
            raise errors.MalformedRequest("no TransferLeader") from None
        members = self._core.membership
        if not target:
            if not self._hand_over():
                raise errors.NoSuccessor
        elif target not in members.nodes():
            raise errors.BadTransferee(f"node {target} has no replica of shard {self._shard}")
        elif not members.is_voter(target):
            raise errors.BadTransferee(f"node {target} is a learner of shard {self._shard}: it cannot lead")
        else:
            self._core.transfer_leadership(target)  # to itself changes nothing, as in etcd

    def _announce(self) -> None:
        now = (self._core.term, self._core.leader)
        if now == self._announced:
            return
        self._announced = now
        log.info("leadership", shard=self._shard, node=self._node, term=now[0], leader=now[1])
        for identity in self._links:
            self._client(identity).state.CopyFrom(self._state())

    def _state(self) -> frames.ReplicaState:
        return frames.ReplicaState(
            shard=self._shard, node=self._node, term=self._core.term, leader=self._core.leader
        )

    def status(self) -> frames.ReplicaStatus:
        """What people and metrics want to know of this replica."""
        core = self._core.status()
        return frames.ReplicaStatus(
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
            no_space=self._disk_full,
            fault=self._integrity.fault or self._census.fault,
            tables=self._machine.table_status(),
            voters=sorted(core.membership.voters),
            learners=sorted(core.membership.learners),
        )

    # ---- shutting down ------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new requests, and hand leadership over if somebody can take it."""
        self._draining = True
        self._handing_over = self._hand_over()

    def drained(self) -> bool:
        """Whether nothing would be lost by stopping now: no answer is owed, and nobody is about to take over."""
        if self._proposals.waiting_count or self._reads.waiting_count:
            return False
        return self._core.role is not Role.LEADER or not self._handing_over

    # ---- disk space ---------------------------------------------------------------------------------------------

    def _stop_writing(self, error: DiskFull, ready: Ready) -> None:
        if not self._disk_full:
            log.error("the disk is full: writes are refused", shard=self._shard, reason=str(error))
        self._core.advance(ready, durable=False)
        self._disk_full = True
        self._retry_disk = False
        self._turn_refused = True
        self._hand_over()

    def _watch_disk(self) -> None:
        """Refuse writes while there is still room for what is already in flight; accept again with some margin."""
        free, least = self._store.free_bytes(), self._cluster.store.disk_free_bytes_min
        if not self._disk_full and free < least:
            log.warning("the disk is nearly full: writes are refused", shard=self._shard, free_bytes=free)
            self._disk_full = True
            self._hand_over()
        elif self._disk_full and free > 2 * least and not self._turn_refused:
            log.info("there is space again: writes are accepted", shard=self._shard, free_bytes=free)
            self._disk_full = False
        elif self._disk_full and self._core.role is Role.LEADER:
            # Nobody could take over then, or this replica was elected since.
            self._full_ticks += 1
            if self._full_ticks >= FULL_ELECTIONS * self._cluster.raft.election_ticks and self._hand_over():
                self._full_ticks = 0

    # ---- answers ------------------------------------------------------------------------------------------------

    def _client(self, identity: bytes) -> frames.Envelope:
        envelope = self._clients.get(identity)
        if envelope is None:
            envelope = self._clients[identity] = frames.Envelope()
        return envelope

    def _answer(self, identity: bytes, call: int, result: Result, cursor: int = 0) -> None:
        error, body = result.error, result.body
        answer_bytes = self._answer_bytes.get(identity, 0)
        if answer_bytes and answer_bytes + len(body) > ENVELOPE_BYTES_MAX:
            full = (identity, self._clients.pop(identity), self._attachments.pop(identity, ()))
            self._full_envelopes.append(full)
            answer_bytes = 0
        self._answer_bytes[identity] = answer_bytes + len(body)
        attachment = 0
        if len(body) >= ATTACHMENT_BYTES_MIN:
            attachments = self._attachments.setdefault(identity, [])
            attachments.append(body)
            attachment, body = len(attachments), b""
        self._client(identity).replies.add(
            call=call,
            revision=result.revision,
            term=self._core.term,
            body=body,
            attachment=attachment,
            error=0 if error is None else error.frame_code,
            detail="" if error is None else error.detail,
            cursor=cursor,
            leader=self._core.leader,
        )

    def _refuse(self, identity: bytes, call: int, error: errors.BoathouseError) -> None:
        self._answer(identity, call, Result(0, b"", error))

    def _post(self, answers: list[Answer]) -> None:
        for answer in answers:
            self._answer(*answer)

    def _flush(self) -> None:
        for full in self._full_envelopes:
            self._outbox.send_client(*full)
        for identity, envelope in self._clients.items():
            self._outbox.send_client(identity, envelope, self._attachments.get(identity, ()))
        self._full_envelopes.clear()
        self._clients.clear()
        self._attachments.clear()
        self._answer_bytes.clear()
