"""A replica whose tables differ from the others' stops serving and is rebuilt from the leader.

Every replica notes a checksum after every `digest_entries` entries (digests.py); followers send theirs to the leader,
which compares. Then:

- One differs from a majority. It is told, answers everything with Corrupt from that moment on, and begins to rebuild
  itself. If it is the leader, it first hands over to one of the majority.
- Voters differ and no majority agrees within DOUBT_ELECTIONS election timeouts, say because the third replica is away.
  Nobody can know who is right, so all stop serving; the consensus goes on. As soon as a majority agrees, because the
  third has caught up and spoken, the doubt is over for those in it. A wrong answer would be worse than none.
- A lone voter has nobody to be compared with.

A scrub (machine/scrub.py) reads stored rows in the background, because equal checksums of changes say nothing of what a
disk did to them afterwards. A replica that finds a damaged row, in a scrub or while it serves, is as wrong as one that
is outvoted. A lone one only stops serving: what is left of its data is for a person to decide.

To rebuild is to start again from nothing but identity, term and vote, in the next process (`ReplicaStore.begin_rebuild`
writes it, and then this one ends). A replica without a membership is sent a snapshot by the leader. Until it has
applied everything up to the last entry it had before, it neither serves nor takes part in elections: it has
acknowledged entries that it lost, and if it voted before it has them again, somebody who never had them could win.
It keeps its term and vote, so it votes for nobody twice; and it acknowledges only what it has, so commits stay true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import apsw
import structlog

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine.scrub import Position, Step, scrub
from shardworker.raft import LogIndex, MessageKind, NodeId, Role
from shardworker.replica.digests import Agreement, Digests, Doubt
from shardworker.store import DiskFull, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig
    from shardworker.background import Background
    from shardworker.machine import StateMachine
    from shardworker.raft import Raft
    from shardworker.store import ReplicaStore

SCRUB_INTERVAL_S: Final = 10
"""Rows are scrubbed in bursts this far apart: a replica that does nothing else is woken for them seldom."""

DOUBT_ELECTIONS: Final = 2
"""Election timeouts that a missing voice is waited for. Replicas that run speak within milliseconds of each other."""

_ELECTIONS: Final = frozenset({MessageKind.VOTE, MessageKind.PRE_VOTE, MessageKind.TIMEOUT_NOW})

log = structlog.get_logger()


class RebuildBegun(Exception):
    """The replica's folder holds a replica that waits to be rebuilt; this process has to end."""


def has_peers(store: ReplicaStore) -> bool:
    """Whether there is anybody to rebuild this replica from."""
    return bool({*store.membership.nodes()} - {NodeId(store.identity.node)})


def begin_rebuild(store: ReplicaStore, reason: str) -> NoReturn:
    """Start over. What the store has in memory is what this replica has promised, whatever became of the disk."""
    store.begin_rebuild(reason)
    raise RebuildBegun(f"{reason}; this replica starts again from nothing, and is rebuilt from the leader")


