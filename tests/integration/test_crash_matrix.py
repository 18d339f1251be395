"""A real worker is killed by SIGKILL at every durable step, while it works, and starts again.

Each crash point of the store is met in the life that leads to it in production: a lone replica's start, writes, log
compaction and checkpoints; a leader that makes a snapshot; a follower that receives and installs one; a follower whose
log gives way to another leader's. Afterwards nothing acknowledged is lost, nothing is applied twice however often it
is asked for, the file is sound by SQLite's own check and by ours, and writes go on.

(`tests/integration/store` does the same to the store alone, in more places.)"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Any, Final

import pytest

from proto import errors
from shardworker.inspection import inspect_database
from shardworker.store import CrashPoint
from tests.integration.workers import Silence, WorkerProcess, Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

WRITES: Final = 100
KEPT: Final = 4
"""Entries that stay in the log, so that whoever is away for a moment needs a snapshot."""
VALUE: Final = b"v" * 2000

LIFE = {
    CrashPoint.CREATE_BEFORE_COMMIT: 1,
    CrashPoint.CREATE_COMMITTED: 1,
    CrashPoint.BIRTH_RECORDED: 2,
    CrashPoint.EPOCH_COMMITTED: 1,
    CrashPoint.MEMBERSHIP_WRITTEN: 1,
    CrashPoint.CATALOG_WRITTEN: 1,
    CrashPoint.TURN_BEGUN: 37,
    CrashPoint.APPEND_WRITTEN: 31,
    CrashPoint.APPLY_WRITTEN: 29,
    CrashPoint.HARD_STATE_WRITTEN: 23,
    CrashPoint.COMMIT_BEFORE: 41,
    CrashPoint.COMMIT_DONE: 43,
    CrashPoint.COMPACT_WRITTEN: 1,
    CrashPoint.CHECKPOINT_BEFORE: 1,
    CrashPoint.CHECKPOINT_DONE: 1,
}
"""Points in the life of a lone replica, and at which time they are reached it dies."""

if os.environ.get("BOATHOUSE_EXAMPLES") == "fresh":
    # A soak: other moments of the points that come again and again.
    chance = random.Random(os.environ.get("BOATHOUSE_SEED"))
    LIFE = {point: time if time == 1 else chance.randrange(2, 90) for point, time in LIFE.items()}

SENDING: Final = (CrashPoint.SNAPSHOT_COPIED, CrashPoint.SNAPSHOT_STRIPPED)

RECEIVING: Final = (
    CrashPoint.RECEIVE_CREATED,
    CrashPoint.RECEIVE_CHUNK,
    CrashPoint.RECEIVE_SYNCED,
    CrashPoint.RECEIVE_VERIFIED,
    CrashPoint.INSTALL_PREPARED,
    CrashPoint.INSTALL_RENAMED,
    CrashPoint.INSTALL_SYNCED,
    CrashPoint.INSTALL_CLEANED,
)

FOLLOWING: Final = (CrashPoint.APPEND_TRUNCATED,)


def test_no_point_is_left_out() -> None:
    """Each test below asserts that the process was killed, so a point that is not reached any more fails it."""
    met = [*LIFE, *SENDING, *RECEIVING, *FOLLOWING]
    assert sorted(met) == sorted(CrashPoint)


class Writer:
    """A client that puts each key once and remembers what it was told."""

    def __init__(self) -> None:
        self.acknowledged: dict[bytes, int] = {}
        self._asked = 0

    def put(self, worker: WorkerProcess) -> None:
        """Put the next key, or the last one again, with the same request id, if nobody answered."""
        number = len(self.acknowledged)
        self._asked = number + 1
        self.acknowledged[_key(number)] = worker.put(_key(number), VALUE, _request_id(number))

    def put_until_killed(self, worker: WorkerProcess) -> None:
        """Keep one replica busy until it dies of it."""
        try:
            for _ in range(WRITES):
                self.put(worker)
        except Silence:
            return

    def put_at(self, workers: Workers, sender: WorkerProcess) -> None:
        """The same to one of several, which is made to lead again if it has ceased to."""
        while sender.is_running:
            try:
                self.put_until_killed(sender)
                return
            except (errors.NotLeader, errors.LeaderLost):
                workers.lead(sender)

    def check(self, worker: WorkerProcess) -> None:
        """Everything acknowledged is there, once; what is asked again is answered as before."""
        held = {kv.key: kv for kv in worker.range(b"k", b"l").kvs}
        assert {key: held[key].mod_revision for key in self.acknowledged} == self.acknowledged
        assert len(held) <= self._asked
        for number in range(max(0, self._asked - 3), self._asked):
            revision = worker.put(_key(number), VALUE, _request_id(number))
            assert revision == self.acknowledged.setdefault(_key(number), revision)
        again = worker.range(b"k", b"l")
        assert [kv.version for kv in again.kvs] == [1] * self._asked
        # The table's creation is revision 1, and every put after it one more: no gap and no double.
        assert sorted(kv.mod_revision for kv in again.kvs) == list(range(2, self._asked + 2))


def _key(number: int) -> bytes:
    return b"k%05d" % number


def _request_id(number: int) -> bytes:
    return b"request-%08d" % number


def settings() -> dict[str, Any]:
    return {
        "raft": {"log_tail_entries": KEPT},
        "store": {"checkpoint_wal_bytes": 150_000, "snapshot_chunk_bytes": 65_536},
    }


def check_file(worker: WorkerProcess) -> None:
    """SQLite's integrity check and ours, and nothing left behind. The worker does not run."""
    assert inspect_database(worker.folder).problems == []
    assert not list(worker.folder.glob("*.tmp*"))
    assert len(list(worker.folder.glob("*.db"))) == 1


