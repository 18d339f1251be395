"""Whatever a request runs into, it leaves no trace: the limits are set so low here that many run into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardworker.machine import budget, transactions, writer
from tests.property.machine import requests
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from types import ModuleType

    from google.protobuf.message import Message


def trace(shard: Shard) -> list[Any]:
    """The table's counters and everything that is stored of it."""
    stored = [
        list(shard.connection.execute(f"SELECT * FROM t{TABLE}_{part} ORDER BY 1"))  # noqa: S608
        for part in ("rev", "live", "dead")
    ]
    return [shard.machine.table_status(), *stored]


txns = st.one_of(requests.etcd_txns, requests.regatta_txns)
limits = st.sampled_from(
    [
        ("WRITE_ANSWER_BYTES_MAX", 60, [writer]),
        ("CHANGES_MAX", 4, [transactions, writer]),
        ("ROWS_MAX", 4, [budget]),
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([-1, 0, 3]), limits, st.lists(txns, min_size=1, max_size=6))
def test_a_refused_write_leaves_no_trace(
    history: int, limit: tuple[str, int, list[ModuleType]], program: list[Message]
) -> None:
    shard = Shard(history=history)
    for key in requests.KEYS:
        shard.put(key, bytes(40))
    with pytest.MonkeyPatch.context() as patch:
        name, bound, modules = limit
        for module in modules:
            patch.setattr(module, name, bound)
        for request in program:
            before = trace(shard)
            if shard.write(request).error is not None:
                assert trace(shard) == before, request
