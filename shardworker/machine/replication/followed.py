"""Applying the log of a cluster that speaks no replication but Regatta's to the copy of a table: the same keys and
values, at revisions of the copy's own.

Each command of that log which changes anything is a revision here; of a SEQUENCE each command in it is one, all in the
transaction that applies the sequence. The index of the last command is stored in that transaction, too, so a command is
neither skipped nor applied twice, whoever brings it how often. What such a log holds and no table of ours can, as a
pair without a key, is passed over.

A command may be more than one of ours may be, as the deletion of a million keys at once. It is refused, and then only a
snapshot leads on. If that happens in the middle of a sequence, its beginning stands, at no index of that log: so the
index is forgotten, and again only a snapshot leads on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from proto.regatta import replication_pb2 as replication
from shardworker.machine.backup import restoring
from shardworker.machine.ops import DeleteRange, Put, Txn, add_point_keys
from shardworker.machine.regatta import codec
from shardworker.machine.replication.followed_index import forget_index, read_index, save_index
from shardworker.machine.transactions import write_txn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shardworker.machine.writer import Writer

CREATION = 1
"""The revision in which a table is created."""
INDEX_MAX = (1 << 63) - 1
"""What a column holds."""

Write = Put | DeleteRange | Txn


@dataclass(frozen=True, slots=True)
class Followed:
    """A frames.FollowedCommands, read and found well-formed."""

    origin: int
    after: int
    commands: Sequence[tuple[int, Sequence[Write]]]
    """Each with its index, in order, and what it writes: more than one thing if it is a sequence, perhaps nothing."""


@dataclass(frozen=True, slots=True)
class FollowedPart:
    """A frames.FollowedPart, likewise."""

    origin: int
    part: restoring.Part
    leader_index: int


# ---- reading --------------------------------------------------------------------------------------------------------


def read_commands(body: bytes) -> Followed:
    """Raises DecodeError, and MalformedRequest for commands that are out of order."""
    request = frames.FollowedCommands.FromString(body)
    told = replication.ReplicateCommandsResponse.FromString(request.commands).commands
    last = request.after
    for command in told:
        if not last < command.leader_index <= INDEX_MAX:
            raise errors.MalformedRequest(f"index {command.leader_index} comes after index {last}")
        last = command.leader_index
    commands = [(command.leader_index, list(_writes(command.command))) for command in told]
    return Followed(request.origin, request.after, commands)


def _writes(command: mvcc.Command) -> Iterator[Write]:
    kinds = mvcc.Command
    match command.type:
        case kinds.PUT:
            yield from _puts([command.kv])
        case kinds.DELETE if not command.HasField("range_end"):
            yield _delete(command.kv.key, b"")
        case kinds.DELETE if command.range_end:  # nothing is below an empty end
            yield _delete(command.kv.key, command.range_end)
        case kinds.PUT_BATCH:
            if puts := list(_puts(command.batch)):
                yield Txn([], list(puts), [])
        case kinds.DELETE_BATCH:
            if command.batch:
                yield Txn([], [_delete(kv.key, b"") for kv in command.batch], [])
        case kinds.TXN:
            yield _txn(command.txn)
        case kinds.SEQUENCE:
            for inner in command.sequence:
                yield from _writes(inner)
        case kinds.DELETE | kinds.DUMMY:
            pass
        case _:
            raise errors.MalformedRequest(f"a command is of type {command.type}, which is not known here")


def _puts(pairs: Iterable[mvcc.KeyValue]) -> Iterator[Put]:
    """Regatta's restore puts a pair without a key, which nobody can ask for."""
    for kv in pairs:
        if kv.key:
            yield Put(kv.key, kv.value, 0, prev_kv=False)


def _delete(key: bytes, end: bytes) -> DeleteRange:
    return DeleteRange(key, end, prev_kv=False, prev_bytes_max=None, counted=False)


def _txn(told: mvcc.Txn) -> Txn:
    """What it would answer nobody asks here."""
    request = regatta.TxnRequest(
        compare=told.compare, success=_of_writes(told.success), failure=_of_writes(told.failure)
    )
    return codec.to_txn(request)


def _of_writes(told: Iterable[mvcc.RequestOp]) -> Iterator[mvcc.RequestOp]:
    for operation in told:
        if operation.request_put.key:
            put = operation.request_put
            yield mvcc.RequestOp(request_put=mvcc.RequestOp.Put(key=put.key, value=put.value))
        elif operation.HasField("request_delete_range"):
            span = operation.request_delete_range
            deletion = mvcc.RequestOp.DeleteRange(key=span.key, range_end=span.range_end)
            yield mvcc.RequestOp(request_delete_range=deletion)


def read_part(body: bytes) -> FollowedPart:
    """Raises as restoring.read_part()."""
    request = frames.FollowedPart.FromString(body)
    return FollowedPart(request.origin, restoring.read_part(request.part), request.leader_index)


def add_keys(op: Followed, keys: set[bytes]) -> None:
    """Those whose newest rows apply_commands() asks for."""
    for _, writes in op.commands:
        for write in writes:
            add_point_keys(write, keys)


# ---- applying -------------------------------------------------------------------------------------------------------


def apply_commands(writer: Writer, op: Followed) -> bytes:
    """The commands that the copy does not have yet, or the first of them: the answer says how far it has come. Raises
    ReplicationGap, and what the first one is refused for, before any change."""
    connection, table = writer.connection, writer.table
    began_at = read_index(connection, table.id)
    if op.after > began_at or (not began_at and table.revision > CREATION):
        raise errors.ReplicationGap(
            f"the copy has come to index {began_at}, and these begin behind {op.after}"
        )
    reached = began_at
    is_begun = False
    for index, writes in op.commands:
        if index <= reached:
            continue
        for number, write in enumerate(writes):
            if is_begun:
                writer.end()
                writer.begin()
            is_begun = True
            try:
                _write(writer, write)
            except errors.Corrupt:
                raise
            except errors.BoathouseError:
                if number:
                    forget_index(connection, table.id)
                    return frames.FollowedIndex().SerializeToString()
                if reached == began_at:
                    raise
                return _come_to(writer, reached)
        reached = index
    return _come_to(writer, reached)


def _come_to(writer: Writer, leader_index: int) -> bytes:
    save_index(writer.connection, writer.table.id, leader_index)
    return frames.FollowedIndex(leader_index=leader_index).SerializeToString()


def _write(writer: Writer, write: Write) -> None:
    match write:
        case Put():
            writer.put(write)
        case DeleteRange():
            writer.delete_range(write)
        case Txn():
            write_txn(writer, write)


def take_part(writer: Writer, op: FollowedPart) -> bytes:
    """As restoring.take_part(); with the end the copy comes to the index of the snapshot."""
    answer = restoring.take_part(writer, op.part)
    if op.part.told.HasField("end"):
        save_index(writer.connection, writer.table.id, op.leader_index)
    return answer
