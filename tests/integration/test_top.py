"""`boathouse top` and `doctor` against real processes: by the cluster file, by endpoints, and on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from tests.integration.cluster import BOATHOUSE, ROOT, Cluster, run_cli
from tests.terminal import on_terminal
from tests.waiting import wait_until
from tools.admin.attachment import ClusterAttachment, EndpointAttachment, NotDone
from tools.admin.control_client import NodeControl
from tools.admin.diagnosis import diagnose
from tools.admin.quorum import Verb
from tools.admin.reach import IN_THE_CLEAR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PENDING_MAX = 9_999
"""Not what counts where the file says nothing."""


@pytest.fixture(name="cluster", scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, one shard. Every test leaves it up."""
    with Cluster(
        tmp_path_factory.mktemp("top"),
        nodes=3,
        shards=1,
        tables={"default": {"shard": 1}},
        settings={"limits": {"pending_requests_max": PENDING_MAX}},
    ) as cluster:
        cluster.wait_leaders()
        yield cluster


def test_one_frame_without_a_terminal(cluster: Cluster) -> None:
    endpoint = cluster.config.node("n2").client_endpoint
    by_file = cluster.cli("top", "--once", "--refresh", "0.2")
    by_endpoints = subprocess.run(
        [*BOATHOUSE, "top", "--once", "--refresh", "0.2", "--endpoints", endpoint],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )
    for done in (by_file, by_endpoints):
        assert done.returncode == 0, done.stderr.decode()
        frame = done.stdout.decode()
        assert "shards 1/1 have a leader\n" in frame
        assert [line[0] for line in frame.splitlines() if "/shard-1 " in line].count("L") == 1
    refused = cluster.cli("top")
    assert (refused.returncode, b"--once" in refused.stderr) == (1, True)


def test_the_doctor_finds_a_stopped_replica_and_an_operator_mends_it(cluster: Cluster) -> None:
    with ClusterAttachment(cluster.config, str(cluster.file), IN_THE_CLEAR) as attached:
        leader = attached.poll().shards[0].leader
        assert leader is not None
        target = next(name for name in ("n1", "n2", "n3") if name != leader)
        attached.act(Verb.MOVE_LEADER, ProcessName.replica(target, 1), leader, force=False)
        wait_until(lambda: attached.poll().shards[0].leader == target, timeout_s=20, what=f"{target} to lead")
        stopped = ProcessName.replica(leader, 1)
        attached.act(Verb.STOP, stopped, target, force=False)
        done = cluster.cli("doctor", "-o", "json")
        assert done.returncode == 1
        assert b"process-stopped" in done.stdout
        assert b"shard-below-replicas" in done.stdout
        endpoint = cluster.config.node("n2").client_endpoint
        from_afar = run_cli(
            "doctor", "-o", "json", "--endpoints", endpoint, BOATHOUSE_FILE="of another cluster"
        )
        assert from_afar.returncode == 1, from_afar.stderr.decode()
        codes = [(each["code"], each["severity"]) for each in json.loads(from_afar.stdout)]
        assert ("process-stopped", "warning") in codes
        assert codes[-1] == ("not-tried", "note"), "it says what it could not look at"
        needed = ProcessName.replica(min({"n1", "n2", "n3"} - {leader, target}), 1)
        with pytest.raises(NotDone, match="would lose its quorum"):
            attached.act(Verb.RESTART, needed, target, force=False)
        attached.act(Verb.RESTART, needed, target, force=True)
        attached.act(Verb.START, stopped, target, force=False)
        wait_until(
            lambda: len(attached.poll().shards[0].serving) == 3, timeout_s=20, what="three voters that serve"
        )


def test_keys_are_read_through_any_endpoint_that_answers(cluster: Cluster) -> None:
    for value in ("first", "second"):
        assert cluster.cli("kv", "put", "greeting", value).returncode == 0
    dead, alive = "127.0.0.1:1", cluster.config.node("n1").client_endpoint
    with EndpointAttachment([dead, alive], IN_THE_CLEAR) as attached:
        table = attached.table("default")
        wait_until(
            lambda: len(table.history(b"greeting")) == 2, timeout_s=10, what="both revisions on this node"
        )
        assert [row.value for row in table.history(b"greeting")] == [b"second", b"first"]
        assert [row.key for row in table.page(b"").rows] == [b"greeting"]
        assert [node.name for node in attached.poll().nodes] == ["n1", "n2", "n3"]


def test_tables_are_seen_though_the_first_member_is_dead_from_the_start(cluster: Cluster) -> None:
    first = ProcessName.coordinator("n1")
    NodeControl(cluster.config, "n1").operate("stop", [first.local], timeout_s=20)
    try:
        with EndpointAttachment([cluster.config.node("n2").client_endpoint], IN_THE_CLEAR) as attached:
            snapshot = attached.poll()
        assert [table.name for table in snapshot.tables] == ["default"]
        assert [node.is_up for node in snapshot.nodes] == [False, True, True]
    finally:
        NodeControl(cluster.config, "n1").operate("start", [first.local], timeout_s=20)


def test_processes_are_told_of_where_no_supervisor_can_be_asked(cluster: Cluster, tmp_path: Path) -> None:
    """As on another host: by its coordinators, in either way to attach."""
    assert cluster.cli("kv", "put", "counted", "once").returncode == 0
    elsewhere = cluster.config.model_copy(update={"data_dir": tmp_path})
    endpoints = [cluster.config.node("n2").client_endpoint]
    with (
        ClusterAttachment(elsewhere, "", IN_THE_CLEAR) as by_file,
        EndpointAttachment(endpoints, IN_THE_CLEAR) as by_endpoints,
    ):
        expected = {report.name: report.pid for report in cluster.reports()}
        for attached in (by_file, by_endpoints):
            wait_until(
                lambda attached=attached: {p.name: p.pid for p in attached.poll().processes} == expected,  # type: ignore[misc]
                timeout_s=20, what="all processes",
            )  # fmt: skip
            snapshot = attached.poll()
            assert {process.state for process in snapshot.processes} == {"running"}
            assert all(
                process.rss_bytes and process.cpu_percent is not None for process in snapshot.processes
            )
            assert not any(process.is_here for process in snapshot.processes)
            assert all(replica.sync_p99_us is not None for replica in snapshot.replicas)
            assert [len(shard.serving) for shard in snapshot.shards] == [3]
            assert snapshot.calls
            assert snapshot.limits.pending_requests_max == PENDING_MAX
            assert not snapshot.is_measured_by_defaults
            assert diagnose(snapshot) == []
        leader = by_endpoints.poll().shards[0].leader
        assert leader is not None
        by_endpoints.act(Verb.MOVE_LEADER, ProcessName.replica(leader, 1), leader, force=False)
        wait_until(
            lambda: by_endpoints.poll().shards[0].leader not in (leader, None),
            timeout_s=20,
            what="another leader",
        )
        with pytest.raises(NotDone, match="by a cluster file only"):
            by_endpoints.act(Verb.STOP, ProcessName.replica(leader, 1), None, force=False)


def test_on_a_terminal_it_shows_the_cluster_and_ends_with_q(cluster: Cluster) -> None:
    command = [*BOATHOUSE, "top", str(cluster.file), "--refresh", "0.2"]
    with on_terminal(command, os.environ, columns=80) as terminal:
        terminal.wait_shows(b"shards 1/1 have a leader", "the overview")
        terminal.type(b"4")
        terminal.wait_shows(b"n3/shard-1", "the replicas")
        terminal.type(b"q")
        terminal.wait_left()
        assert terminal.program.returncode == 0
