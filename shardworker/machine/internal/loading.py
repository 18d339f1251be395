"""Restoring a table from its file: pieces of its past, each a command, in their order."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from proto import errors
from proto.boathouse import restore_pb2 as restore
from proto.internal import frames_pb2 as frames
from shardworker.machine.backup.extras import check_extras, read_extras, take_extras
from shardworker.machine.ops import Load, LoadedChange, LoadFacts
from shardworker.machine.tables import SUB_BITS
from shardworker.machine.view import parse

if TYPE_CHECKING:
    from shardworker.machine.writer import Writer


def parse_load(body: bytes) -> Load:
    """Raises InvalidRequest for changes that no table can have made."""
    request = restore.LoadRequest.FromString(body)
    changes = [read_change(one.id, one.key, one.kv) for one in request.changes]
    ids = [change.id for change in changes]
    if any(later <= earlier for earlier, later in itertools.pairwise(ids)):
        raise errors.InvalidRequest("the changes are not in the order of their ids")
    facts = None
    if request.HasField("facts"):
        told = request.facts
        extras = read_extras(frames.TableExtras.FromString(told.extras))
        facts = LoadFacts(told.revision, told.compacted_revision, told.keys, extras)
    return Load(request.after, changes, facts)


def read_change(id_: int, key: bytes, kv: bytes) -> LoadedChange:
    """One change of a table that was saved. kv: as stored; empty = deleted. Raises EmptyKey, InvalidRequest."""
    if not key:
        raise errors.EmptyKey
    if not kv:
        return LoadedChange(id_, key, None, 0, 0, 0)
    try:
        (pair,) = parse(kv)
    except (DecodeError, ValueError):
        raise errors.InvalidRequest(f"the pair of change {id_} can't be read") from None
    if (pair.key, pair.mod_revision) != (key, id_ >> SUB_BITS) or pair.version < 1:
        raise errors.InvalidRequest(f"the pair of change {id_} is another one's")
    return LoadedChange(id_, key, kv, pair.create_revision, pair.version, pair.lease)


def load(writer: Writer, op: Load) -> bytes:
    """Appends a piece; the last one brings what the table holds beside its pairs."""
    extras = None if op.facts is None else op.facts.extras
    if extras is not None:
        check_extras(writer, extras)
    writer.load(op)
    if extras is not None:
        take_extras(writer, extras)
    return restore.LoadResponse(revision=writer.table.revision).SerializeToString()
