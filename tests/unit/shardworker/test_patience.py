"""A long read ends once nobody waits for it, wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw
import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.replica.long_reads import Patience
from tests.unit.machine.shard import Shard, get, put, txn

if TYPE_CHECKING:
    from collections.abc import Callable


class Impatient(Patience):
    """It is over when somebody has looked so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._left = looks

    @property
    def is_over(self) -> bool:
        self._left -= 1
        return self._left < 0

    @is_over.setter
    def is_over(self, _value: bool) -> None:
        pass


def until_over(read: Callable[[apsw.Connection], object], looks: int) -> bool:
    """Whether a read came to its end before somebody had looked so often."""
    connection = apsw.Connection(":memory:")
    try:
        with Impatient(looks).of(connection):
            read(connection)
    except errors.ReadTimedOut:
        return False
    finally:
        connection.execute("SELECT 1")  # whoever has the connection next is not ended
    return True


def test_a_read_of_many_statements_ends_between_two() -> None:
    done = 0

    def read(connection: apsw.Connection) -> None:
        nonlocal done
        for _ in range(100):
            connection.execute("SELECT 1")
            done += 1

    assert not until_over(read, 10)
    assert done == 10
    assert until_over(read, 1_000)


def test_a_long_statement_ends_in_the_middle() -> None:
    def count(connection: apsw.Connection) -> Any:
        return connection.execute(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1000000) SELECT max(x) FROM n"
        ).fetchone()

    assert until_over(count, 10**6)
    assert not until_over(count, 20)


@pytest.mark.parametrize("looks", range(1, 12))
def test_the_connection_is_left_outside_of_a_transaction(looks: int) -> None:
    shard = Shard()
    shard.put(b"k")
    request = txn(*[get(b"k", b"l", count_only=True)] * 20)
    parsed = shard.machine.parse(frames.ETCD_TXN, 10_001, request.SerializeToString())
    with pytest.raises(errors.ReadTimedOut), Impatient(looks).of(shard.connection):
        shard.machine.read(shard.connection, parsed)
    assert not shard.connection.in_transaction
    assert shard.write(put(b"a")).error is None
    answer = shard.machine.read(shard.connection, parsed)
    assert etcd.TxnResponse.FromString(answer.body).responses[0].response_range.count == 1


def test_the_end_of_a_transaction_that_broke_off_in_a_statement_is_let_through() -> None:
    ended = False

    def read(connection: apsw.Connection) -> None:
        nonlocal ended
        connection.execute("BEGIN")
        try:
            connection.execute(
                "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 9000000) SELECT max(x) FROM n"
            ).fetchone()
        finally:
            connection.execute("ROLLBACK")
            ended = not connection.in_transaction

    assert not until_over(read, 20)
    assert ended
