"""What `boathouse start` and `stop` say of many processes."""

from __future__ import annotations

import pytest

from config.process.names import ProcessName
from config.process.report import ProcessReport, State
from tools.admin.control_client import SupervisorUnreachable
from tools.failure import Failed
from tools.operate import each
from tools.output import Output

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
