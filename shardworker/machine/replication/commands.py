"""What the methods that copy tables between clusters need of the state machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proto import errors
from proto.catalog import FIRST_TABLE_ID
from proto.internal import frames_pb2 as frames
from shardworker.machine.handler import Handler, Result
from shardworker.machine.replication import apply, followed, snapshot, users
from shardworker.machine.tables import REVISION_MAX

if TYPE_CHECKING:
    from shardworker.machine.handler import Shard
    from shardworker.machine.tables import TableState


def _table(shard: Shard, table_id: int) -> TableState:
    """Raises why the table is not for this shard to change."""
    shard.moves.check_serves(table_id)
    table = shard.tables.get(table_id)
    if table is None:
        raise errors.TableNotFound
    return table


def _note_position(shard: Shard, op: frames.FollowerPosition) -> Result:
    table = _table(shard, op.table_id)
    if op.gone:
        shard.followers.forget(table, op.follower)
    else:
        shard.followers.note(table, op.follower, op.revision)
    return Result(table.revision, b"")


def _change_origin(shard: Shard, op: frames.TableOrigin) -> Result:
    table = _table(shard, op.table_id)
    now = shard.origin_of(table.id)
    if op.origin > REVISION_MAX or table.id < FIRST_TABLE_ID:
        raise errors.InvalidRequest(f"table {table.name} can't copy table id {op.origin}")
    if now not in (op.was, op.origin):
        raise errors.OtherOrigin(f"table {table.name} has origin {now}, and not {op.was}")
    if now != op.origin:
        shard.change_origin(table, op.origin)
    return Result(table.revision, b"")


HANDLERS: dict[int, Handler[Any]] = {
    frames.REPLICATE_CHANGES: Handler(
        parse=apply.read_changes,
        write=apply.apply_changes,
        add_keys=apply.add_keys,
        origin_of=lambda op: int(op.origin),
    ),
    frames.REPLICATE_SNAPSHOT: Handler(
        parse=snapshot.read_part,
        write=snapshot.take_part,
        origin_of=lambda op: int(op.origin),
        replaces_rows=errors.SnapshotInterrupted,
    ),
    frames.FOLLOW_COMMANDS: Handler(
        parse=followed.read_commands,
        write=followed.apply_commands,
        add_keys=followed.add_keys,
        origin_of=lambda op: int(op.origin),
    ),
    frames.FOLLOW_SNAPSHOT: Handler(
        parse=followed.read_part,
        write=followed.take_part,
        origin_of=lambda op: int(op.origin),
        replaces_rows=errors.RestoreInterrupted,
    ),
    frames.FOLLOWER_POSITION: Handler(parse=frames.FollowerPosition.FromString, on_shard=_note_position),
    frames.COPY_RESET: Handler(
        parse=frames.CopyReset.FromString, write=apply.reset, origin_of=lambda op: int(op.origin)
    ),
    frames.TABLE_USERS: Handler(parse=lambda body: None, read=users.tell_users),
    frames.REPLICATE_USERS: Handler(
        parse=users.read_users, administer=users.take_users, origin_of=lambda op: int(op.origin)
    ),
    frames.TABLE_ORIGIN: Handler(parse=frames.TableOrigin.FromString, on_shard=_change_origin),
    frames.TABLE_PAIRS: Handler(parse=lambda body: None, parts=snapshot.pair_parts),
}
