"""What no correct peer sends: asked of each message before the rules see it.

A peer may run another version, have a bug of its own, or be no peer at all. Its message must not end this process, nor
reach a rule that relies on what is checked here. The log slice of an append is looked at whole: its entries follow one
another and their predecessor, and their terms never fall and are never newer than the sender's.

Whether a message contradicts what this replica knows, core.py asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker.raft.membership import decode_change
from shardworker.raft.types import NO_NODE, EntryKind, MessageKind

if TYPE_CHECKING:
    from shardworker.raft.types import Message, NodeId

NUMBER_MAX: Final = 1 << 62
"""Of a term or an index: far above what a group can reach, and still a number to every storage."""

FROM_LEADER: Final = (MessageKind.APPEND, MessageKind.HEARTBEAT, MessageKind.SNAPSHOT)
_NEEDS_TERM: Final = (*FROM_LEADER, MessageKind.VOTE, MessageKind.PRE_VOTE, MessageKind.TIMEOUT_NOW)


def flaw(message: Message, node: NodeId) -> str:
    """Why no correct peer can have sent this to `node`; empty if one can."""
    kind = message.kind
    if message.sender in (node, NO_NODE):
        return f"node {message.sender} is no peer"
    numbers = (message.term, message.log_term, message.index, message.commit, message.reject_hint)
    if not 0 <= min(numbers) <= max(numbers) <= NUMBER_MAX:
        return "a term or an index is out of range"
    if kind in _NEEDS_TERM and not message.term:
        return f"{kind.name} without a term"
    if message.entries and kind is not MessageKind.APPEND:
        return f"{kind.name} with entries"
    if kind in (MessageKind.APPEND, MessageKind.VOTE, MessageKind.PRE_VOTE):
        if message.log_term > message.term:
            return f"a log of term {message.log_term} in a message of term {message.term}"
        if bool(message.index) != bool(message.log_term):
            return f"no entry can be at index {message.index} with term {message.log_term}"
    if kind is MessageKind.APPEND:
        return _flaw_of_entries(message)
    if kind is MessageKind.APPEND_REPLY and message.reject and message.reject_hint > message.index:
        return f"a hint at {message.reject_hint} for an append at {message.index}"
    if kind is MessageKind.SNAPSHOT:
        meta = message.snapshot
        if meta is None or not 0 < meta.index <= NUMBER_MAX or not 0 < meta.term <= message.term:
            return "a snapshot of nothing, or of another term"
        if not meta.membership.voters:
            return "a snapshot without voters"
    return ""


def _flaw_of_entries(message: Message) -> str:
    index, term = message.index, message.log_term
    for entry in message.entries:
        if entry.index != index + 1:
            return f"an entry at {entry.index} follows one at {index}"
        if not max(term, 1) <= entry.term <= message.term:
            return f"an entry of term {entry.term} follows one of term {term}, in a message of term {message.term}"
        if entry.kind is EntryKind.MEMBERSHIP:
            try:
                decode_change(entry.data)
            except ValueError as error:
                return f"entry {entry.index} cannot be read: {error}"
        index, term = entry.index, entry.term
    return "an entry's index is out of range" if index > NUMBER_MAX else ""
