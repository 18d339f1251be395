"""Real replicas whose files are changed behind their backs: found, refused, and rebuilt from the others."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from config.process.events import EXIT_RESTART
from config.process.names import ProcessName
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from shardworker.inspection import inspect_database
from shardworker.machine.tables import load_table, save_table
from shardworker.store import folder
from shardworker.store.files import REAL_FILES
from tests.integration.cluster import Cluster
from tests.integration.workers import ROOT, TABLE, Silence, WorkerProcess, Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

TICK_MS: Final = 50
ELECTION_TICKS: Final = 10
SECONDS_PER_ELECTION: Final = 2 * TICK_MS * ELECTION_TICKS / 1000
EVERY: Final = 8
"""Entries between two comparisons: one write is one entry here."""


def settings(**raft: int) -> dict[str, Any]:
    return {"raft": {"digest_entries": EVERY, "tick_ms": TICK_MS, "election_ticks": ELECTION_TICKS, **raft}}


def put_some(workers: Workers, first: int) -> None:
    """Enough for two comparisons. Whoever leads gets them; leaders may change meanwhile."""
    for number in range(first, first + 2 * EVERY):
        workers.at_leader(partial(put_one, number=number))


def count(leader: WorkerProcess) -> int:
    return leader.range(b"k", b"l").count


def put_one(worker: WorkerProcess, number: int) -> int:
    return worker.put(b"k%05d" % number, b"v%05d" % number, b"request-%08d" % number)


def database_of(worker: WorkerProcess) -> Path:
    generation = folder.current_generation(worker.folder, REAL_FILES)
    assert generation is not None
    return folder.database_file(worker.folder, generation)


def tamper(database: Path, *statements: str) -> None:
    """Change the database of a stopped replica."""
    connection = apsw.Connection(str(database))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def drop_a_change(database: Path) -> None:
    """As if the replica had never applied the put of its newest key. Nothing in the file itself is wrong."""
    live = f"t{TABLE}_live"
    tamper(database, f"DELETE FROM {live} WHERE key = (SELECT max(key) FROM {live})")  # noqa: S608 -- a number
    connection = apsw.Connection(str(database))
    table = load_table(connection, TABLE)
    assert table is not None
    table.keys -= 1
    table.checksum += 1
    save_table(connection, table)
    connection.close()


def three(workers: Workers) -> tuple[WorkerProcess, WorkerProcess, WorkerProcess]:
    """Start all; the leader, and the two others."""
    workers.start_all()
    workers.at_leader(WorkerProcess.create_table)
    put_some(workers, 0)
    for worker in workers:
        workers.wait_alike(worker)
    leader = workers.leader()
    first, second = (worker for worker in workers if worker is not leader)
    return leader, first, second


def wait_rebuilt(workers: Workers, worker: WorkerProcess) -> None:
    """Wait until a replica that starts over serves again and holds what the leader holds."""
    wait_until(lambda: not worker.status().fault, timeout_s=30, what=f"{worker.node} to serve again")
    workers.wait_alike(worker)
    everything = workers.at_leader(lambda leader: leader.range(b"k", b"l"))
    assert everything.count == len(everything.kvs)
    assert worker.range(b"k", b"l", linearizable=False) == everything


def test_a_follower_that_differs_is_rebuilt(tmp_path: Path) -> None:
    with Workers(tmp_path, 3, settings=settings()) as workers:
        leader, odd, other = three(workers)
        odd.stop()
        drop_a_change(database_of(odd))
        assert inspect_database(odd.folder).problems == [], "nothing in the file itself is wrong"
        odd.start()
        assert odd.status().fault == ""
        put_some(workers, 100)
        assert odd.wait_dead() == EXIT_RESTART, odd.describe()
        assert b"differs from the majority at index" in b"".join(odd.said)

        assert inspect_database(odd.folder).replica["rebuild_until"] > 0
        leader.signal(signal.SIGSTOP)  # nobody to be rebuilt from, and an election to take part in
        other.signal(signal.SIGSTOP)
        odd.start()
        status = odd.status()
        assert "being rebuilt from the leader" in status.fault
        assert status.applied_index == 0
        with pytest.raises(errors.Corrupt, match="being rebuilt"):
            odd.range(b"k00000", linearizable=False)
        with pytest.raises(errors.Corrupt, match="being rebuilt"):
            odd.put(b"k", b"v", b"a-request")
        other.signal(signal.SIGCONT)
        leader.signal(signal.SIGCONT)

        wait_rebuilt(workers, odd)
        assert workers.at_leader(count) == 4 * EVERY
        put_some(workers, 200)
        wait_rebuilt(workers, odd)
        for worker in workers:
            worker.stop()
            assert inspect_database(worker.folder).problems == []


def test_a_leader_that_differs_hands_over_and_is_rebuilt(tmp_path: Path) -> None:
    with Workers(tmp_path, 3, settings=settings()) as workers:
        odd, first, second = three(workers)
        odd.stop()
        drop_a_change(database_of(odd))
        odd.start()
        workers.lead(odd)
        put_until_gone(workers, odd)
        assert odd.wait_dead() == EXIT_RESTART, odd.describe()
        leader = workers.leader()
        assert leader in (first, second)
        assert leader.status().fault == ""
        odd.start()
        wait_rebuilt(workers, odd)


def put_until_gone(workers: Workers, odd: WorkerProcess) -> None:
    """Write until a replica learns that it is wrong. Whether it still leads then is up to the machine: by whom it is
    found does not matter."""
    numbers = itertools.count(100)
    wait_until(
        lambda: not odd.is_running or not put_one(workers.leader(), next(numbers)),
        timeout_s=30,
        what=f"{odd.node} to end",
        not_yet=(errors.LeaderLost, errors.NotLeader, errors.Corrupt, Silence),
    )


def test_a_rebuilt_replica_elects_nobody_before_it_has_everything_again(tmp_path: Path) -> None:
    """It has acknowledged entries that it lost: the one replica that never had them must not win with its vote."""
    with Workers(tmp_path, 3, settings=settings(log_tail_entries=1)) as workers:
        leader, odd, behind = three(workers)
        behind.stop()
        put_some(workers, 100)
        workers.wait_alike(odd)
        odd.stop()
        leader.stop()
        say = rebuild(odd)
        assert say.returncode == 0, say.stderr
        odd.start()
        behind.start()
        term = behind.status().term
        wait_until(lambda: behind.status().role == "pre-candidate", timeout_s=20, what="a candidate")
        # Its next round of pre-votes would be granted by anybody who may vote: the other's log is empty.
        later = time.monotonic() + 3 * SECONDS_PER_ELECTION
        wait_until(lambda: time.monotonic() > later, timeout_s=60, what="three more elections")
        assert behind.status().role != "leader"
        assert (behind.status().term, behind.status().leader) == (term, 0)
        leader.start()
        wait_rebuilt(workers, odd)
        assert workers.at_leader(count) == 4 * EVERY


def test_replicas_in_doubt_stop_serving_until_a_majority_agrees(tmp_path: Path) -> None:
    with Workers(tmp_path, 3, settings=settings()) as workers:
        sound, odd, away = three(workers)
        away.stop()
        odd.stop()
        drop_a_change(database_of(odd))
        odd.start()
        put_some(workers, 100)
        for worker in (sound, odd):
            wait_in_doubt(worker)
            with pytest.raises(errors.Corrupt):
                worker.range(b"k00000", linearizable=False)
            with pytest.raises(errors.Corrupt):
                worker.put(b"k", b"v", b"a-request")
        away.start()
        assert odd.wait_dead() == EXIT_RESTART, odd.describe()
        wait_until(lambda: not sound.status().fault, timeout_s=20, what="the majority to serve")
        assert away.status().fault == ""
        odd.start()
        wait_rebuilt(workers, odd)


def wait_in_doubt(worker: WorkerProcess) -> None:
    wait_until(lambda: "no majority agrees" in worker.status().fault, timeout_s=20, what="it to stop serving")


def test_a_flipped_byte_in_the_log_is_refused_and_the_operator_told(tmp_path: Path) -> None:
    with Workers(tmp_path, 3, settings=settings()) as workers:
        _, damaged, _ = three(workers)
        damaged.stop()
        flip_a_byte(damaged)
        problems = inspect_database(damaged.folder).problems
        assert any("fails its checksum" in problem for problem in problems)
        damaged.start()
        assert damaged.wait_dead() == 1
        said = b"".join(damaged.said).decode()
        assert "fails its checksum" in said
        assert f"-m shardworker.store.rebuild {damaged.folder}" in said
        put_some(workers, 100)
        assert rebuild(damaged).returncode == 0
        damaged.start()
        wait_rebuilt(workers, damaged)
        damaged.stop()
        assert inspect_database(damaged.folder).problems == []


@pytest.mark.long
def test_a_changed_value_is_found_by_the_scrub(tmp_path: Path) -> None:
    """No change was lost and no checksum of changes differs: only the row itself is not what was written."""
    with Workers(tmp_path, 3, settings=settings()) as workers:
        _, damaged, _ = three(workers)
        damaged.stop()
        tamper(
            database_of(damaged),
            f"UPDATE t{TABLE}_rev SET kv = CAST(replace(kv, 'v00003', 'v99999') AS BLOB)"  # noqa: S608
            " WHERE key = CAST('k00003' AS BLOB)",
        )
        damaged.start()
        assert damaged.wait_dead() == EXIT_RESTART, damaged.describe()
        assert "fails its checksum" in b"".join(damaged.said).decode()
        damaged.start()
        wait_rebuilt(workers, damaged)
        assert damaged.range(b"k00003", linearizable=False).kvs[0].value == b"v00003"


def test_a_tables_damaged_row_is_found_by_the_scrub(tmp_path: Path) -> None:
    """While the replica runs: what its memory holds of the row is sound, but a long read would load it."""
    with Workers(tmp_path, 3, settings=settings()) as workers:
        _, damaged, _ = three(workers)
        tamper(database_of(damaged), f"UPDATE tables SET name = CAST(x'75ff' AS TEXT) WHERE id = {TABLE}")  # noqa: S608
        assert damaged.wait_dead() == EXIT_RESTART, damaged.describe()
        assert f"row of table id {TABLE} fails its checksum" in b"".join(damaged.said).decode()
        damaged.start()
        wait_rebuilt(workers, damaged)


def test_a_damaged_page_is_not_served(tmp_path: Path) -> None:
    """A read meets it: the replica ends, and is rebuilt."""
    with Workers(tmp_path, 3, settings=settings()) as workers:
        _, damaged, _ = three(workers)
        damaged.stop()
        break_a_page(damaged)
        assert any("SQLite" in problem for problem in inspect_database(damaged.folder).problems)
        damaged.start()
        with pytest.raises(Silence):
            damaged.range(b"k00003", linearizable=False)
        assert damaged.wait_dead() == EXIT_RESTART, damaged.describe()
        assert "stored data is damaged" in b"".join(damaged.said).decode()
        damaged.start()
        wait_rebuilt(workers, damaged)


def break_a_page(worker: WorkerProcess) -> None:
    """Overwrite the first page of the table's live keys."""
    database = database_of(worker)
    connection = apsw.Connection(str(database))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    page: Any = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = ?", (f"t{TABLE}_live",)
    ).get
    size = connection.pragma("page_size")
    connection.close()
    content = bytearray(database.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    database.write_bytes(content)


def test_a_lone_replica_cannot_be_rebuilt_from_anybody(tmp_path: Path) -> None:
    with Workers(tmp_path, settings=settings()) as workers:
        (worker,) = workers
        worker.start()
        worker.create_table()
        put_some(workers, 0)
        worker.stop()
        flip_a_byte(worker)
        done = rebuild(worker)
        assert done.returncode == 1
        assert "the shard's only replica" in done.stderr
        worker.start()
        assert worker.wait_dead() == 1


def flip_a_byte(worker: WorkerProcess) -> None:
    """In the data of the oldest log row."""
    database = database_of(worker)
    connection = apsw.Connection(str(database))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data: Any = connection.execute("SELECT data FROM log WHERE length(data) > 30 ORDER BY idx LIMIT 1").get
    connection.close()
    content = database.read_bytes()
    at = content.index(data) + len(data) // 2
    database.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])


