"""The Grafana dashboard and the alert rules of config/ against what a cluster really tells: each expression parses, and
names only metrics and labels that there are."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import grpc
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from coordinator.metrics.replication import replication_families
from coordinator.replication.report import CopyReport, Report
from proto.etcd import rpc_pb2 as rpc
from tests.integration.cluster import ROOT, Cluster
from tools.admin.client import KvClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client import Metric

DASHBOARD: Final = json.loads((ROOT / "config/grafana/boathouse.json").read_text())
RULES: Final = yaml.safe_load((ROOT / "config/prometheus/alerts.yaml").read_text())
ALERTS: Final[list[dict[str, Any]]] = [rule for group in RULES["groups"] for rule in group["rules"]]
PROMETHEUS_LABELS: Final = {"job", "instance"}
"""Those that the scraper itself adds."""

Labels = dict[str, set[str]]
"""The labels that there are, by metric."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """By real nodes with something to tell, some of it by who leads alone, and by a follower cluster's report."""
    with Cluster(tmp_path_factory.mktemp("dashboards"), nodes=3, shards=1) as cluster:
        cluster.wait_leaders()
        with KvClient([cluster.config.node("n1").client_endpoint], None, 10) as client:
            client.put(rpc.PutRequest(key=b"k", value=b"v"))
        families: list[Metric] = []
        with watching(cluster.config.node("n1").client_endpoint):
            for node in cluster.config.nodes.values():
                with urllib.request.urlopen(f"http://{node.http_endpoint}/metrics", timeout=10) as page:
                    families += text_string_to_metric_families(page.read().decode())
    copy = CopyReport("t", 10, 1, 0.5, "follows", False, "", 0.0)
    families += replication_families(Report.of("n1", 1.0, [copy], refused={}), "n1")
    labels: Labels = {"up": set()}
    for family in families:
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
        labels.setdefault(family.name, set())
    return labels


@contextlib.contextmanager
def watching(endpoint: str) -> Iterator[None]:
    """Somebody watches a key meanwhile."""
    create = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k"))
    with grpc.insecure_channel(endpoint) as channel:
        watch: grpc.StreamStreamMultiCallable[rpc.WatchRequest, rpc.WatchResponse] = channel.stream_stream(
            "/etcdserverpb.Watch/Watch", rpc.WatchRequest.SerializeToString, rpc.WatchResponse.FromString
        )
        ended = threading.Event()

        def requests() -> Iterator[rpc.WatchRequest]:
            yield create
            ended.wait(60)

        answers = watch(requests())
        assert next(iter(answers)).created
        yield
        ended.set()


def expressions() -> Iterator[tuple[str, str]]:
    """What is asked, by who asks."""
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            asked = target["expr"].replace("$__rate_interval", "5m")
            yield f"{panel['title']} {target['refId']}", re.sub(r"\$(job|table)", "x", asked)


def selectors(node: Any) -> Iterator[promql.VectorSelector]:
    """All that an expression reads."""
    match node:
        case promql.VectorSelector():
            yield node
        case promql.MatrixSelector():
            yield node.vector_selector
        case promql.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from selectors(node.expr)
        case promql.Call():
            for argument in node.args:
                yield from selectors(argument)


@pytest.mark.parametrize(("who", "expression"), list(expressions()), ids=lambda one: str(one)[:40])
def test_only_what_is_told_is_asked_for(told: Labels, who: str, expression: str) -> None:
    read = list(selectors(promql.parse(expression)))
    assert read, who
    known = PROMETHEUS_LABELS | {"le"}
    for selector in read:
        assert selector.name in told, f"{who}: no node tells {selector.name}"
        known |= told[selector.name]
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= told[selector.name] | PROMETHEUS_LABELS, f"{who}: {selector.name} has no such label"
    for words in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        grouped = {word.strip() for word in words.split(",") if word.strip()}
        assert grouped <= known, f"{who}: no series has these labels: {grouped - known}"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_how_bad_it_is(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["alert"].startswith("Boathouse")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert re.fullmatch(r"[0-9]+[smh]", rule.get("for", "0s"))


def aggregations(node: Any) -> Iterator[promql.AggregateExpr]:
    """All that an expression sums up."""
    match node:
        case promql.AggregateExpr():
            yield node
            yield from aggregations(node.expr)
        case promql.BinaryExpr():
            yield from aggregations(node.lhs)
            yield from aggregations(node.rhs)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from aggregations(node.expr)
        case promql.Call():
            for argument in node.args:
                yield from aggregations(argument)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_clusters_of_one_prometheus_are_kept_apart(rule: dict[str, Any]) -> None:
    parsed = promql.parse(rule["expr"])
    for each in aggregations(parsed):
        assert each.modifier is not None
        assert "job" in each.modifier.labels
    for selector in selectors(parsed):
        # Names that are not ours alone.
        if not str(selector.name).startswith("boathouse_"):
            assert "job" in {matcher.name for matcher in selector.matchers.matchers}, selector.name


@pytest.mark.parametrize("who", ["BoathouseShardWithoutLeader", "Shards without A"])
def test_a_shard_whose_replicas_are_all_silent_has_no_leader(who: str) -> None:
    """Of a silent replica there is boathouse_replica_up alone."""
    (expression,) = [each for name, each in expressions() if name == who]
    assert {each.name for each in selectors(promql.parse(expression))} == {
        "boathouse_replica_is_leader",
        "boathouse_replica_up",
    }


def test_no_alert_is_there_twice() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))


def test_panels_lie_side_by_side_and_on_nobody() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & taken, panel["title"]
        taken |= mine
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_the_example_scrapes_what_the_rules_and_the_dashboard_ask_of() -> None:
    folder: Path = ROOT / "config/prometheus"
    example = yaml.safe_load((folder / "prometheus.yaml").read_text())
    assert all((folder / file).exists() for file in example["rule_files"])
    (job,) = example["scrape_configs"]
    (asked,) = re.findall(r'up\{job=~"(.*)"\}', ALERTS[0]["expr"])
    assert re.fullmatch(asked, job["job_name"])
