"""What is to be asked of a table's two shards until it is in the other one: pure. DESIGN.md has the protocol.

    depart, arrive --parts, until the copy is nearly level--> fence --last parts--> the target serves --leave--> done
    cancel the arrival --> cancel the departure --> done

Everything is asked from the beginning whenever a mover comes, and every step that was done is answered as done: so a
mover needs no memory, may die anywhere, and does no harm beside another one.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, NamedTuple

from proto import errors
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proto.catalog import TableMove
    from proto.ids import ShardId

UNDER_WAY_MAX: Final = 4
"""Parts that were read and are not taken yet: while one is applied the next ones come, and more only take memory."""
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
    ahead: tuple[Ask, ...] = ()
    """What will most likely be asked next, in this order: it may be asked beside this one. What was asked so before and
    is not here any more is of no interest."""

    @property
    def question(self) -> tuple[ShardId, int, bytes]:
        """What the reply depends on."""
        return self.shard, self.method, self.body


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
    if target.state != frames.MoveState.HERE:
        target = yield from _copy(move, target)
    # Also if the target serves already: a source that was recovered from one replica may have forgotten its fence.
    yield _step(move, frames.MoveStep.FENCE, move.source)
    while target.state != frames.MoveState.HERE:
        part = yield from _last_export(move, target.position)
        target = _state((yield _import(move, part)))
    yield _step(move, frames.MoveStep.LEAVE, move.source)
    return Outcome.MOVED


def _copy(move: TableMove, target: frames.MoveState) -> Generator[Ask, frames.Reply, frames.MoveState]:
    """Brings parts, some at a time, until the copy is so near that the source can be fenced, or a mover before has done
    that and all is there. Returns how the target stands then."""
    coming: deque[tuple[frames.MovePart, Ask]] = deque()
    while True:
        is_alone = not coming or coming[0][0].after != target.position
        if is_alone:
            # The first one; or others have brought some, or one came ahead of another and was left.
            coming.clear()
            part = yield from _export(move, target.position)
            coming.append((part, _import(move, part)))
        while not _is_last(coming[-1][0]) and len(coming) < UNDER_WAY_MAX:
            part = yield from _export(move, coming[-1][0].through, ahead=[ask for _, ask in coming])
            coming.append((part, _import(move, part)))
        part, ask = coming.popleft()
        ahead = [ask for _, ask in coming]
        if not _is_last(last := coming[-1][0] if coming else part):
            ahead.append(_export_ask(move, last.through, nearest=True))
        target = _state((yield ask._replace(ahead=tuple(ahead))))
        if target.state == frames.MoveState.HERE or (is_alone and _is_last(part)):
            return target


def _cancel(move: TableMove) -> Steps:
    """First the target, which then never serves the table; only after that may the source take writes again."""
    try:
        yield _step(move, frames.MoveStep.CANCEL, move.target)
    except errors.TableDeleted:
        pass
    except errors.MoveRefused:
        # Too late, if it serves the table already.
        if (yield from _is_served(move)):
            # A source that was recovered from one replica may have forgotten either.
            yield _step(move, frames.MoveStep.DEPART, move.source)
            yield _step(move, frames.MoveStep.FENCE, move.source)
            yield _step(move, frames.MoveStep.LEAVE, move.source)
            return Outcome.MOVED
    try:
        yield _step(move, frames.MoveStep.CANCEL, move.source)
    except errors.TableNotFound:
        pass  # it was deleted
    return Outcome.STAYED


def _is_served(move: TableMove) -> Generator[Ask, frames.Reply, bool]:
    """Whether the target, which does not give up, has the table by this move."""
    try:
        target = _state((yield _step(move, frames.MoveStep.ARRIVE, move.target)))
    except errors.MoveRefused:
        # It can't get it by this move either: recovered from one replica, it has what it had before an earlier one.
        return False
    assert target.state == frames.MoveState.HERE, "what was not cancelled is here"
    return True


def _export(
    move: TableMove, after: frames.MovePosition, ahead: Sequence[Ask] = ()
) -> Generator[Ask, frames.Reply, frames.MovePart]:
    """The next part, from the nearest replica if that knows of the move already."""
    try:
        reply = yield _export_ask(move, after, nearest=True)._replace(ahead=tuple(ahead))
    except (errors.MoveRefused, errors.TableNotFound, errors.TableAway):
        return (yield from _last_export(move, after, ahead))
    return frames.MovePart.FromString(reply.body)


def _last_export(
    move: TableMove, after: frames.MovePosition, ahead: Sequence[Ask] = ()
) -> Generator[Ask, frames.Reply, frames.MovePart]:
    """The next part by the word of the leader, which knows whether the table is fenced."""
    reply = yield _export_ask(move, after, nearest=False)._replace(ahead=tuple(ahead))
    return frames.MovePart.FromString(reply.body)


def _export_ask(move: TableMove, after: frames.MovePosition, *, nearest: bool) -> Ask:
    request = frames.ExportRequest(number=move.number, after=after)
    return Ask(move.source, frames.TABLE_EXPORT, request.SerializeToString(), nearest)


def _import(move: TableMove, part: frames.MovePart) -> Ask:
    request = frames.MoveImport(table_id=move.entry.id, number=move.number, part=part)
    return Ask(move.target, frames.TABLE_IMPORT, request.SerializeToString(), paced=not _is_last(part))


def _is_last(part: frames.MovePart) -> bool:
    """Whether nothing is to be read behind it for now."""
    return part.HasField("rest") or _is_level(part)


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
