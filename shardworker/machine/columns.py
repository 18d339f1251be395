"""The newest pairs of a table that come as a whole, many at a time: column by column, as they are read and stored.

Pair by pair, reading them costs more than putting them into the database."""

from __future__ import annotations

import operator
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import apsw

from proto import errors
from shardworker.machine.pairs import parse, split
from shardworker.machine.statements import CHANGE_BYTES
from shardworker.machine.tables import SUB_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from proto.etcd.kv_pb2 import KeyValue

LIVE_ROWS: Final = 64
"""Of the live keys, in one statement: half of what it takes one by one. With the changes, which are larger, nothing is
gained by it."""


PAIR_TAG: Final = 2 << 3 | 2
"""Of the field that a stored pair is encoded as: RangeResponse.kvs."""


class Columns(NamedTuple):
    """All of the same length."""

    ids: Sequence[int]
    """Of the changes that put them."""
    keys: Sequence[bytes]
    stored: Sequence[bytes]
    created: Sequence[int]
    versions: Sequence[int]
    leases: Sequence[int]

    @property
    def size_bytes(self) -> int:
        """What they count in their table's size."""
        lengths = sum(map(len, self.keys)) + sum(map(len, self.stored))
        return lengths + CHANGE_BYTES * len(self.ids)

    def keys_ascend(self) -> bool:
        """Each but the first is behind the one before, and none is empty."""
        keys = self.keys
        return not keys or (bool(keys[0]) and all(map(operator.lt, keys, keys[1:])))


def read_pairs(blob: bytes) -> tuple[list[bytes], list[KeyValue]]:
    """Pairs from elsewhere, glued together, each as it is to be stored and as a message. Raises DecodeError, and
    MalformedRequest if anything is in between: stored, it would become a part of answers."""
    kvs = parse(blob)
    try:
        stored = split(blob)
    except IndexError:  # other fields, which the parser takes as well
        stored = []
    is_whole = len(stored) == len(kvs) and sum(map(len, stored)) == len(blob)
    if not is_whole or any(pair[0] != PAIR_TAG for pair in stored):
        raise errors.MalformedRequest("something else is among the pairs")
    return stored, kvs


def read_columns(pairs: bytes, ids: Iterable[int], crc: int) -> tuple[Columns, bool]:
    """Pairs that are glued together, and whether each is of its id's revision. Raises DecodeError, and
    MalformedRequest for what its sender did not mean."""
    if crc32(pairs) != crc:
        raise errors.MalformedRequest("the pairs fail their checksum")
    ids = list(ids)
    stored, kvs = read_pairs(pairs)
    if len(kvs) != len(ids):
        raise errors.MalformedRequest("pairs and their ids differ in number")
    columns = Columns(
        ids,
        [kv.key for kv in kvs],
        stored,
        [kv.create_revision for kv in kvs],
        [kv.version for kv in kvs],
        [kv.lease for kv in kvs],
    )
    return columns, [kv.mod_revision for kv in kvs] == [id_ >> SUB_BITS for id_ in ids]


@contextmanager
def all_or_nothing(connection: apsw.Connection, refusal: errors.BoathouseError) -> Iterator[None]:
    """Raises the refusal for a key or an id that is there already; then nothing of what was inserted within is."""
    connection.execute("SAVEPOINT part")
    try:
        yield
    except apsw.ConstraintError:
        connection.execute("ROLLBACK TO part")
        connection.execute("RELEASE part")
        raise refusal from None
    connection.execute("RELEASE part")


def insert_columns(connection: apsw.Connection, name: str, columns: Columns) -> None:
    """Into the rows of that name (tables.create_rows). Raises apsw.ConstraintError for a key or an id that is there."""
    ids, keys, stored, created, versions, leases = columns
    # By id: of keys that were not put in their order the rows lie all over the table, and each page is looked up once.
    connection.executemany(
        f"INSERT INTO {name}_rev (id, key, kv, prev, crc) VALUES (?, ?, ?, NULL, ?)",
        sorted(zip(ids, keys, stored, map(crc32, stored), strict=True)),
    )
    live = zip(keys, ids, created, versions, leases, strict=True)
    insert = f"INSERT INTO {name}_live (key, id, create_revision, version, lease) VALUES (?, ?, ?, ?, ?)"
    many = insert + ", (?, ?, ?, ?, ?)" * (LIVE_ROWS - 1)
    for _ in range(len(keys) // LIVE_ROWS):
        connection.execute(many, tuple(chain.from_iterable(islice(live, LIVE_ROWS))))
    connection.executemany(insert, live)
