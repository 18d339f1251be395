"""One core on the bench: put it into a state, hand it a message, look at what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft import (
    NO_NODE,
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    Membership,
    Message,
    MessageKind,
    NodeId,
    Term,
)
from tests.unit.raft.replica import Disk, Replica, members, settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardworker.raft import Raft, Settings, SnapshotMeta


def entries_of(terms: Sequence[int], *, first: int = 1) -> tuple[Entry, ...]:
    """A log written as the terms of its entries, as in the paper's figures."""
    return tuple(
        Entry(Term(term), LogIndex(first + offset), EntryKind.COMMANDS, b"%d" % (first + offset))
        for offset, term in enumerate(terms)
    )


def replica_with(
    terms: Sequence[int] = (),
    *,
    node: int = 1,
    term: int | None = None,
    vote: int = 0,
    commit: int = 0,
    membership: Membership | None = None,
    settings: Settings | None = None,
) -> Replica:
    """A replica that was restarted with this log; its term is its last entry's unless given."""
    disk = Disk(membership=membership or members(1, 2, 3))
    disk.log.append(entries_of(terms))
    at = term if term is not None else (terms[-1] if terms else 0)
    disk.hard_state = HardState(Term(at), NodeId(vote), LogIndex(commit))
    return Replica(settings or settings_of(node), disk.membership, disk=disk)


def settle(replica: Replica) -> list[Message]:
    """Turns until there is nothing left to do; everything that was sent."""
    sent: list[Message] = []
    while replica.raft.has_ready():
        sent += replica.turn()[1]
    return sent


def give(replica: Replica, *messages: Message) -> list[Message]:
    """Step messages, then settle."""
    for message in messages:
        replica.raft.step(message)
    return settle(replica)


def message(
    kind: MessageKind,
    sender: int,
    term: int,
    *,
    to: int = 1,
    index: int = 0,
    log_term: int = 0,
    entries: tuple[Entry, ...] = (),
    commit: int = 0,
    reject: bool = False,
    hint: int = 0,
    context: int = 0,
    snapshot: SnapshotMeta | None = None,
    forced: bool = False,
) -> Message:
    return Message(
        kind,
        NodeId(to),
        NodeId(sender),
        Term(term),
        log_term=Term(log_term),
        index=LogIndex(index),
        entries=entries,
        commit=LogIndex(commit),
        reject=reject,
        reject_hint=LogIndex(hint),
        context=context,
        snapshot=snapshot,
        forced=forced,
    )


def lead(replica: Replica, *, acknowledge: bool = True) -> Raft:
    """Win an election against peers 2 and 3, by their messages alone."""
    raft = replica.raft
    raft.campaign()
    settle(replica)
    voters = sorted((raft.membership.voters | raft.membership.voters_outgoing) - {raft.node})
    for peer in voters:
        give(replica, message(MessageKind.PRE_VOTE_REPLY, peer, raft.term + 1))
    for peer in voters:
        give(replica, message(MessageKind.VOTE_REPLY, peer, raft.term))
    assert raft.leader == raft.node
    if acknowledge:
        for peer in voters:
            acknowledge_all(replica, peer)
    return raft


def acknowledge_all(replica: Replica, peer: int, index: int | None = None) -> list[Message]:
    """The peer has the leader's log (up to index)."""
    raft = replica.raft
    at = raft.log.last_index if index is None else index
    return give(replica, message(MessageKind.APPEND_REPLY, peer, raft.term, index=at))


def of_kind(messages: Sequence[Message], kind: MessageKind) -> list[Message]:
    return [one for one in messages if one.kind is kind]


def terms_of(replica: Replica) -> list[int]:
    log = replica.raft.log
    return [entry.term for entry in log.entries(LogIndex(1), LogIndex(log.last_index + 1), 1 << 40)]


NOBODY = NO_NODE
