"""What is to be asked of a table's two shards until it is in the other one: pure. DESIGN.md has the protocol.

    depart, arrive --parts, until the copy is nearly level--> fence --last parts--> the target serves --leave--> done
    cancel the arrival --> cancel the departure --> done

Everything is asked from the beginning whenever a mover comes, and every step that was done is answered as done: so a
mover needs no memory, may die anywhere, and does no harm beside another one.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, NamedTuple

from proto import errors
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from proto.catalog import TableMove
    from proto.ids import ShardId

LEVEL_CHANGES: Final = 200
LEVEL_BYTES: Final = 64 << 10
"""A part of less is all that there was, of a source whose build does not say whether it is."""


class Outcome(enum.Enum):
    """Where the table is in the end."""

    MOVED = "in the target"
    STAYED = "in the source"


class Ask(NamedTuple):
    """A request to a shard's leader; its reply, or its error, is what the mover goes on with."""

    shard: ShardId
    method: frames.Method.ValueType
    body: bytes
    nearest: bool = False
    """Of a read: any replica will do."""
    paced: bool = False
    """There is time: whoever asks may rest for a while afterwards, for the sake of others."""
    ahead: Ask | None = None
    """What will most likely be asked next, of the other shard: it may be asked beside this one."""


Steps = Generator[Ask, frames.Reply, Outcome]


def carry_out(move: TableMove) -> Steps:
    """The steps that are left. Raises what a shard refuses them with, for good or for now; then the table is where it
    was, or about to be served by the target, and the same steps are to be tried again later."""
    if move.cancelled:
        return (yield from _cancel(move))
    try:
        return (yield from _bring(move))
    except (errors.MoveRefused, errors.TableNotFound, errors.TableAway, errors.InvariantBroken):
        # Cancelled by another mover, or the table was deleted, or the copy is not what it should be.
        return (yield from _cancel(move))


def _bring(move: TableMove) -> Steps:
    source = _state((yield _step(move, frames.MoveStep.DEPART, move.source)))
    if source.state == frames.MoveState.MOVED:
        return Outcome.MOVED
    target = _state((yield _step(move, frames.MoveStep.ARRIVE, move.target)))
    is_fenced = False
    while target.state != frames.MoveState.HERE:
        part = yield from (_last_export if is_fenced else _export)(move, target.position)
        has_more = not (part.HasField("rest") or _is_level(part))
        target = _state((yield _import(move, part, has_more=has_more and not is_fenced)))
        if not (has_more or is_fenced or part.HasField("rest")):
            yield _step(move, frames.MoveStep.FENCE, move.source)
            is_fenced = True
    yield _step(move, frames.MoveStep.LEAVE, move.source)
    return Outcome.MOVED


def _cancel(move: TableMove) -> Steps:
    """First the target, which then never serves the table; only after that may the source take writes again."""
    try:
        yield _step(move, frames.MoveStep.CANCEL, move.target)
    except errors.TableDeleted:
        pass
    except errors.MoveRefused:
        # Too late, if it serves the table already; else it refuses this, too.
        target = _state((yield _step(move, frames.MoveStep.ARRIVE, move.target)))
        assert target.state == frames.MoveState.HERE, "what was not cancelled is here"
        yield _step(move, frames.MoveStep.LEAVE, move.source)
        return Outcome.MOVED
    try:
        yield _step(move, frames.MoveStep.CANCEL, move.source)
    except errors.TableNotFound:
        pass  # it was deleted
    return Outcome.STAYED


def _export(move: TableMove, after: frames.MovePosition) -> Generator[Ask, frames.Reply, frames.MovePart]:
    """The next part, from the nearest replica if that knows of the move already."""
    try:
        reply = yield _export_ask(move, after, nearest=True)
    except (errors.MoveRefused, errors.TableNotFound, errors.TableAway):
        return (yield from _last_export(move, after))
    return frames.MovePart.FromString(reply.body)


def _last_export(
    move: TableMove, after: frames.MovePosition
) -> Generator[Ask, frames.Reply, frames.MovePart]:
    """The next part by the word of the leader, which knows whether the table is fenced."""
    reply = yield _export_ask(move, after, nearest=False)
    return frames.MovePart.FromString(reply.body)


def _export_ask(move: TableMove, after: frames.MovePosition, *, nearest: bool) -> Ask:
    request = frames.ExportRequest(number=move.number, after=after)
    return Ask(move.source, frames.TABLE_EXPORT, request.SerializeToString(), nearest)


def _import(move: TableMove, part: frames.MovePart, *, has_more: bool) -> Ask:
    """has_more: another part will follow, and nobody waits for it."""
    request = frames.MoveImport(table_id=move.entry.id, number=move.number, part=part)
    ahead = _export_ask(move, part.through, nearest=True) if has_more else None
    return Ask(move.target, frames.TABLE_IMPORT, request.SerializeToString(), paced=has_more, ahead=ahead)


def _is_level(part: frames.MovePart) -> bool:
    """Whether it brings the copy so near that the source can be fenced: what is written meanwhile is less than a part
    again, and takes one more."""
    if part.HasField("whole"):
        return part.whole
    return len(part.changes) < LEVEL_CHANGES and part.ByteSize() < LEVEL_BYTES


def _step(move: TableMove, step: frames.MoveStep.Step.ValueType, shard: ShardId) -> Ask:
    entry = move.entry
    spec = frames.TableSpec(id=entry.id, name=entry.name, history=entry.history, origin=entry.origin)
    body = frames.MoveStep(step=step, number=move.number, table=spec, source=move.source, target=move.target)
    return Ask(shard, frames.TABLE_MOVE, body.SerializeToString())


def _state(reply: frames.Reply) -> frames.MoveState:
    return frames.MoveState.FromString(reply.body)
