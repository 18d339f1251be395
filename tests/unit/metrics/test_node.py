"""What a node tells of its processes to those who can't ask its supervisor."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pytest

from config.process.names import REPLICATOR, ProcessName
from config.process.report import ProcessReport, State
from coordinator.metrics.node import SupervisorSilent, ask_supervisor, node_processes
from tests.unit.coordinator.running import in_loop

if TYPE_CHECKING:
    from pathlib import Path

REPORTS = [
    ProcessReport(ProcessName.replica("n1", 2), State.RUNNING, pid=os.getpid(), restarts=3, started_at=7.5),
    ProcessReport(ProcessName("n1", REPLICATOR), State.FAILED, reason="no token"),
]


async def answered(socket: Path, answer: bytes) -> list[ProcessReport]:
    """What comes of a supervisor that answers so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert json.loads(await reader.readline()) == {"op": "status"}
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, socket)
    try:
        return await ask_supervisor(socket)
    finally:
        server.close()


@in_loop
async def test_the_supervisor_is_asked_as_by_any_program(tmp_path: Path) -> None:
    line = json.dumps({"ok": True, "processes": [report.to_json() for report in REPORTS]}).encode() + b"\n"
    assert await answered(tmp_path / "control", line) == REPORTS


@pytest.mark.parametrize("answer", [b"", b"no JSON\n", b"[]\n", b'{"ok": false, "error": "busy"}\n'])
@in_loop
async def test_what_is_no_answer_is_silence(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(SupervisorSilent):
        await answered(tmp_path / "control", answer)


@in_loop
async def test_a_supervisor_that_is_not_there_is_silent(tmp_path: Path) -> None:
    with pytest.raises(SupervisorSilent):
        await ask_supervisor(tmp_path / "control")


def test_processes_come_with_what_they_take() -> None:
    told = node_processes("demo", "n1", REPORTS)
    replica, replicator = told.processes
    assert (told.cluster, told.node, replica.kind, replica.number) == ("demo", "n1", "shardworker", 2)
    assert (replica.state, replica.pid, replica.restarts, replica.started_at) == (
        "running",
        os.getpid(),
        3,
        7.5,
    )
    assert replica.cpu_s > 0
    assert replica.rss_bytes > 1 << 20
    assert (replicator.HasField("number"), replicator.reason, replicator.pid) == (False, "no token", 0)
