from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from proto.etcd import rpc_pb2 as etcd
from tests.waiting import free_ports
from tools.admin.client import CallFailed, open_channel
from tools.admin.leadership import NotMoved
from tools.admin.membership import ChangeStuck
from tools.bench import scenarios, upkeep, workload
from tools.bench.cli import app
from tools.bench.joining import Timeline
from tools.bench.latency import Histogram
from tools.bench.load import Measurement
from tools.bench.report import Report
from tools.bench.run import LoadFailed, Outcome, Usage
from tools.failure import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def outcome(system: str, per_second: float, errors: dict[str, int] | None = None) -> Outcome:
    usage = {"server": Usage(50.0, 1_000_000), "client": Usage(90.0, 1_000_000)}
    return Outcome(system, int(per_second * 2), 2.0, errors or {}, Histogram.of([0.001]), 5.0, 0, usage)


# ---- workload -------------------------------------------------------------------------------------------------


def test_a_mix_is_read() -> None:
    assert workload.parse_mix("put=30, get=70") == {"put": 30, "get": 70}


@pytest.mark.parametrize("text", ["put=50", "put=50,get=60", "pet=100", "put=x", "put=50,put=50", ""])
def test_a_wrong_mix_is_refused(text: str) -> None:
    with pytest.raises(workload.BadMix):
        workload.parse_mix(text)


def test_the_same_seed_builds_the_same_requests() -> None:
    load = workload.Workload(
        mix={"put": 25, "get": 25, "range": 25, "txn": 25}, requests=400, tables=("a", "b")
    )
    built = workload.build(load)
    assert built == workload.build(load)
    assert len(built) == 400
    assert {kind for kind, _, _ in built} == {"put", "get", "range", "txn"}
    assert {table for _, table, _ in built} == {"a", "b"}
    for kind, _, body in built:
        if kind == "put":
            assert len(etcd.PutRequest.FromString(body).value) == load.value_bytes


def test_filling_puts_every_key_once_within_etcds_limit() -> None:
    load = workload.Workload(key_count=250, value_bytes=3)
    filled: Counter[bytes] = Counter()
    for body in workload.fill(load):
        puts = etcd.TxnRequest.FromString(body).success
        assert len(puts) <= 128
        filled.update(op.request_put.key for op in puts)
    assert filled == Counter(workload.key(number) for number in range(250))


def test_a_workload_survives_its_way_to_the_generator() -> None:
    load = workload.Workload(tables=("a", "b"), requests=7)
    assert workload.Workload.from_json(load.to_json()) == load


