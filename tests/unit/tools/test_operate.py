"""What `boathouse start`, `stop` and `restart` say of many processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from config.process.report import ProcessReport, State
from tests.waiting import wait_until
from tools.admin.canary import Canary
from tools.admin.control_client import SupervisorUnreachable
from tools.admin.reach import IN_THE_CLEAR
from tools.admin.rolling import QuorumNeeded, RestartStuck
from tools.failure import Failed, SeenByClients
from tools.operate import each, under_watch
from tools.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig
    from tests.unit.tools.fake_coordinator import Coordinator

N1, N2, N3 = (ProcessName.replica(node, 2) for node in ("n1", "n2", "n3"))


def test_a_node_that_is_down_does_not_hold_up_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def start(name: ProcessName) -> ProcessReport:
        if name == N1:
            raise SupervisorUnreachable("node n1 is not up here")
        state = State.RUNNING if name == N2 else State.FAILED
        return ProcessReport(name, state, pid=7, restarts=0, started_at=None, reason="no disk", log="")

    with pytest.raises(Failed) as failure:
        each([N1, N2, N3], start, "starting", State.RUNNING, Output.TABLE)
    assert capsys.readouterr().out.splitlines() == [
        "n2/shard-2 is running, process 7",
        "n3/shard-2 is failed, process 7: no disk",
    ]
    assert str(failure.value).splitlines() == [
        "n3/shard-2 is failed, process 7: no disk",
        "node n1 is not up here",
    ]


def running(name: ProcessName) -> ProcessReport:
    return ProcessReport(name, State.RUNNING, pid=7)


def test_a_restart_that_ends_early_says_what_clients_saw(
    coordinator: tuple[Coordinator, ClusterConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(names: list[ProcessName], on_done: Callable[[ProcessReport], None]) -> None:
        on_done(running(names[0]))
        raise RestartStuck("n2/shard-2 had not caught up")

    with pytest.raises(
        RestartStuck, match="had not caught up; to go on where this ended, repeat it with --older-than"
    ):
        under_watch(Canary(coordinator[1], IN_THE_CLEAR), run, [N1, N2], Output.TABLE)
    done, saw = capsys.readouterr().out.splitlines()
    assert done == "n1/shard-2 is running, process 7"
    assert saw.startswith("clients saw 0 failed")


def test_a_restart_that_is_refused_at_once_has_shown_clients_nothing(
    coordinator: tuple[Coordinator, ClusterConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(names: list[ProcessName], on_done: Callable[[ProcessReport], None]) -> None:
        raise QuorumNeeded("n1/shard-2 is not restarted")

    with pytest.raises(QuorumNeeded):
        under_watch(Canary(coordinator[1], IN_THE_CLEAR), run, [N1], Output.TABLE)
    assert capsys.readouterr().out == ""


def test_a_restart_that_clients_noticed_ends_with_a_code_of_its_own(
    coordinator: tuple[Coordinator, ClusterConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    made, cluster = coordinator

    def run(names: list[ProcessName], on_done: Callable[[ProcessReport], None]) -> None:
        made.failing = {"default"}
        wait_until(made.has_failed.is_set, timeout_s=10, what="a failure")
        on_done(running(names[0]))

    with pytest.raises(SeenByClients) as failure:
        under_watch(Canary(cluster, IN_THE_CLEAR), run, [N1], Output.JSON)
    assert failure.value.exit_code == 4
    document = json.loads(capsys.readouterr().out)
    assert document["clients"]["failed"] > 0
    assert [each["node"] for each in document["processes"]] == ["n1"]
