"""A backup of a table: its facts, then its newest pairs, all of one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proto.internal import frames_pb2 as frames
from proto.varint import varint
from shardworker.machine.backup.extras import extras_of, seconds_left
from shardworker.machine.replication.snapshot import pair_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shardworker.machine.view import View

_PAIRS = b"\x12"
"""Tag of BackupPart.pairs."""


class Asked(NamedTuple):
    """A frames.BackupAsked."""

    left: Mapping[int, int]
    facts_only: bool


def read_asked(body: bytes) -> Asked:
    """Raises DecodeError."""
    asked = frames.BackupAsked.FromString(body)
    return Asked(seconds_left(asked.left), asked.facts_only)


def backup_parts(view: View, asked: Asked) -> Iterator[tuple[bytes, bool]]:
    """Encoded frames.BackupParts: the facts, and behind them pairs, though there be none."""
    table = view.table
    facts = frames.TableFacts(
        revision=table.revision, checksum=table.checksum, keys=table.keys, extras=extras_of(view, asked.left)
    )
    yield frames.BackupPart(facts=facts).SerializeToString(), not asked.facts_only
    if asked.facts_only:
        return
    for pairs, more in pair_parts(view, None):
        yield _PAIRS + varint(len(pairs)) + pairs, more
