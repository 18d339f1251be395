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
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw
import structlog

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine.scrub import Position, Step, scrub
from shardworker.raft import NEVER_TICKS, LogIndex, NodeId, Role
from shardworker.replica.digests import Agreement, Digests, Doubt
from shardworker.replica.part import Part
from shardworker.replica.rebuild import begin_rebuild, has_peers
from shardworker.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.replica.part import ReplicaContext

SCRUB_INTERVAL_S: Final = 10
"""Rows are scrubbed in bursts this far apart: a replica that does nothing else is woken for them seldom."""

DOUBT_ELECTIONS: Final = 2
"""Election timeouts that a missing voice is waited for. Replicas that run speak within milliseconds of each other."""

log = structlog.get_logger()


class Integrity(Part):
    """What one replica knows about its own soundness. Called from the loop's thread only."""

    def __init__(
        self,
        context: ReplicaContext,
        stop_serving: Callable[[str], None],
    ) -> None:
        """stop_serving gives up what clients were promised an answer for."""
        cluster = context.cluster
        self._log = log.bind(shard=context.shard, node=context.node)
        self._node = context.node
        self._core = context.core
        self._store = context.store
        self._machine = context.machine
        self._send = context.outgoing.send_peer
        self._background = context.background
        self._stop_serving = stop_serving
        self._patience_ticks = cluster.raft.election_ticks
        self._digests = Digests(context.node, every=cluster.raft.digest_entries)
        self._told: tuple[int, int] = (0, 0)
        self._doubt: LogIndex | None = None
        self._doubt_ticks = 0
        self._in_doubt = False
        self._wrong = ""
        self._wrong_ticks = 0
        self._scrubbed = Position()
        self._scrub_rows = cluster.store.scrub_rows_per_s * SCRUB_INTERVAL_S
        self._scrub_ticks = self._ticks_to_scrub = max(1, SCRUB_INTERVAL_S * 1000 // cluster.raft.tick_ms)

    # ---- what follows from it --------------------------------------------------------------------------------------

    @property
    def fault(self) -> errors.BoathouseError | None:
        if self._wrong:
            return errors.Corrupt(self._wrong)
        if self._in_doubt:
            return errors.Corrupt(
                f"the replicas differ since index {self._doubt} or before and no majority agrees: all have stopped "
                "serving until every replica runs and is compared"
            )
        return None

    @property
    def votes(self) -> bool:
        return not self._wrong

    # ---- what happens -------------------------------------------------------------------------------------------

    def applied(self, index: LogIndex) -> None:
        """The entry at index was applied, in the open turn."""
        if self._digests.is_due(index):
            self._digests.note(index, self._machine.checksum)

    def installed(self) -> None:
        self._digests.forget_own()

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        for digest in envelope.digests:
            self._handle_digest(digest)
        if envelope.HasField("verdict"):
            self._handle_verdict(envelope.verdict)

    def _handle_digest(self, digest: frames.Digest) -> None:
        """A replica tells its checksum."""
        self._digests.hear(NodeId(digest.node), LogIndex(digest.index), digest.checksum)

    def _handle_verdict(self, verdict: frames.DigestVerdict) -> None:
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

    def ticks_until_action(self) -> int:
        return 1 if self._wrong or self._doubt is not None else NEVER_TICKS

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
            self._log.error("this replica stops serving", reason=str(self.fault))

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


def _differs(index: LogIndex) -> str:
    return f"this replica differs from the majority at index {index}"
