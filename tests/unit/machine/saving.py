"""A table's backup as its shard gives it, and the parts by which it is restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from proto.internal import frames_pb2 as frames
from shardworker.machine.auth import Access, Permission, TableAuth, User
from shardworker.machine.pairs import split
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shardworker.machine import Result

ATTEMPT = 77


class Backup(NamedTuple):
    """All of it."""

    facts: frames.TableFacts
    pairs: Sequence[bytes]
    """As stored."""
    ids: Sequence[int]


def backup_of(shard: Shard, table: int = TABLE) -> Backup:
    request = shard.machine.parse(frames.TABLE_BACKUP, table, b"")
    bodies = [result.body for result in shard.machine.iterate(shard.connection, request)]
    first, *rest = [frames.BackupPart.FromString(body) for body in bodies]
    pairs = [pair for part in rest for pair in split(part.pairs.pairs)]
    return Backup(first.facts, pairs, [id_ for part in rest for id_ in part.pairs.ids])


def begin(attempt: int = ATTEMPT) -> frames.RestoredPart:
    return frames.RestoredPart(attempt=attempt, begin=True)


def pairs_part(pairs: Sequence[bytes], ids: Sequence[int], attempt: int = ATTEMPT) -> frames.RestoredPart:
    glued = b"".join(pairs)
    return frames.RestoredPart(attempt=attempt, pairs=glued, ids=ids, crc=crc32(glued))


def parts_of(backup: Backup, size: int) -> list[frames.RestoredPart]:
    """Each of so many pairs."""
    starts = range(0, len(backup.pairs), size)
    return [pairs_part(backup.pairs[at : at + size], backup.ids[at : at + size]) for at in starts]


def end(parts: int, attempt: int = ATTEMPT, **facts: object) -> frames.RestoredPart:
    return frames.RestoredPart(attempt=attempt, end=frames.RestoredEnd(parts=parts, **facts))  # type: ignore[arg-type]


def restore(shard: Shard, parts: Iterable[frames.RestoredPart], *, table: int = TABLE) -> Result:
    """Begin, these parts, and the end; the result of that."""
    assert shard.write(begin(), table).error is None
    count = 0
    for part in parts:
        result = shard.write(part, table)
        assert result.error is None, result.error
        count += 1
    return shard.write(end(count), table)


def give_users(shard: Shard, table: int = TABLE) -> None:
    """root, and somebody who may read; authentication is enabled."""
    auth = TableAuth(
        enabled=True,
        revision=7,
        users={
            "root": User("hash", no_password=False, roles=("root",)),
            "u": User("", no_password=True, roles=("r",)),
        },
        roles={"root": (), "r": (Permission(Access.READ, b"a", b"b"),)},
    )
    shard.connection.execute("BEGIN IMMEDIATE")
    shard.machine.auth.replace(table, auth)
    shard.connection.execute("COMMIT")
    shard.machine.committed()
