"""A replica that starts on an empty disk asks its peers what they hold before it does anything.

Two stories look alike from inside: the shard is new, or this replica has lost its disk. In the second it may have
voted, and acknowledged entries, without knowing. If it took part in an election as if it were new, somebody could win
who lacks what it once acknowledged, and that would be lost for the whole shard. So it is silent to the consensus, and
asks the voters until one of these is known:

- Nobody holds anything: no voter has ever begun, or all have answered and none has an entry. The shard begins, with the
  members of the cluster file. If a majority has never begun and the others were silent for a while, it begins as well.
- Somebody has begun. It may have voted, and may have been asked for votes, even if its log is empty; so its word is one
  of those that count. Once enough of them have told their term and last entry, this replica is rebuilt from the leader
  (rebuild.py), as if it had held all that any of them holds and had voted in the newest of their terms. What it may
  have acknowledged or voted for, and what a majority made of that, at least one of those asked knows of: with n voters,
  of which a majority is m, m - 1 others hold the entry or know the term, so n - m + 1 others that have begun include
  one of them. If none of those holds an entry, nothing that this replica acknowledged was ever relied on: it begins,
  and votes for nobody in the terms that they know.

A voter that began while this replica was already asking had promised nothing before: it counts as one that never began.
Otherwise the second of two voters of a new shard could not follow the first while the third is away. A voter remembers
those whose word it began by (`beside`).

A shard whose members have changed since is not the one that the cluster file founded. A replica that hears so, or that
no file named, is told by a leader who belongs to it: with a snapshot. If that says that this replica votes, it has lost
its disk, and asks those that the snapshot names, before it takes the snapshot; if it says that it learns, it has
promised nothing. It votes for nobody before.

What remains: a voter that has never begun, and one whose disk was lost, can begin a shard anew while the only replica
that holds its data is away. That takes a majority that has never begun, or has forgotten it, and a silent third.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.raft import NEVER_TICKS, NO_NODE, HardState, LogIndex, NodeId, Term
from shardworker.replica.part import Part
from shardworker.replica.rebuild import begin_rebuild
from shardworker.store import DiskFull, LogEnd, Promises

if TYPE_CHECKING:
    from collections.abc import Collection

    from shardworker.raft import Membership
    from shardworker.replica.part import ReplicaContext

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a voter said of itself."""

    last: LogEnd
    """The last entry it holds, or held before it was rebuilt."""
    term: Term
    waits: bool
    """It starts on an empty disk itself."""
    voters: frozenset[NodeId]
    """By whose votes it goes; empty if it does not know."""
    beside: bool = False
    """It began while the asking replica was already waiting, and knew that."""

    @property
    def has_begun(self) -> bool:
        """Whether it may have promised something before the asking replica started."""
        return not self.beside and (not self.waits or bool(self.voters) or self.term > 0)


@dataclass(frozen=True, slots=True)
class Begin:
    """Nothing that this replica may have acknowledged was relied on: it is one of the shard's first members."""

    term: Term
    """It votes for nobody in this term, nor in earlier ones: it may have done so."""


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The shard has data, and this replica may have had it up to this entry."""

    until: LogEnd
    term: Term


@dataclass(frozen=True, slots=True)
class BeTold:
    """The shard's members are others by now: a leader tells who."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not enough is known."""

    reason: str
    """For people."""


def judge(
    voters: frozenset[NodeId], answers: dict[NodeId, Answer], *, patience_over: bool
) -> Begin | Rebuild | BeTold | Wait:
    """What a voter on an empty disk is to do, given the answers of the others.

    patience_over: whether those that are silent were given time to speak."""
    majority = len(voters) // 2 + 1
    begun = [answer for answer in answers.values() if answer.has_begun]
    has_data = any(answer.last.index for answer in answers.values())
    newest = max((answer.term for answer in answers.values()), default=Term(0))
    if any(answer.voters not in (voters, frozenset()) for answer in answers.values()):
        return BeTold()
    if not has_data and len(answers) == len(voters) - 1:
        return Begin(newest)
    if not has_data and not begun:
        if len(answers) + 1 >= majority and patience_over:
            return Begin(newest)
        return Wait(f"{len(answers) + 1} of {len(voters)} voters are known to be new")
    settled = [answer for answer in answers.values() if not answer.waits] if has_data else begun
    needed = len(voters) - majority + 1
    if len(settled) < needed:
        state = "has data" if has_data else "has begun"
        return Wait(
            f"the shard {state}, and {len(settled)} of {needed} other voters needed have told what they hold"
        )
    if not has_data:
        return Begin(newest)
    return Rebuild(max(answer.last for answer in settled), Term(max(answer.term for answer in settled)))


