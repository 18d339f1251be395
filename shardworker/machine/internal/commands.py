"""What the methods of no public API need of the state machine: those that concern tables and shards as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proto import errors
from proto.catalog import CATALOG_ID
from proto.internal import frames_pb2 as frames
from shardworker.machine import quota
from shardworker.machine.auth_store import read_version
from shardworker.machine.handler import Handler, Result
from shardworker.machine.internal import loading
from shardworker.machine.replication.followed_index import read_index
from shardworker.machine.replication.origins import read_origin
from shardworker.machine.tables import REVISION_MAX, TableState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.machine.auth import Caller
    from shardworker.machine.handler import Shard
    from shardworker.machine.replication.followers import Position
    from shardworker.machine.view import View
    from shardworker.machine.writer import Writer

SIZE_BYTES_MAX: Final = (1 << 63) - 1
"""What a column of bytes holds."""

NAME_BYTES_MAX: Final = 1024
"""Of a table. What may be in a name is the coordinator's business; here it only has to fit into a row."""


def table_status(
    table: TableState, origin: int, *, beside_bytes: int, followers: Mapping[str, Position] | None = None
) -> frames.TableStatus:
    """origin: the leader cluster's table that it copies; 0 = none. beside_bytes: what it holds beside its changes.
    followers: clusters that copy it."""
    alarms = [frames.TableAlarm(member=member, alarm=alarm) for member, alarm in table.alarms]
    return frames.TableStatus(
        id=table.id,
        name=table.name,
        revision=table.revision,
        compacted_revision=table.floor,
        history=table.history,
        keys=table.keys,
        checksum=table.checksum,
        size_bytes=table.size_bytes + beside_bytes,
        quota_bytes=table.quota_bytes,
        full=table.full,
        alarms=alarms,
        origin=origin,
        followers=[
            frames.FollowerPosition(table_id=table.id, follower=name, revision=position.revision)
            for name, position in sorted((followers or {}).items())
        ],
    )


def _create_table(shard: Shard, spec: frames.TableSpec) -> Result:
    """Creates a table, or answers its status if it exists: a repeat of the same request. An id is given once."""
    if spec.id in shard.dead_tables:
        raise errors.TableDeleted(f"table id {spec.id} was deleted, and no table gets it again")
    shard.moves.check_serves(spec.id)
    table = shard.tables.get(spec.id)
    if table is None:
        named = 0 < len(spec.name.encode()) <= NAME_BYTES_MAX
        if not 0 < spec.id <= REVISION_MAX or not named or spec.history < -1 or spec.origin > REVISION_MAX:
            raise errors.InvalidRequest("a table needs an id, a name and a history of -1 or more")
        table = TableState(spec.id, spec.name, spec.history)
        shard.create_table(table, spec.origin)
    elif (table.name, table.history, shard.origin_of(spec.id)) != (spec.name, spec.history, spec.origin):
        refusal = errors.TableContradicted(
            f"table id {spec.id} is {table.name!r} with history {table.history} already, "
            f"not {spec.name!r} with history {spec.history}"
        )
        return Result(table.revision, b"", refusal)
    status = table_status(table, shard.origin_of(table.id), beside_bytes=shard.beside_bytes(table.id))
    return Result(table.revision, status.SerializeToString())


def _delete_table(shard: Shard, spec: frames.TableSpec) -> Result:
    """Ends a table and its id, whether or not the table ever came to be: its creation may be on its way still. Done
    twice it is done. Refused if another table than the named one has the id."""
    if not CATALOG_ID < spec.id <= REVISION_MAX:
        raise errors.InvalidRequest(f"no table with id {spec.id} can be deleted")
    table = shard.tables.get(spec.id)
    if table is not None and table.name != spec.name:
        raise errors.TableContradicted(f"table id {spec.id} is {table.name!r}, not {spec.name!r}")
    shard.moves.check_serves(spec.id)
    shard.drop_table(spec.id)
    return Result(0 if table is None else table.revision, b"")


def _raise_level(shard: Shard, to: frames.MachineLevel) -> Result:
    shard.raise_level(to.level)
    return Result(0, b"")


def _parse_quota(body: bytes) -> frames.TableQuota:
    told = frames.TableQuota.FromString(body)
    if told.quota_bytes > SIZE_BYTES_MAX:
        raise errors.InvalidRequest(f"a quota is at most {SIZE_BYTES_MAX} bytes")
    return told


def _parse_freed(body: bytes) -> frames.TableFreed:
    told = frames.TableFreed.FromString(body)
    if told.total_bytes > SIZE_BYTES_MAX:
        raise errors.InvalidRequest(f"a table never has more than {SIZE_BYTES_MAX} bytes to free")
    return told


def _set_quota(writer: Writer, op: frames.TableQuota) -> bytes:
    writer.table.quota_bytes = op.quota_bytes
    return b""


def _note_freed(writer: Writer, op: frames.TableFreed) -> bytes:
    table = writer.table
    table.freed_bytes = max(table.freed_bytes, op.total_bytes)
    return b""


def _status(view: View, op: None) -> bytes:
    status = table_status(
        view.table,
        read_origin(view.connection, view.table.id),
        beside_bytes=quota.read_beside_bytes(view.connection, view.table.id),
    )
    status.auth_version = read_version(view.connection, view.table.id)
    status.leader_index = read_index(view.connection, view.table.id)
    return status.SerializeToString()


def _check_root(caller: Caller, _op: object) -> None:
    caller.check_root()


HANDLERS: dict[int, Handler[Any]] = {
    frames.TABLE_CREATE: Handler(parse=frames.TableSpec.FromString, on_shard=_create_table),
    frames.TABLE_DELETE: Handler(parse=frames.TableSpec.FromString, on_shard=_delete_table),
    frames.RAISE_LEVEL: Handler(parse=frames.MachineLevel.FromString, on_shard=_raise_level),
    frames.TABLE_QUOTA: Handler(parse=_parse_quota, write=_set_quota, under_alarm=True, for_copies=True),
    frames.TABLE_FREED: Handler(parse=_parse_freed, write=_note_freed, under_alarm=True, for_copies=True),
    frames.TABLE_LOAD: Handler(
        check=_check_root, parse=loading.parse_load, write=loading.load, cost=loading.cost
    ),
    frames.TABLE_STATUS: Handler(parse=lambda body: None, read=_status),
}
