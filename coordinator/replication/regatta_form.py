"""A table's changes and pairs in the words of Regatta's own replication, for follower clusters that know no others.

A revision is one command, and the first one, in which a table is created, is a DUMMY. Versions, create revisions and
leases are not in these words: such a follower comes to the same keys and values, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.etcd import rpc_pb2 as etcd
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.backup.fillers import Fillers
    from proto.internal import frames_pb2 as frames

CREATION = 1
"""The revision in which a table is created."""


def commands(table: bytes, told: frames.TableChanges) -> Iterator[replication.ReplicateCommand]:
    """One for each revision, in order."""
    for revision in told.revisions:
        command = _command(table, revision)
        command.leader_index = revision.revision
        yield replication.ReplicateCommand(leader_index=revision.revision, command=command)


def creation(table: bytes) -> replication.ReplicateCommand:
    """Of a table's first revision."""
    return replication.ReplicateCommand(leader_index=CREATION, command=dummy(table, CREATION))


def dummy(table: bytes, index: int) -> mvcc.Command:
    """Changes nothing, and says where the table stands."""
    return mvcc.Command(table=table, type=mvcc.Command.DUMMY, leader_index=index)


def _command(table: bytes, revision: frames.RevisionChanges) -> mvcc.Command:
    edits = [_edit(table, edit) for edit in revision.keys]
    if len(edits) == 1:
        return edits[0]
    return mvcc.Command(table=table, type=mvcc.Command.SEQUENCE, sequence=edits)


def _edit(table: bytes, edit: frames.KeyChange) -> mvcc.Command:
    if not edit.kv:
        return mvcc.Command(table=table, type=mvcc.Command.DELETE, kv=mvcc.KeyValue(key=edit.key))
    (pair,) = etcd.RangeResponse.FromString(edit.kv).kvs
    return _put(table, pair.key, pair.value)


def _put(table: bytes, key: bytes, value: bytes) -> mvcc.Command:
    return mvcc.Command(table=table, type=mvcc.Command.PUT, kv=mvcc.KeyValue(key=key, value=value))


def records(table: bytes, part: frames.TablePairs, fillers: Fillers) -> bytes:
    """A part of a snapshot, uncompressed: each command behind its length, and behind the last one the position."""
    commands = [_put(table, pair.key, pair.value) for pair in etcd.RangeResponse.FromString(part.pairs).kvs]
    if part.last:
        commands.append(dummy(table, part.revision))
    found: list[bytes] = []
    for command in commands:
        encoded = command.SerializeToString()
        found += fillers.before(len(encoded)), len(encoded).to_bytes(8, "little"), encoded
    return b"".join(found)
