"""Log entries that a damaged or hostile leader may have written: each is run, or refused in words, and nothing else."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

import pytest
from google.protobuf.message import DecodeError

from proto.internal import frames_pb2 as frames
from shardworker.machine import FORMAT, TooNew, UnreadableEntry
from tests.conformance.lengths import seeds
from tests.integration.hostile import Composer
from tests.unit.machine.shard import METHODS, TABLE, Shard

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

TYPES = list(METHODS)


def hostile_batch(composer: Composer, shard: Shard) -> bytes:
    rng = composer.rng
    batch = frames.CommandBatch(time_ms=rng.choice((0, 7, 10**12, 2**63, 2**64 - 1)), format=FORMAT)
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(TYPES)
        batch.commands.add(
            method=frames.Method.ValueType(METHODS[kind] if not composer.one_in(20) else rng.randrange(200)),
            table_id=TABLE if not composer.one_in(5) else rng.choice((0, 1, 2**64 - 1)),
            body=composer.body(cast("Descriptor", kind.DESCRIPTOR)),
            request_id=shard.new_id() if not composer.one_in(12) else rng.choice((b"", b"x", b"y" * 17)),
            user=rng.choice(("", "", "nobody")),
            auth_revision=rng.choice((0, 1, 2**63)),
        )
    body = batch.SerializeToString()
    return composer.damaged(body) if composer.one_in(6) else body


@pytest.mark.parametrize("seed", seeds(40))
def test_an_entry_is_run_or_refused_in_words(seed: int) -> None:
    rng = random.Random(seed)
    shard = Shard()
    composer = Composer(rng, ("t",))
    for _ in range(10):
        try:
            batch = frames.CommandBatch.FromString(hostile_batch(composer, shard))
        except DecodeError:
            continue  # what Proposals.batch makes of it is told in tests/unit/shardworker
        shard.connection.execute("BEGIN IMMEDIATE")
        shard.index += 1
        try:
            shard.machine.apply(shard.index, batch)
        except (TooNew, UnreadableEntry):
            shard.connection.execute("ROLLBACK")
            shard.machine.rollback()
        else:
            shard.connection.execute("COMMIT")
            shard.machine.committed()
    shard.connection.close()
