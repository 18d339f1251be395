"""How late leases end, as the benchmark counts it."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from proto.etcd import rpc_pb2 as etcd
from tests.unit.coordinator.running import in_loop
from tools.bench import leases
from tools.bench.latency import Histogram
from tools.bench.leases import TTL_S
from tools.bench.run import LoadFailed, Outcome
from tools.bench.systems import Boathouse
from tools.bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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


def test_what_fails_around_a_kill_counts_as_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def running(*_: Any) -> Iterator[Boathouse]:
        yield Boathouse(tmp_path, 3, 1, 3, ())

    async def nothing(*_: Any) -> list[Any]:
        return []

    pauses_ms = iter([60.0, 70.0, 80.0, 120.0, 190.0, 130.0])

    def measure(*_: Any, **__: Any) -> Outcome:
        failed = {"UNAVAILABLE: gone": 1}
        return Outcome("boathouse", 10, 1.0, failed, Histogram.of([0.001]), next(pauses_ms), 0)

    monkeypatch.setattr(leases, "running", running)
    monkeypatch.setattr(leases, "_run_out", nothing)
    monkeypatch.setattr(leases, "_grant_long", nothing)
    monkeypatch.setattr(leases, "_kill_leader", lambda *_: None)
    monkeypatch.setattr(leases, "measure", measure)
    setting: Any = SimpleNamespace(rounds=1, ceiling=False, against_etcd=False, progress=lambda _name: None)
    report = leases.leases(setting, Workload())
    assert report.errors == 2 * leases.KILLS
    (pause,) = report.figures
    assert pause.value == 190.0
    assert pause.note == "after kill -9 of the leader: 120, 190, 130; without leases 60, 70, 80"
