"""A replica whose tables differ from the others' stops serving and is rebuilt from the leader.

Every replica notes a checksum after every `digest_entries` entries (digests.py); followers send theirs to the leader,
which compares. Then:

- One differs from a majority. It is told, answers everything with Corrupt from that moment on, and begins to rebuild
  itself. If it is the leader, it first hands over to one of the majority.
- Voters differ and no majority agrees within DOUBT_ELECTIONS election timeouts, say because the third replica is away.
  Nobody can know who is right, so all stop serving; the consensus goes on. As soon as a majority agrees, because the
  third has caught up and spoken, the doubt is over for those in it. A wrong answer would be worse than none.
- A lone voter has nobody to be compared with.

To rebuild is to start again from nothing but identity, term and vote, in the next process (`ReplicaStore.begin_rebuild`
writes it, and then this one ends). A replica without a membership is sent a snapshot by the leader. Until it has
applied everything up to the last entry it had before, it neither serves nor takes part in elections: it has
acknowledged entries that it lost, and if it voted before it has them again, somebody who never had them could win.
It keeps its term and vote, so it votes for nobody twice; and it acknowledges only what it has, so commits stay true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.digests import Agreement, Digests, Doubt
from shardworker.raft import LogIndex, MessageKind, NodeId, Role
from shardworker.store import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig
    from shardworker.machine import StateMachine
    from shardworker.raft import Raft
    from shardworker.store import ReplicaStore

DOUBT_ELECTIONS: Final = 2
"""Election timeouts that a missing voice is waited for. Replicas that run speak within milliseconds of each other."""

_ELECTIONS: Final = frozenset({MessageKind.VOTE, MessageKind.PRE_VOTE, MessageKind.TIMEOUT_NOW})

log = structlog.get_logger()


class RebuildBegun(Exception):
    """The replica's folder holds a replica that waits to be rebuilt; this process has to end."""


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

    @property
    def is_wrong(self) -> bool:
        """Whether this replica's tables are known to be wrong: no answer may come from them any more."""
        return bool(self._wrong)

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
            self._find_wrong(index)

    def tick(self) -> None:
        """One tick of the Raft clock has passed."""
        self._wrong_ticks += bool(self._wrong)
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
                self._find_wrong(finding.index, finding.majority)
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

    def _find_wrong(self, index: LogIndex, majority: frozenset[NodeId] = frozenset()) -> None:
        self._wrong = f"this replica differs from the majority at index {index}"
        self._log.error("this replica stops serving", reason=self._wrong)
        self._stop_serving(self._wrong)
        if self._core.role is Role.LEADER:
            progress = self._core.status().progress
            sound = [(progress[node].match, -node) for node in majority if node in progress]
            if sound:
                self._core.transfer_leadership(NodeId(-max(sound)[1]))

    def _leave(self) -> None:
        """Once somebody else leads, or an election timeout has passed without: rebuild."""
        if self._core.role is Role.LEADER and self._wrong_ticks <= self._patience_ticks:
            return
        self._store.begin_rebuild(self._wrong)
        raise RebuildBegun(f"{self._wrong}; it starts again from nothing, and is rebuilt from the leader")

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
