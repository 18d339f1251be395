"""How late leases end, as the benchmark counts it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proto.etcd import rpc_pb2 as etcd
from tests.unit.coordinator.running import in_loop
from tools.bench import leases
from tools.bench.leases import TTL_S
from tools.bench.run import LoadFailed


def test_lateness_counts_from_the_answer_that_granted_the_lease() -> None:
    ends = leases._Ends(
        asked_s={1: 10.0, 2: 10.0},
        granted_s={1: 12.0, 2: 10.5},
        gone_s={1: 12.25 + TTL_S, 2: 11.5 + TTL_S},
    )
    assert ends.late_s() == [0.25, 1.0]
    assert ends.early() == 0


def test_early_is_whatever_ends_within_its_time_from_when_it_was_asked_for() -> None:
    """A grant whose answer takes long has begun somewhere in between: a lease may end before the latter's time."""
    ends = leases._Ends(
        asked_s={1: 10.0, 2: 10.0},
        granted_s={1: 12.0, 2: 12.0},
        gone_s={1: 11.0 + TTL_S, 2: 9.75 + TTL_S},
    )
    assert ends.late_s() == [-2.25, -1.0]
    assert ends.early() == 1


@in_loop
async def test_a_lease_is_gone_when_its_key_is_told_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=iter([100.0, 101.0]).__next__))
    answers: list[Any] = [etcd.WatchResponse(), etcd.WatchResponse()]
    for answer, numbers in zip(answers, ((7, 0), (12,)), strict=True):
        for number in numbers:
            answer.events.add(kv={"key": leases.KEY + b"%d" % number})
    answers.append(None)  # grpc.aio.EOF is as false

    async def read() -> Any:
        return answers.pop(0)

    ends = leases._Ends()
    with pytest.raises(LoadFailed, match="has ended"):
        await leases._note(SimpleNamespace(read=read), ends)
    assert ends.gone_s == {7: 100.0, 0: 100.0, 12: 101.0}
