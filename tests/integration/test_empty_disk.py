"""Real replicas that start on an empty disk: of a new shard, and of one that has data."""

from __future__ import annotations

import shutil
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from config.process.events import EXIT_RESTART
from proto import errors
from tests.integration.workers import WorkerProcess, Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def put(worker: WorkerProcess, number: int) -> None:
    worker.put(b"k%d" % number, b"v", b"request-%08d" % number)


def test_a_replica_that_lost_its_disk_is_rebuilt_and_decides_nothing_before(tmp_path: Path) -> None:
    with Workers(tmp_path, 3) as workers:
        workers.start_all()
        workers.at_leader(WorkerProcess.create_table)
        for number in range(20):
            workers.at_leader(partial(put, number=number))
        leader = workers.leader()
        lost, other = (worker for worker in workers if worker is not leader)
        lost.stop()
        shutil.rmtree(lost.folder)
        leader.signal(signal.SIGSTOP)
        other.signal(signal.SIGSTOP)

        lost.start()
        status = lost.status()
        assert "its disk is empty" in status.fault
        assert (status.term, status.leader, list(status.voters)) == (0, 0, [])
        with pytest.raises(errors.NotLeader, match="its disk is empty"):
            lost.range(b"k0", linearizable=False)
        other.signal(signal.SIGCONT)
        wait_until(
            lambda: "1 of 2 other voters" in lost.status().fault, timeout_s=10, what="one answer to arrive"
        )
        leader.signal(signal.SIGCONT)
        assert lost.wait_dead() == EXIT_RESTART, lost.describe()
        assert b"its disk was empty though its shard has data" in b"".join(lost.said)

        lost.start()
        wait_until(lambda: not lost.status().fault, timeout_s=20, what="the lost replica to serve again")
        workers.wait_alike(lost)
        assert lost.range(b"k", b"l", linearizable=False).count == 20
        workers.at_leader(partial(put, number=20))
        workers.wait_alike(lost)


def test_a_majority_begins_a_new_shard_and_a_latecomer_joins_it(tmp_path: Path) -> None:
    with Workers(tmp_path, 3) as workers:
        first, second, late = workers
        first.start()
        assert "its disk is empty" in first.status().fault
        second.start()
        workers.at_leader(WorkerProcess.create_table)
        workers.at_leader(partial(put, number=0))
        late.start()
        assert late.wait_dead() == EXIT_RESTART, late.describe()
        late.start()
        workers.wait_alike(late)
        assert late.range(b"k0", linearizable=False).kvs[0].value == b"v"


def test_a_lone_voter_does_not_begin_its_shard_anew(tmp_path: Path) -> None:
    with Workers(tmp_path) as workers:
        worker = workers["n1"]
        worker.start()
        worker.create_table()
        put(worker, 0)
        worker.stop()
        kept = worker.folder.rename(worker.folder.with_name("kept"))
        worker.start()
        assert worker.wait_dead() == 1, worker.describe()
        assert b"tells that this replica was born and has data" in b"".join(worker.said)
        shutil.rmtree(worker.folder)
        kept.rename(worker.folder)
        worker.start()
        assert worker.range(b"k0").count == 1
