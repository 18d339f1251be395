"""The steps of a table's move, as its source and its target take them (states.py has the picture)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from proto import errors
from proto.catalog import FIRST_TABLE_ID
from proto.internal import frames_pb2 as frames
from shardworker.machine.handler import Handler, Result
from shardworker.machine.moves import copying
from shardworker.machine.moves.states import Arrival, Move, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.machine.handler import Shard
    from shardworker.machine.tables import TableState


def move_state(table_id: int, move: Move | None, table: TableState | None) -> frames.MoveState:
    """What the shard knows of a table's newest move. table: if it is here."""
    state = frames.MoveState(table_id=table_id)
    if table is not None:
        state.revision, state.keys = table.revision, table.keys
    if move is not None:
        state.state = frames.MoveState.State.ValueType(move.state)
        state.number, state.shard = move.number, move.shard
        if move.arrival is not None:
            state.revision, state.keys = move.arrival.revision, move.arrival.keys
            state.position.CopyFrom(copying.told_position(move.arrival.position))
    return state


def _read_step(body: bytes) -> frames.MoveStep:
    step = frames.MoveStep.FromString(body)
    spec = step.table
    if spec.id < FIRST_TABLE_ID or not spec.name or not step.number or step.source == step.target:
        raise errors.InvalidRequest(
            "a move has a number, a table that is not boathouse's own, and two shards"
        )
    if step.step not in _STEPS:  # protobuf lets through any number
        raise errors.InvalidRequest(f"a move has no step {step.step}")
    return step


def _take_step(shard: Shard, step: frames.MoveStep) -> Result:
    """Done twice it is done once. Raises MoveRefused, and why the table is not here."""
    move = shard.moves.get(step.table.id)
    if shard.number not in (step.source, step.target):
        raise errors.MoveRefused(f"this is shard {shard.number}, and the move is another's")
    if move is not None and move.number > step.number:
        raise errors.MoveRefused(f"move {move.number} of table id {step.table.id} has begun since")
    _STEPS[step.step](shard, step, move)
    return _result(shard, step.table.id)


def _result(shard: Shard, table_id: int) -> Result:
    table = shard.tables.get(table_id)
    state = move_state(table_id, shard.moves.get(table_id), table)
    return Result(0 if table is None else table.revision, state.SerializeToString())


def _is(move: Move | None, step: frames.MoveStep, *states: State) -> bool:
    """Whether this very move is in one of these states."""
    return move is not None and move.number == step.number and move.state in states


def _refusal(step: frames.MoveStep, move: Move | None) -> errors.MoveRefused:
    stands = "never began here" if move is None else f"is {move.state.name} by move {move.number}"
    name = frames.MoveStep.Step.Name(step.step)
    return errors.MoveRefused(f"{name} of move {step.number}: table id {step.table.id} {stands}")


def _depart(shard: Shard, step: frames.MoveStep, move: Move | None) -> None:
    if _is(move, step, State.COPYING, State.FENCED, State.MOVED):
        return
    table = shard.tables.get(step.table.id)
    if table is None:
        raise shard.moves.absence(step.table.id)
    if move is not None and (move.state is not State.HERE or move.number == step.number):
        raise _refusal(step, move)
    shard.moves.put(table.id, Move(State.COPYING, step.number, step.target, table.floor))


def _arrive(shard: Shard, step: frames.MoveStep, move: Move | None) -> None:
    if _is(move, step, State.ARRIVING, State.HERE):
        return
    spec = step.table
    if spec.id in shard.dead_tables:
        raise errors.TableDeleted(f"table id {spec.id} was deleted")
    is_free = move is None or (move.state is State.MOVED and move.number < step.number)
    if not is_free or shard.tables.get(spec.id) is not None:
        raise _refusal(step, move)
    shard.begin_rows(spec.id)
    arrival = Arrival(spec.name, spec.history)
    shard.moves.put(spec.id, Move(State.ARRIVING, step.number, step.source, arrival=arrival))


def _fence(shard: Shard, step: frames.MoveStep, move: Move | None) -> None:
    if _is(move, step, State.FENCED, State.MOVED):
        return
    if move is None or not _is(move, step, State.COPYING):
        raise _refusal(step, move)
    shard.moves.put(step.table.id, replace(move, state=State.FENCED))


def _leave(shard: Shard, step: frames.MoveStep, move: Move | None) -> None:
    if _is(move, step, State.MOVED):
        return
    if move is None or not _is(move, step, State.FENCED):
        raise _refusal(step, move)
    shard.moves.put(step.table.id, Move(State.MOVED, step.number, step.target))
    shard.give_up_table(step.table.id)


def _cancel(shard: Shard, step: frames.MoveStep, move: Move | None) -> None:
    if shard.number == step.target:
        _cancel_arrival(shard, step, move)
    else:
        _cancel_departure(shard, step, move)


def _cancel_arrival(shard: Shard, step: frames.MoveStep, move: Move | None) -> None:
    """The target will not serve the table by this move, also if it has never heard of it."""
    if _is(move, step, State.MOVED):
        return
    if shard.tables.get(step.table.id) is not None:
        raise _refusal(step, move)
    if _is(move, step, State.ARRIVING):
        shard.leave_rows(step.table.id)
    elif move is not None and move.state is not State.MOVED:
        raise _refusal(step, move)
    shard.moves.put(step.table.id, Move(State.MOVED, step.number, step.source))


def _cancel_departure(shard: Shard, step: frames.MoveStep, move: Move | None) -> None:
    """The source goes on serving the table. Only once the target has given up."""
    if _is(move, step, State.HERE):
        return
    table = shard.tables.get(step.table.id)
    if table is None:
        raise shard.moves.absence(step.table.id)
    is_departing = _is(move, step, State.COPYING, State.FENCED)
    if not is_departing and move is not None and move.state is not State.HERE:
        raise _refusal(step, move)
    shard.moves.put(table.id, Move(State.HERE, step.number, step.target))


_STEPS: Final[dict[int, Callable[[Any, frames.MoveStep, Move | None], None]]] = {
    frames.MoveStep.DEPART: _depart,
    frames.MoveStep.ARRIVE: _arrive,
    frames.MoveStep.FENCE: _fence,
    frames.MoveStep.LEAVE: _leave,
    frames.MoveStep.CANCEL: _cancel,
}


def _import(shard: Shard, op: copying.Import) -> Result:
    move = shard.moves.get(op.table_id)
    if move is None or move.number != op.number or move.state not in (State.ARRIVING, State.HERE):
        raise errors.MoveRefused(f"table id {op.table_id} is not arriving by move {op.number}")
    if move.state is State.ARRIVING:
        copying.take_part(shard, move, op)
    return _result(shard, op.table_id)


HANDLERS: dict[int, Handler[Any]] = {
    frames.TABLE_MOVE: Handler(parse=_read_step, on_shard=_take_step),
    frames.TABLE_EXPORT: Handler(
        parse=copying.read_export, read=copying.export, is_heavy=lambda _look, _op: True, of_move=True
    ),
    frames.TABLE_IMPORT: Handler(parse=copying.read_import, on_shard=_import),
}
