from __future__ import annotations

import pytest

from shardworker.machine import scrub as scrubbing
from shardworker.machine.scrub import Position, scrub
from tests.unit.machine.shard import TABLE, Shard, put, txn


def busy_shard() -> Shard:
    """Every kind of row: values, versions, tombstones of one key and of a range, transactions, compacted history."""
    shard = Shard()
    for number in range(20):
        shard.put(b"k%02d" % number, b"value-%02d" % number)
    shard.put(b"k03", b"again")
    shard.delete(b"k04")
    shard.delete(b"k05", b"k08")
    shard.put(b"k05", b"back")
    shard.write(txn(put(b"a", b"1"), put(b"b", b"2")))
    return shard


def problems(shard: Shard, rows_max: int = 7) -> list[str]:
    """One whole walk, in steps."""
    found, at = [], Position()
    while True:
        step = scrub(shard.connection, at, rows_max)
        assert step.rows <= rows_max
        at = step.next
        if step.problem:
            found.append(step.problem)
        if at == Position():
            return found


@pytest.mark.parametrize("rows_max", [1, 7, 1000])
def test_sound_tables(rows_max: int) -> None:
    shard = busy_shard()
    assert problems(shard, rows_max) == []
    shard.sweep()
    assert problems(shard, rows_max) == []


def test_tables_that_keep_no_history() -> None:
    shard = Shard(history=0)
    for number in range(10):
        shard.put(b"k%d" % (number % 3), b"%d" % number)
    shard.delete(b"k1")
    assert problems(shard) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE t{}_rev SET kv = CAST(replace(kv, 'value-11', 'value-12') AS BLOB) WHERE key = 'k11'",
        "UPDATE t{}_rev SET kv = x'00' WHERE key = CAST('k11' AS BLOB)",
        "UPDATE t{}_rev SET key = CAST('k99' AS BLOB) WHERE key = CAST('k11' AS BLOB)",
        "UPDATE t{}_rev SET key = CAST('k99' AS BLOB) WHERE key = CAST('k04' AS BLOB) AND kv ISNULL",
        "UPDATE t{}_rev SET crc = crc + 1 WHERE key = CAST('k11' AS BLOB)",
        "UPDATE t{}_rev SET crc = NULL WHERE key = CAST('k11' AS BLOB)",
        "DELETE FROM t{}_rev WHERE key = CAST('k11' AS BLOB)",
        "UPDATE t{}_live SET id = id + (1 << 24) WHERE key = CAST('k11' AS BLOB)",
        "UPDATE t{}_live SET version = 2 WHERE key = CAST('k11' AS BLOB)",
        "UPDATE t{}_live SET lease = 2 WHERE key = CAST('k11' AS BLOB)",
        "UPDATE t{}_live SET create_revision = 2 WHERE key = CAST('k11' AS BLOB)",
        "DELETE FROM t{}_live WHERE key = CAST('k11' AS BLOB)",
    ],
)
def test_what_a_disk_can_do(damage: str) -> None:
    shard = busy_shard()
    text = damage.format(TABLE).replace("WHERE key = 'k11'", "WHERE key = CAST('k11' AS BLOB)")
    shard.connection.execute(text)
    assert shard.connection.changes() == 1
    assert len(problems(shard)) > 0


def test_large_values_end_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "STEP_BYTES_MAX", 100)
    shard = Shard()
    for number in range(5):
        shard.put(b"k%d" % number, b"v" * 90)
    assert scrub(shard.connection, Position(), 1000).rows == 1
    assert problems(shard, 1000) == []