# ---- figures --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-5, 10), min_size=1, max_size=200), st.sampled_from([50, 99, 99.9]))
def test_percentiles_are_right_to_one_per_cent(seconds: list[float], percent: float) -> None:
    rank = -(-len(seconds) * percent // 100)
    exact = sorted(seconds)[int(rank) - 1] * 1e3
    assert Histogram.of(seconds).percentile_ms(percent) == pytest.approx(exact, rel=0.011)


def test_the_slowest_of_a_hundred_is_beyond_the_99th_percentile() -> None:
    calls = Histogram.of([0.001] * 99 + [1.0])
    assert calls.count == 100
    assert calls.percentile_ms(99) == pytest.approx(1, rel=0.01)
    assert calls.percentile_ms(99.9) == pytest.approx(1000, rel=0.01)
    assert Histogram().percentile_ms(50) == 0.0


def test_the_longest_pause_counts_from_the_start_to_the_end() -> None:
    measured = Measurement(seconds=[0.1, 0.1], done_at=[11.0, 10.5])
    assert measured.result(10.0, 14.0, 0.0)["longest_pause_ms"] == 3000
    assert Measurement().result(10.0, 14.0, 0.0)["longest_pause_ms"] == 4000


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    report = Report("puts")
    for ours, theirs in ((50, 100), (90, 100), (60, 100)):
        report.add(outcome("boathouse", ours))
        report.add(outcome("echo", theirs))
    assert report.ratios() == {"echo": pytest.approx(0.6)}


def test_errors_of_ours_count_and_others_do_not() -> None:
    report = Report("puts")
    report.add(outcome("boathouse", 10, {"UNAVAILABLE: gone": 2}))
    report.add(outcome("etcd", 10, {"UNAVAILABLE: gone": 3}))
    assert report.errors == 2
    said: list[str] = []
    report.show(said.append)
    assert "boathouse: 2 x UNAVAILABLE: gone" in said
    assert "boathouse / etcd: 1.00 (per second)" in said


def test_the_servers_cpu_leaves_the_client_out() -> None:
    assert outcome("boathouse", 100).server_cpu_us == pytest.approx(5000)


# ---- command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mix", "put=10"], "adds up to 10"),
        (["--scenario", "nope"], "'nope' is not one of"),
        (["--against", "redis"], "only etcd is known"),
        (["--tables", "0"], "at least one table"),
    ],
)
def test_wrong_usage_is_refused_before_anything_starts(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("kind", [LoadFailed, NotMoved, ChangeStuck, CallFailed])
def test_what_keeps_a_scenario_from_its_end_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[Exception]
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise kind("n2 would not")

    monkeypatch.setitem(scenarios.SCENARIOS, "moves", fail)
    result = CliRunner().invoke(app, ["--scenario", "moves", "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, Failed)
    assert str(result.exception) == "n2 would not"
    assert not [*tmp_path.iterdir()], "nothing is left behind"


def test_a_call_that_keeps_a_scenario_from_its_end_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        with open_channel(f"127.0.0.1:{free_ports(1)[0]}", None) as channel:
            channel.unary_unary("/etcdserverpb.KV/Range", None, None)(b"", timeout=10)

    monkeypatch.setitem(scenarios.SCENARIOS, "moves", fail)
    result = CliRunner().invoke(app, ["--scenario", "moves", "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, Failed)
    assert str(result.exception).startswith("a call failed: ")
    assert str(result.exception).endswith(" (UNAVAILABLE)")


def test_who_is_too_quick_for_a_rate_is_told_the_option_that_helps() -> None:
    timeline = Timeline(None)  # type: ignore[arg-type]
    timeline.points += [(1.0, 10), (3.0, 50), (5.0, 60)]
    assert timeline.rate(0.5, 4.0) == 20
    with pytest.raises(LoadFailed) as told:
        timeline.rate(2.0, 4.0)
    assert str(told.value).split()[-1] in {name for one in get_command(app).params for name in one.opts}


def test_a_load_that_is_over_before_the_work_beside_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "measure", lambda *_, **__: outcome("etcd", 10))
    monkeypatch.setattr(upkeep, "_compact_and_defragment", lambda *_: (1.0, 1.0, float("inf")))
    system: Any = SimpleNamespace(name="etcd")
    with pytest.raises(LoadFailed, match="longer --duration"):
        upkeep.compact_and_defragment(system, workload.Workload(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("received_bytes", "is_whole"), [(scenarios.SCANS * 100_000 * 256, True), (9, False)]
)
def test_a_scan_that_leaves_keys_out_is_no_figure(
    monkeypatch: pytest.MonkeyPatch, received_bytes: int, is_whole: bool
) -> None:
    @contextmanager
    def running(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(name="boathouse", processes=dict)

    monkeypatch.setattr(scenarios, "running", running)
    found = replace(outcome("boathouse", 4), received_bytes=received_bytes, errors={"INTERNAL: no": 1})
    monkeypatch.setattr(scenarios, "measure", lambda *_, **__: found)
    setting: Any = SimpleNamespace(rounds=1, ceiling=False, against_etcd=False, progress=lambda _name: None)
    if not is_whole:
        with pytest.raises(LoadFailed, match="left keys out of its answer: INTERNAL: no"):
            scenarios.range_100k(setting, workload.Workload())
        return
    report = scenarios.range_100k(setting, workload.Workload())
    assert report.values("boathouse", "rows_per_second") == [400_000]
    assert report.values("boathouse", "took") == [pytest.approx(1, rel=0.01)]