class Integrity:
    """What one replica knows about its own soundness. Called from the loop's thread only."""

    def __init__(
        self,
        *,
        shard: int,
        node: NodeId,
        core: Raft,
        store: ReplicaStore,
        machine: StateMachine,
        send: Callable[[NodeId, frames.Envelope], None],
        stop_serving: Callable[[str], None],
        background: Background,
        cluster: ClusterConfig,
    ) -> None:
        """stop_serving gives up what clients were promised an answer for."""
        self._log = log.bind(shard=shard, node=node)
        self._node = node
        self._core = core
        self._store = store
        self._machine = machine
        self._send = send
        self._stop_serving = stop_serving
        self._patience_ticks = cluster.raft.election_ticks
        self._digests = Digests(node, every=cluster.raft.digest_entries)
        self._told: tuple[int, int] = (0, 0)
        self._doubt: LogIndex | None = None
        self._doubt_ticks = 0
        self._in_doubt = False
        self._wrong = ""
        self._wrong_ticks = 0
        self._background = background
        self._scrubbed = Position()
        self._scrub_rows = cluster.store.scrub_rows_per_s * SCRUB_INTERVAL_S
        self._scrub_ticks = self._ticks_to_scrub = max(1, SCRUB_INTERVAL_S * 1000 // cluster.raft.tick_ms)
        if store.rebuild is not None:
            self._log.warning("this replica is being rebuilt", until=store.rebuild.until)

    # ---- what follows from it --------------------------------------------------------------------------------------

    @property
    def fault(self) -> str:
        """Why this replica does not serve; empty if it does."""
        if self._wrong:
            return self._wrong
        if self._store.rebuild is not None:
            mark = self._store.rebuild
            return (
                f"{mark.reason}; it is being rebuilt from the leader and serves again once it has applied "
                f"index {mark.until} (now {self._store.applied_index})"
            )
        if self._in_doubt:
            return (
                f"the replicas differ since index {self._doubt} or before and no majority agrees: all have stopped "
                "serving until every replica runs and is compared"
            )
        return ""

    def check_serves(self) -> None:
        """Raises Corrupt if nobody may be answered from this replica."""
        if self._wrong or self._in_doubt or self._store.rebuild is not None:
            raise errors.Corrupt(self.fault)

    @property
    def votes(self) -> bool:
        """Whether this replica takes part in elections."""
        return self._store.rebuild is None and not self._wrong

    def hears(self, kind: MessageKind) -> bool:
        """Whether the core may see a message of this kind."""
        return kind not in _ELECTIONS or self.votes

    # ---- what happens -------------------------------------------------------------------------------------------

    def applied(self, index: LogIndex) -> None:
        """The entry at index was applied, in the open turn."""
        if self._digests.is_due(index):
            self._digests.note(index, self._machine.checksum)

    def installed(self) -> None:
        """A snapshot replaced the tables."""
        self._digests.forget_own()

    def handle_digest(self, digest: frames.Digest) -> None:
        """A replica tells its checksum."""
        self._digests.hear(NodeId(digest.node), LogIndex(digest.index), digest.checksum)

    def handle_verdict(self, verdict: frames.DigestVerdict) -> None:
        """The leader has compared."""
        if verdict.term != self._core.term or verdict.sender != self._core.leader:
            return
        index = LogIndex(verdict.index)
        if verdict.outcome == frames.DigestVerdict.DOUBT:
            self._begin_doubt(index)
        elif verdict.outcome == frames.DigestVerdict.AGREED:
            self._end_doubt()
        elif self._digests.own(index) not in (None, verdict.checksum):
            self._find_wrong(_differs(index))

    def tick(self) -> None:
        """One tick of the Raft clock has passed."""
        self._wrong_ticks += bool(self._wrong)
        self._ticks_to_scrub -= 1
        if self._ticks_to_scrub <= 0 and self._scrub_rows and not self._wrong:
            self._ticks_to_scrub = self._scrub_ticks
            self._scrub()
        if self._core.role is not Role.LEADER or self._doubt is None:
            return
        self._doubt_ticks += 1
        if self._doubt_ticks % (DOUBT_ELECTIONS * self._patience_ticks) == 0:
            self._begin_doubt(self._doubt)
            self._tell_all(frames.DigestVerdict.DOUBT, self._doubt)

    @property
    def needs_ticks(self) -> bool:
        """Whether the next tick matters."""
        return bool(self._wrong) or self._doubt is not None

    def end_turn(self) -> None:
        """Compare, tell, and draw the consequences. Raises RebuildBegun."""
        if self._wrong:
            self._leave()
            return
        self._notice_leader()
        if self._core.role is Role.LEADER:
            for finding in self._digests.findings(self._core.membership.voters):
                self._judge(finding)
        else:
            self._tell_leader()
        self._finish_rebuild()

    def _notice_leader(self) -> None:
        now = (self._core.term, self._core.leader)
        if now == self._told:
            return
        self._told = now
        self._digests.send_all_again()
        self._end_doubt()  # the new leader compares for itself

    def _tell_leader(self) -> None:
        leader = self._core.leader
        if not leader:
            return
        unsent = self._digests.take_unsent()
        if unsent:
            digests = [
                frames.Digest(node=self._node, index=index, checksum=checksum)
                for index, checksum in unsent.items()
            ]
            self._send(leader, frames.Envelope(digests=digests))

    # ---- the scrub ---------------------------------------------------------------------------------------------

    def _scrub(self) -> None:
        generation, position = self._store.generation, self._scrubbed

        def step() -> Step:
            try:
                connection = self._store.reader()
            except StoreError:
                return Step(position, 0)  # whoever needs the disk more will say so; the next interval comes
            except errors.Corrupt as error:
                return Step(position, 0, str(error))
            try:
                return scrub(connection, position, self._scrub_rows)
            except errors.Corrupt as error:
                return Step(position, 0, str(error))
            except apsw.CorruptError as error:
                return Step(position, 0, f"SQLite found a damaged page: {error}")
            finally:
                self._store.close_reader(connection)

        def done(step: Step) -> None:
            self._scrubbed = step.next
            if step.problem and self._store.generation == generation:
                self._find_wrong(step.problem)

        try:
            self._background.submit(step, done)
        except errors.QueueFull:
            pass  # busy with what clients wait for; the next interval comes

    # ---- the leader's part -----------------------------------------------------------------------------------------

    def _judge(self, finding: Agreement | Doubt) -> None:
        if isinstance(finding, Doubt):
            if self._doubt is None:
                self._doubt, self._doubt_ticks = finding.index, 0
            return
        if self._doubt is not None and finding.index >= self._doubt:
            if self._in_doubt:
                self._tell_all(frames.DigestVerdict.AGREED, finding.index, finding.odd)
            self._end_doubt()
        for node in sorted(finding.odd):
            if node == self._node:
                self._find_wrong(_differs(finding.index), finding.majority)
            else:
                self._log.error("a replica differs from the majority", peer=node, index=finding.index)
                self._tell(node, frames.DigestVerdict.DIFFERS, finding.index, finding.checksum)

    def _tell_all(
        self,
        outcome: frames.DigestVerdict.Outcome.ValueType,
        index: LogIndex,
        but: frozenset[NodeId] = frozenset(),
    ) -> None:
        for node in self._core.membership.nodes():
            if node != self._node and node not in but:
                self._tell(node, outcome, index)

    def _tell(
        self,
        node: NodeId,
        outcome: frames.DigestVerdict.Outcome.ValueType,
        index: LogIndex,
        checksum: int = 0,
    ) -> None:
        verdict = frames.DigestVerdict(
            sender=self._node, term=self._core.term, outcome=outcome, index=index, checksum=checksum
        )
        self._send(node, frames.Envelope(verdict=verdict))

    # ---- consequences -------------------------------------------------------------------------------------------

    def _begin_doubt(self, index: LogIndex) -> None:
        self._doubt = index
        if not self._in_doubt:
            self._in_doubt = True
            self._log.error("this replica stops serving", reason=self.fault)

    def _end_doubt(self) -> None:
        if self._in_doubt:
            self._log.warning("a majority agrees again, this replica serves")
        self._doubt, self._in_doubt = None, False

    def _find_wrong(self, reason: str, sound: frozenset[NodeId] = frozenset()) -> None:
        """sound: who may take over, if anybody in particular."""
        if self._wrong:
            return
        self._wrong = reason
        self._log.error("this replica stops serving", reason=self._wrong)
        self._stop_serving(self._wrong)
        if self._core.role is Role.LEADER:
            progress = self._core.status().progress
            heirs = [(progress[node].match, -node) for node in sound if node in progress]
            self._core.transfer_leadership(NodeId(-max(heirs)[1]) if heirs else None)

    def _leave(self) -> None:
        """Once somebody else leads, or an election timeout has passed without: rebuild."""
        if not has_peers(self._store):
            return
        if self._core.role is Role.LEADER and self._wrong_ticks <= self._patience_ticks:
            return
        begin_rebuild(self._store, self._wrong)

    def _finish_rebuild(self) -> None:
        mark = self._store.rebuild
        if mark is None or self._store.applied_index < mark.until:
            return
        try:
            with self._store.turn(sync=True) as turn:
                turn.end_rebuild()
        except DiskFull as error:
            self._log.warning("the rebuild cannot be ended yet", reason=str(error))
            return
        self._log.info("this replica is rebuilt and serves again", index=mark.until)


def _differs(index: LogIndex) -> str:
    return f"this replica differs from the majority at index {index}"