class Census(Part):
    """Asks for one replica that starts on an empty disk, and answers for every one. Called from the loop's thread."""

    def __init__(
        self,
        context: ReplicaContext,
        founders: Membership | None,
        life: int,
    ) -> None:
        """founders: whom a new shard begins with; None for a replica that is told its membership by a leader. life:
        tells this process's questions from those of the process before it."""
        self._node = node = context.node
        self._core = context.core
        self._store = store = context.store
        self._founders = founders
        self._voters = frozenset[NodeId]() if founders is None else founders.voters
        """Whose word counts while it waits."""
        self._life = life
        self._send = context.outgoing.send_peer
        self._patience_ticks = 2 * context.cluster.raft.election_ticks
        self._ticks = 0
        self._answers: dict[NodeId, Answer] = {}
        self._asking_lives: dict[NodeId, int] = {}
        """Of the voters that were waiting when they last answered: which of their processes did."""
        self._began_beside: dict[NodeId, int] = {}
        """The same, of those by whose word this replica has begun."""
        self._reason = "no other voter has answered"
        is_new = not store.membership.nodes() and store.rebuild is None
        # Who had no vote has promised nothing: a leader tells it everything.
        self.waits = is_new and founders is not None and node in founders.voters
        """Whether this replica does not know yet what to do: it hears and says nothing else."""
        self._has_to_be_told = is_new and not self.waits

    @property
    def fault(self) -> errors.BoathouseError | None:
        """Others may know what this replica has lost."""
        if not self.waits:
            return None
        return errors.NotLeader(
            f"its disk is empty, and it waits to hear what the others hold: {self._reason}"
        )

    @property
    def votes(self) -> bool:
        return not self.waits and bool(self._core.membership.nodes())

    def ticks_until_action(self) -> int:
        return 1 if self.waits else NEVER_TICKS

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if envelope.HasField("census_question"):
            self._handle_question(envelope.census_question)
        if envelope.HasField("census_answer"):
            self._handle_answer(envelope.census_answer)

    def tick(self) -> None:
        """One tick of the Raft clock has passed: ask again whom the last question may not have reached."""
        if self.waits:
            self._ticks += 1
            self._ask(self._others())

    def _handle_question(self, question: frames.CensusQuestion) -> None:
        """Tell a peer what this replica holds."""
        mark = self._store.rebuild
        last = LogEnd(self._core.log.last_term, self._core.log.last_index)
        if mark is not None:
            last = max(last, mark.until)
        answer = frames.CensusAnswer(
            sender=self._node,
            life=question.life,
            last_index=last.index,
            last_term=last.term,
            term=self._core.term,
            waits=self.waits,
            voters=sorted(self._core.membership.voters),
            sender_life=self._life,
            beside=self._began_beside.get(NodeId(question.sender)) == question.life,
        )
        self._send(NodeId(question.sender), frames.Envelope(census_answer=answer))

    def _handle_answer(self, answer: frames.CensusAnswer) -> None:
        """A peer told what it holds."""
        sender = NodeId(answer.sender)
        if not self.waits or answer.life != self._life or sender not in self._others():
            return
        before = self._answers.get(sender)
        # An older version does not tell the last entry's term, which is not above its own.
        last_term = answer.last_term or (answer.term if answer.last_index else 0)
        self._answers[sender] = Answer(
            LogEnd(Term(last_term), LogIndex(answer.last_index)),
            Term(answer.term),
            answer.waits,
            frozenset(map(NodeId, answer.voters)),
            # Seen with our own eyes, or told by it.
            beside=answer.beside or (before is not None and not before.has_begun),
        )
        if answer.waits:
            self._asking_lives[sender] = answer.sender_life
        else:
            self._asking_lives.pop(sender, None)

    def end_turn(self) -> None:
        """Act on what is known. Raises RebuildBegun."""
        if not self.waits:
            return
        patience_over = self._ticks >= self._patience_ticks
        match judge(self._voters, self._answers, patience_over=patience_over):
            case Begin(term):
                self._begin(self._voters, term)
            case BeTold() if self._has_to_be_told:
                self._reason = "the others do not agree on who votes"
            case BeTold():
                self.waits, self._has_to_be_told = False, True
            case Rebuild(until, term):
                reason = "its disk was empty though its shard has data"
                # It votes for nobody else in that term.
                begin_rebuild(self._store, reason, Promises(term, self._node, until))
            case Wait(reason):
                self._reason = reason

    def may_install(self, membership: Membership) -> bool:
        """Whether this replica may become what a snapshot of the leader's holds. If not, it asks first what it has
        promised, to those whom the snapshot names."""
        if self._has_to_be_told and not self.waits and self._node in membership.voters:
            self._voters, self._answers, self.waits = membership.voters, {}, True
        return not self.waits

    def installed(self) -> None:
        self._has_to_be_told = False

    def _begin(self, voters: frozenset[NodeId], term: Term) -> None:
        if self._founders is None or voters != self._founders.voters:
            self._reason = "the others hold nothing"  # though one of them leads: it is about to tell more
            return
        founders = self._founders
        promised = HardState(term, self._node if term else NO_NODE, LogIndex(0))
        try:
            with self._store.turn(sync=True) as turn:
                turn.append(promised, ())
                turn.set_membership(founders)
        except DiskFull as error:
            self._reason = f"the disk is full: {error}"
            return
        self._core.begin(founders, promised)
        self._began_beside = self._asking_lives
        self.waits = False

    def _others(self) -> frozenset[NodeId]:
        return self._voters - {self._node}

    def _ask(self, nodes: Collection[NodeId]) -> None:
        for node in sorted(nodes):
            question = frames.CensusQuestion(sender=self._node, life=self._life)
            self._send(node, frames.Envelope(census_question=question))
