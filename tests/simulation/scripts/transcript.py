"""How a transcript shows what replicas do: one line per fact, stable from run to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft import (
    NO_NODE,
    Accepted,
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    Raft,
    Ready,
    Rejected,
    Role,
    SnapshotMeta,
    StepKind,
    decode_change,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEP_WORDS = {StepKind.ADD_VOTER: "voter", StepKind.ADD_LEARNER: "learner", StepKind.REMOVE: "remove"}


def entry(value: Entry) -> str:
    """term/index and what is in it."""
    if value.kind is EntryKind.MEMBERSHIP:
        change = decode_change(value.data)
        steps = " ".join(f"{_STEP_WORDS[step.kind]}={step.node}" for step in change.steps) or "leave joint"
        return f"{value.term}/{value.index} <{steps}>"
    return f'{value.term}/{value.index} "{value.data.decode()}"'


def entries(values: Iterable[Entry]) -> str:
    return ", ".join(entry(value) for value in values)


def membership(value: Membership) -> str:
    parts = [f"voters={_numbers(value.voters)}"]
    if value.voters_outgoing:
        parts.append(f"outgoing={_numbers(value.voters_outgoing)}")
    if value.learners:
        parts.append(f"learners={_numbers(value.learners)}")
    if value.learners_next:
        parts.append(f"learners_next={_numbers(value.learners_next)}")
    if value.auto_leave:
        parts.append("auto_leave")
    return " ".join(parts)


def _numbers(nodes: Iterable[int]) -> str:
    return ",".join(str(node) for node in sorted(nodes))


def snapshot(meta: SnapshotMeta) -> str:
    return f"snapshot {meta.term}/{meta.index} ({membership(meta.membership)})"


def message(value: Message, *, early: bool = False) -> str:
    """sender->receiver; => if it left before the sender's own sync."""
    arrow = "=>" if early else "->"
    parts = [f"{value.sender}{arrow}{value.to} {value.kind.name} term={value.term}"]
    match value.kind:
        case MessageKind.VOTE | MessageKind.PRE_VOTE:
            parts.append(f"last={value.log_term}/{value.index}")
        case MessageKind.APPEND:
            parts.append(f"after={value.log_term}/{value.index} commit={value.commit}")
            if value.entries:
                parts.append(f"[{entries(value.entries)}]")
        case MessageKind.APPEND_REPLY if value.reject:
            parts.append(f"rejected={value.index} hint={value.log_term}/{value.reject_hint}")
        case MessageKind.APPEND_REPLY:
            parts.append(f"match={value.index}")
        case MessageKind.HEARTBEAT:
            parts.append(f"commit={value.commit}")
        case MessageKind.VOTE_REPLY | MessageKind.PRE_VOTE_REPLY:
            parts.append("refused" if value.reject else "granted")
        case MessageKind.SNAPSHOT if value.snapshot is not None:
            parts.append(snapshot(value.snapshot))
    if value.context and value.kind is MessageKind.APPEND:
        parts.append("no reply")
    elif value.context:
        parts.append(f"round={value.context}")
    if value.forced:
        parts.append("forced")
    return " ".join(parts)


def ready(node: int, value: Ready) -> Iterable[str]:
    """What a turn makes durable, applies and answers; messages are shown as they leave."""
    sync = " (sync)" if value.must_sync else ""
    saved = []
    if value.snapshot is not None:
        saved.append(f"install {snapshot(value.snapshot)}")
    if value.hard_state is not None:
        state = value.hard_state
        saved.append(f"term={state.term} vote={state.vote} commit={state.commit}")
    if value.entries:
        saved.append(f"append {entries(value.entries)}")
    if saved:
        yield f"{node} saves {'; '.join(saved)}{sync}"
    if value.committed:
        yield f"{node} applies {entries(value.committed)}"
    yield from reads(node, value)


def reads(node: int, value: Ready) -> Iterable[str]:
    for read in value.reads:
        yield f"{node} may read {read.context} at {read.index}"


def standing(raft: Raft) -> str:
    """Role, term and leader, in a sentence."""
    if raft.role is Role.LEADER:
        return f"{raft.node} leads term {raft.term}"
    if raft.role is not Role.FOLLOWER:
        return f"{raft.node} is {raft.role.value} in term {raft.term}"
    whom = f"follows {raft.leader}" if raft.leader != NO_NODE else "follows nobody"
    return f"{raft.node} {whom} in term {raft.term}"


def answer(value: Accepted | Rejected) -> str:
    if isinstance(value, Accepted):
        return f"accepted at {value.term}/{value.index}"
    parts = [f"rejected: {value.reason.value}"]
    if value.detail:
        parts.append(f"({value.detail})")
    if value.leader:
        parts.append(f"ask {value.leader}")
    return " ".join(parts)