@pytest.mark.parametrize(("point", "time"), LIFE.items(), ids=str)
def test_a_lone_replica(tmp_path: Path, point: CrashPoint, time: int) -> None:
    writer = Writer()
    with Workers(tmp_path, settings=settings()) as workers:
        worker = workers["n1"]
        worker.start(f"{point}:{time}", wait=False)
        try:
            worker.create_table()
        except Silence:
            pass
        else:
            writer.put_until_killed(worker)
        assert worker.wait_dead() == -signal.SIGKILL, worker.describe()
        worker.start()
        worker.create_table()
        writer.check(worker)
        for _ in range(3):
            writer.put(worker)
        writer.check(worker)
        worker.stop()
        check_file(worker)


@pytest.mark.parametrize(
    "point", [SENDING[0], *(pytest.param(point, marks=pytest.mark.long) for point in SENDING[1:])], ids=str
)
def test_a_leader_that_makes_a_snapshot(tmp_path: Path, point: CrashPoint) -> None:
    writer = Writer()
    with Workers(tmp_path, 3, settings=settings()) as workers:
        sender, other, late = workers
        workers.start_all()
        workers.at_leader(WorkerProcess.create_table)
        sender.stop()
        sender.start(point)
        workers.lead(sender)
        late.stop()
        writer.put_at(workers, sender)
        late.start()
        assert sender.wait_dead() == -signal.SIGKILL, sender.describe()
        sender.start()
        workers.at_leader(writer.check)
        workers.at_leader(writer.put)
        for worker in workers:
            workers.wait_alike(worker)
        workers.at_leader(writer.check)
        for worker in (late, other, sender):
            worker.stop()
            check_file(worker)


@pytest.mark.long
def test_a_follower_that_gets_a_snapshot(tmp_path: Path) -> None:
    """One replica dies at each point in turn, each time on the way back into a group that went on without it."""
    writer = Writer()
    with Workers(tmp_path, 3, settings=settings()) as workers:
        first, second, late = workers
        workers.start_all()
        workers.at_leader(WorkerProcess.create_table)
        late.stop()
        for point in RECEIVING:
            for _ in range(WRITES):
                workers.at_leader(writer.put)
            late.start(point, wait=False)
            assert late.wait_dead() == -signal.SIGKILL, f"{point}: {late.describe()}"
            late.start()
            workers.at_leader(writer.put)
            workers.wait_alike(late)
            late.stop()
            check_file(late)
        late.start()
        workers.at_leader(writer.check)
        workers.wait_alike(late)
        assert late.range(b"k", b"l", linearizable=False) == workers.leader().range(b"k", b"l")
        for worker in (first, second, late):
            worker.stop()
            check_file(worker)


@pytest.mark.parametrize("point", FOLLOWING, ids=str)
def test_a_follower_whose_log_gives_way(tmp_path: Path, point: CrashPoint) -> None:
    """An old leader comes back with entries that nobody else has, and dies while it replaces them."""
    writer = Writer()
    with Workers(tmp_path, 3, settings=settings()) as workers:
        workers.start_all()
        workers.at_leader(WorkerProcess.create_table)
        for _ in range(5):
            workers.at_leader(writer.put)
        old = workers.leader()
        others = [worker for worker in workers if worker is not old]
        for worker in others:
            workers.wait_alike(worker)
        last = old.status().last_index
        for worker in others:
            worker.kill()
        old.tell_put(b"nobody-else-has-it", VALUE, b"the-lost-request")
        wait_until(lambda: old.status().last_index > last, timeout_s=10, what="an entry of its own")
        old.kill()
        for worker in others:
            worker.start()
        for _ in range(3):
            workers.at_leader(writer.put)
        old.start(point, wait=False)
        assert old.wait_dead() == -signal.SIGKILL, old.describe()
        old.start()
        workers.at_leader(writer.put)
        workers.wait_alike(old)
        workers.at_leader(writer.check)
        for worker in workers:
            worker.stop()
            check_file(worker)