def rebuild(worker: WorkerProcess) -> subprocess.CompletedProcess[str]:
    """What an operator runs for a replica that refuses to start."""
    return subprocess.run(
        [sys.executable, "-m", "shardworker.store.rebuild", str(worker.folder)],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_cluster_heals_itself_while_clients_work(tmp_path: Path) -> None:
    """The supervisor restarts a replica that begins to be rebuilt; stale reads go to the others meanwhile."""
    with Cluster(tmp_path, nodes=3, shards=1, settings=settings()) as cluster:
        leader = cluster.wait_leaders()[1]
        node = next(name for name in cluster.config.nodes if name != leader.node)
        odd = ProcessName.replica(node, 1)
        with cluster.client() as client, cluster.client(node) as beside:
            for number in range(2 * EVERY):
                client.put(etcd.PutRequest(key=b"k%05d" % number, value=b"v"))
            wait_until(lambda: same(cluster), timeout_s=20, what="all replicas to hold the same")
            assert cluster.cli("stop", f"{node}/shard-1").returncode == 0
            file = folder.current_generation(cluster.config.replica_dir(node, 1), REAL_FILES)
            assert file is not None
            drop_a_change(folder.database_file(cluster.config.replica_dir(node, 1), file))
            assert cluster.cli("start", f"{node}/shard-1").returncode == 0
            for number in range(100, 100 + 4 * EVERY):
                client.put(etcd.PutRequest(key=b"k%05d" % number, value=b"v"))
                stale = beside.range(etcd.RangeRequest(key=b"k00000", serializable=True))
                assert stale.count == 1, "answered by whom it is known to be right"
            wait_until(
                lambda: cluster.report(odd).restarts > 0, timeout_s=30, what="the odd one to start over"
            )
            wait_until(lambda: same(cluster), timeout_s=30, what="all replicas to hold the same again")
            rows = {row["node"]: row for row in cluster.cli_json("status") if row["shard"] == 1}
            assert "differs from the majority" in rows[node]["reason"]
            assert {row["fault"] for row in rows.values()} == {""}
            held = beside.range(etcd.RangeRequest(key=b"k", range_end=b"l", serializable=True))
            assert held.count == 6 * EVERY


def same(cluster: Cluster) -> bool:
    answers = cluster.ask(1).values()
    tables = {
        bytes(status.SerializeToString())
        for answer in answers
        for status in answer.tables
        if status.id == TABLE
    }
    return len(answers) == 3 and len(tables) == 1 and not any(answer.fault for answer in answers)
