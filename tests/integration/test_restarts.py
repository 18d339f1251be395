"""Planned restarts and moves on real clusters, under clients that write down every call."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from tests.integration.clients import Load
from tests.integration.cluster import Cluster
from tests.waiting import wait_until
from tools.admin.operate import move_leader

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    tables = {"default": {"shard": 1}, "second": {"shard": 2}}
    with Cluster(tmp_path_factory.mktemp("restarts"), nodes=3, shards=2, tables=tables) as made:
        made.wait_leaders()
        yield made


def test_everything_is_restarted_and_leaders_move_and_clients_notice_nothing(cluster: Cluster) -> None:
    before = {report.name: report.pid for report in cluster.reports()}
    with Load(cluster.endpoints, ["default", "second"], clients=16) as load:
        load.wait_answers(100)
        told = cluster.cli_json("restart", "--all")
        assert {report.name: report.pid for report in cluster.reports()}.items().isdisjoint(before.items())
        assert len(told["processes"]) == len(before)
        assert told["clients"]["failed"] == 0, told["clients"]
        assert told["clients"]["coordinators"] == ["n1", "n2", "n3"]
        assert told["clients"]["shards"] == [1, 2]
        started = datetime.fromtimestamp(min(each["started_at"] for each in told["processes"]) - 1, UTC)
        when = started.strftime("%Y-%m-%dT%H:%M:%S")
        resumed = cluster.cli_json("restart", "--all", "--older-than", when)
        assert resumed == {"processes": [], "clients": None}, "a roll that is done has nothing left"

        cluster.wait_leaders()
        target = next(name.node for name in cluster.replicas(1) if name != cluster.leader(1))
        assert move_leader(cluster.config, 1, target).target == target
        move_leader(cluster.config, 2, target)
        assert {row["leader"] for row in cluster.cli_json("shard", "list")} == {target}
        assert len(cluster.cli_json("shard", "balance")) == 1
        assert len({cluster.leader(shard).node for shard in (1, 2)}) == 2
        load.wait_answers(100)
    assert not load.failures, load.failures[:3]
    load.check()


def test_what_a_shard_cannot_do_without_is_not_restarted(cluster: Cluster) -> None:
    away = ProcessName.replica("n3", 1)
    assert cluster.cli("stop", str(away)).returncode == 0
    assert cluster.leader(1) != away
    wait_until(
        lambda: all(status.leader for status in cluster.ask(1).values()),
        timeout_s=20,
        what="the others to know their leader",
    )
    refused = cluster.cli("restart", "n1/shard-1")
    said = refused.stderr.decode()
    assert refused.returncode == 3, said
    assert (
        "n1/shard-1 is not restarted: shard 1 would lose its quorum without it while n3/shard-1 is away"
        in said
    )
    pid = cluster.pid(ProcessName.replica("n1", 1))
    # 4: it was restarted, and requests failed. Nothing else is promised of a shard that has no quorum meanwhile.
    assert cluster.cli("restart", "n1/shard-1", "--force").returncode in {0, 4}
    assert cluster.pid(ProcessName.replica("n1", 1)) != pid
    # What is down comes first: then the others can go.
    (first, *_) = plan = cluster.cli_json("restart", "shard-1", "--dry-run")
    assert (first["node"], first["up"]) == ("n3", False)
    assert not any(step["quorum_lost_with"] for step in plan)
    assert cluster.cli("start", str(away)).returncode == 0
