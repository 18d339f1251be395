"""Restoring a table from its file: pieces of its past, each a command, in their order."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from proto import errors
from proto.boathouse import restore_pb2 as restore
from shardworker.machine.ops import Load, LoadedChange, LoadFacts
from shardworker.machine.tables import SUB_BITS
from shardworker.machine.view import parse

if TYPE_CHECKING:
    from shardworker.machine.writer import Writer


def parse_load(body: bytes) -> Load:
    """Raises InvalidRequest for changes that no table can have made."""
    request = restore.LoadRequest.FromString(body)
    changes = [_change(one) for one in request.changes]
    ids = [change.id for change in changes]
    if any(later <= earlier for earlier, later in itertools.pairwise(ids)):
        raise errors.InvalidRequest("the changes are not in the order of their ids")
    facts = None
    if request.HasField("facts"):
        told = request.facts
        facts = LoadFacts(told.revision, told.compacted_revision, told.keys)
    return Load(request.after, changes, facts)


def _change(told: restore.Change) -> LoadedChange:
    if not told.key:
        raise errors.EmptyKey
    if not told.kv:
        return LoadedChange(told.id, told.key, None, 0, 0, 0)
    try:
        (pair,) = parse(told.kv)
    except (DecodeError, ValueError):
        raise errors.InvalidRequest(f"the pair of change {told.id} can't be read") from None
    if (pair.key, pair.mod_revision) != (told.key, told.id >> SUB_BITS) or pair.version < 1:
        raise errors.InvalidRequest(f"the pair of change {told.id} is another one's")
    return LoadedChange(told.id, told.key, told.kv, pair.create_revision, pair.version, pair.lease)


def load(writer: Writer, op: Load) -> bytes:
    """Appends a piece."""
    writer.load(op)
    return restore.LoadResponse(revision=writer.table.revision).SerializeToString()
