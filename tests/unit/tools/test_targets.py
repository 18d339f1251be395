"""TARGET: what each form names, and what the wrong ones are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.loading import load
from config.process.names import ProcessName
from config.process.report import ProcessReport, State
from tools.admin.targets import UnknownTarget, resolve

CLUSTER = load(Path(__file__).parents[3] / "config" / "examples" / "three-nodes.yaml")


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("n2", ["n2/shard-1", "n2/shard-2", "n2/shard-3", "n2/shard-4", "n2/coordinator"]),
        ("n1/coordinator", ["n1/coordinator"]),
        ("n3/shard-4", ["n3/shard-4"]),
        ("shard-2", ["n2/shard-2", "n3/shard-2", "n1/shard-2"]),
    ],
)
def test_a_target_names_processes(target: str, names: list[str]) -> None:
    assert [str(name) for name in resolve(CLUSTER, target)] == names


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (
            "n9",
            "n9 names no node of cluster demo (n1, n2, n3); a target is n1, n1/coordinator, n1/shard-2 or shard-2",
        ),
        (
            "",
            " names no node of cluster demo (n1, n2, n3); a target is n1, n1/coordinator, n1/shard-2 or shard-2",
        ),
        ("shard-5", "there is no shard 5; cluster demo has shards 1 to 4"),
        ("shard-0", "there is no shard 0; cluster demo has shards 1 to 4"),
        ("n1/shard-5", "node n1 has no shard-5; it has shard-1, shard-2, shard-3, shard-4, coordinator"),
        (
            "n1/",
            "node n1 has no process without a name; it has shard-1, shard-2, shard-3, shard-4, coordinator",
        ),
        ("n1/shard-02", "node n1 has no shard-02; it has shard-1, shard-2, shard-3, shard-4, coordinator"),
    ],
)
def test_a_wrong_target_is_told_what_there_is(target: str, complaint: str) -> None:
    with pytest.raises(UnknownTarget) as caught:
        resolve(CLUSTER, target)
    assert str(caught.value) == complaint


def test_a_report_survives_the_control_socket() -> None:
    report = ProcessReport(ProcessName.replica("n1", 2), State.BACKOFF, 42, 3, "killed", 1.5, "/log")
    assert ProcessReport.from_json(json.loads(json.dumps(report.to_json()))) == report
