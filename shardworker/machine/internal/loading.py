"""Restoring a table from its file: pieces of its past, each a command, in their order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import DecodeError

from proto import errors
from proto.boathouse import restore_pb2 as restore
from proto.internal import frames_pb2 as frames
from shardworker.machine.appending import append, keys_with
from shardworker.machine.backup.extras import Extras, check_extras, read_extras, take_extras
from shardworker.machine.columns import PAIR_TAG
from shardworker.machine.ops import LoadedChange
from shardworker.machine.pairs import parse
from shardworker.machine.statements import CHANGE_BYTES
from shardworker.machine.tables import REVISION_MAX, SUB_BITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardworker.machine.writer import Writer


@dataclass(slots=True)
class LoadFacts:
    """What a table is to be once it is loaded."""

    revision: int
    compacted: int
    keys: int
    extras: Extras


@dataclass(slots=True)
class Load:
    """The next piece of a table that is restored."""

    after: int
    """The id of the last change before; 0 = the table is new."""
    changes: list[LoadedChange]
    """In the order of their ids; each revision whole."""
    facts: LoadFacts | None
    """With the last piece."""


def parse_load(body: bytes) -> Load:
    """Raises InvalidRequest for changes that no table can have made."""
    request = restore.LoadRequest.FromString(body)
    changes = read_changes(request.changes)
    facts = None
    if request.HasField("facts"):
        told = request.facts
        extras = read_extras(frames.TableExtras.FromString(told.extras))
        facts = LoadFacts(told.revision, told.compacted_revision, told.keys, extras)
    return Load(request.after, changes, facts)


class StoredChange(Protocol):
    """A change of a table that was saved, or is on its way."""

    @property
    def id(self) -> int: ...

    @property
    def key(self) -> bytes: ...

    @property
    def kv(self) -> bytes:
        """As stored; empty = deleted."""


def read_changes(told: Sequence[StoredChange]) -> list[LoadedChange]:
    """Changes in the order of their ids. Raises EmptyKey, InvalidRequest."""
    rows = [(one.id, one.key, one.kv) for one in told]
    ids = [id_ for id_, _, _ in rows]
    if any(later <= earlier for earlier, later in itertools.pairwise(ids)):
        raise errors.InvalidRequest("the changes are not in the order of their ids")
    # One message of all pairs is read in a third of the time of a message each.
    stored = [kv for _, _, kv in rows if kv]
    try:
        pairs = [*frames.PairsWithoutValues.FromString(b"".join(stored)).kvs]
    except DecodeError:
        pairs = []
    if len(pairs) != len(stored) or not all(map(_is_one_pair, stored)):
        return [read_change(*row) for row in rows]  # which says what is wrong
    left = iter(pairs)
    changes = []
    for id_, key, kv in rows:
        if not kv or not key:
            changes.append(read_change(id_, key, kv))
            continue
        pair = next(left)
        version = pair.version
        if pair.key != key or pair.mod_revision != id_ >> SUB_BITS or version < 1:
            raise errors.InvalidRequest(f"the pair of change {id_} is another one's")
        changes.append(LoadedChange(id_, key, kv, pair.create_revision, version, pair.lease))
    return changes


def _is_one_pair(kv: bytes) -> bool:
    """Whether these bytes are one field, as long as it says."""
    length, shift, at = 0, 0, 1
    for at in range(1, min(len(kv), 6)):
        length |= (kv[at] & 0x7F) << shift
        shift += 7
        if kv[at] < 0x80:
            break
    return kv[0] == PAIR_TAG and at + 1 + length == len(kv)


def read_change(id_: int, key: bytes, kv: bytes) -> LoadedChange:
    """One change; kv: as stored, empty = deleted. Raises EmptyKey, InvalidRequest."""
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


def cost(op: Load) -> int:
    """Bytes that a piece adds to its table."""
    return sum(len(change.key) + len(change.kv or b"") + CHANGE_BYTES for change in op.changes)


def load(writer: Writer, op: Load) -> bytes:
    """Appends a piece; the last one brings what the table holds beside its pairs."""
    extras = None if op.facts is None else op.facts.extras
    if extras is not None:
        check_extras(writer, extras)
    _append(writer, op)
    if extras is not None:
        take_extras(writer, extras)
    return restore.LoadResponse(revision=writer.table.revision).SerializeToString()


def _append(writer: Writer, op: Load) -> None:
    """As if the commands of these changes came now. Raises InvalidRequest if the table is not what they follow upon, or
    would not be what it should be once it is whole."""
    table, changes, facts = writer.table, op.changes, op.facts
    newest: int | None = writer.execute(writer.sql.newest_change).get
    if (newest or 0) != op.after or table.revision != max(1, op.after >> SUB_BITS) or table.compacted >= 0:
        raise errors.InvalidRequest(f"table {table.name} is not what the piece follows upon")
    last = changes[-1].id if changes else op.after
    if changes and changes[0].id >> SUB_BITS <= table.revision:
        raise errors.InvalidRequest("the changes are not behind those before")
    if last >> SUB_BITS > REVISION_MAX:
        raise errors.InvalidRequest(f"revision {last >> SUB_BITS} is beyond what a table can have")
    writer.visit(len(changes), sum(len(change.kv or b"") for change in changes))
    keys = keys_with(writer, changes)
    if facts is not None:
        revision_min = max(table.revision, last >> SUB_BITS)
        is_sound = revision_min <= facts.revision <= REVISION_MAX and -1 <= facts.compacted <= facts.revision
        if not is_sound or keys != facts.keys:
            raise errors.InvalidRequest(f"the changes come to {keys} keys, and their facts say otherwise")
    append(writer, changes)
    table.keys = keys
    if facts is not None:
        table.revision, table.compacted = facts.revision, facts.compacted
        # What had been superseded below the floor did not come, as if it had been swept here.
        if table.compacted > table.swept_floor:
            table.swept_floor, table.swept_id = table.compacted, (table.compacted + 1) << SUB_BITS
    if changes:
        writer.note_unkept()
