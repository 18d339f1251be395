"""Cursors of a real worker, over its deaths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta
from tests.integration.workers import TABLE, WorkerProcess, Workers

if TYPE_CHECKING:
    from pathlib import Path

VALUE_BYTES = 1 << 20


def open_cursor(worker: WorkerProcess) -> int:
    """An iteration over all keys, of which the first part was read."""
    everything = regatta.RangeRequest(table=b"default", key=b"\0", range_end=b"\0").SerializeToString()
    cursor: int = worker.ask(frames.REGATTA_ITERATE, everything, table_id=TABLE).cursor
    assert cursor
    return cursor


def test_a_cursor_of_an_earlier_life_reads_nobody_elses_iteration(tmp_path: Path) -> None:
    with Workers(tmp_path) as workers:
        worker = workers["n1"]
        worker.start()
        worker.create_table()
        for number in range(8):
            worker.put(b"key-%d" % number, bytes(VALUE_BYTES), b"put-%012d" % number)
        old = open_cursor(worker)
        worker.kill()
        worker.start()
        new = open_cursor(worker)
        with pytest.raises(errors.CursorNotFound):
            worker.ask(frames.CURSOR_NEXT, table_id=TABLE, cursor=old)
        worker.ask(frames.CURSOR_CLOSE, table_id=TABLE, cursor=old)
        assert worker.ask(frames.CURSOR_NEXT, table_id=TABLE, cursor=new).body
