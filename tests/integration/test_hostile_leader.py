"""A leader that writes what nobody can run: who got it stops and says so, and the others go on."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from tests.integration import hostile_worker
from tests.integration.workers import MOVED, WorkerProcess, Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_a_replica_that_cannot_read_an_entry_stops_alone_and_can_be_rebuilt(tmp_path: Path) -> None:
    with Workers(tmp_path, 3) as workers:
        first, second, victim = workers
        workers.start_all(build=hostile_worker.__name__)
        workers.at_leader(WorkerProcess.create_table)
        workers.at_leader(
            partial(WorkerProcess.put, key=b"k", value=b"sound", request_id=b"a sound write___")
        )

        def poisoned() -> bool:
            workers.lead(first)
            first.put(hostile_worker.POISON, b"v", b"a poisoned write")
            return True

        wait_until(poisoned, timeout_s=60, what="a write through n1", not_yet=MOVED)
        assert victim.wait_dead() == 1
        said = victim.said[-1]
        assert b"is no batch of commands" in said
        assert b"shardworker.store.rebuild" in said, "and what to do"
        victim.start(wait=False)
        assert victim.wait_dead() == 1, "the log is still the same"
        assert b"is no batch of commands" in b"".join(victim.said[-2:])
        workers.at_leader(
            partial(WorkerProcess.put, key=b"k", value=b"later", request_id=b"a later write___")
        )

        # The others are sound, and so is what they send.
        for worker in (first, second):
            worker.stop()
            worker.start()
        rebuild = [sys.executable, "-m", "shardworker.store.rebuild", str(victim.folder)]
        subprocess.run(rebuild, check=True, capture_output=True)
        victim.start()
        workers.wait_alike(victim)
        assert victim.range(hostile_worker.POISON, linearizable=False).kvs[0].value == b"v"
        assert victim.range(b"k", linearizable=False).kvs[0].value == b"later"
