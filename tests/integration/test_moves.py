"""Tables of a three-node cluster that move between its shards under load, while workers and movers are killed.

Nobody may notice anything but the time: no call fails, histories are linearizable, every write is applied once, an open
watch is told of every revision once, and a lease that is kept alive lives on.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from config.process.names import ProcessName
from proto.boathouse import moves_pb2 as moves
from proto.etcd import rpc_pb2 as etcd
from tests.conformance.keyspace import Keyspace
from tests.conformance.test_lease import Leases
from tests.conformance.watching import WatchStream
from tests.integration.clients import Load
from tests.integration.cluster import Cluster
from tests.waiting import wait_until
from tools.admin.client import CallFailed
from tools.admin.moves import move_table
from tools.admin.reach import Connection
from tools.admin.tables import TablesClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TABLES: Final[dict[str, dict[str, Any]]] = {
    "kept": {"shard": 2},
    "brief": {"shard": 2, "history": "none"},
    "stays": {"shard": 2},
}
MOVING: Final = ("kept", "brief")
FRESH: Final = os.environ.get("BOATHOUSE_EXAMPLES") == "fresh"
SEED: Final = int(os.environ.get("BOATHOUSE_SEED", "5"))
OLD_KEYS: Final = 60_000 if FRESH else 3_000
MOVES: Final = 4 if FRESH else 1
KILLED_MOVES: Final = 4 if FRESH else 1
LEASE_TTL_S: Final = 3
CALM_ANSWERS: Final = 200
PAUSE_S_MAX: Final = 4.0
"""In which no client of a test got an answer: elections, a mover that has to be missed, and a busy machine."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("moves")
    with Cluster(folder, nodes=3, shards=2, replicas=3, tables=TABLES) as running:
        running.wait_leaders()
        for table in MOVING:
            fill(running, table)
        yield running


def fill(cluster: Cluster, table: str) -> None:
    """So that a move takes some parts."""
    with cluster.client("n1", table=table) as client:
        for first in range(0, OLD_KEYS, 100):
            request = etcd.TxnRequest()
            for number in range(first, first + 100):
                put = etcd.PutRequest(key=b"old%d" % number, value=bytes(200))
                request.success.add().request_put.CopyFrom(put)
            client.txn(request)


def tables(cluster: Cluster) -> TablesClient:
    return TablesClient(Connection(tuple(cluster.endpoints), None, ""), 60.0)


def shard_of(cluster: Cluster, table: str) -> int:
    return next(entry.shard for entry in tables(cluster).list() if entry.name == table)


class Watching:
    """A watch of everything in a table, from now on."""

    def __init__(self, cluster: Cluster, table: str) -> None:
        self._keyspace = Keyspace(cluster.endpoint("n2"), table)
        self._stream = WatchStream(self._keyspace)
        self._first = self._stream.create(b"\0", b"\0", prev_kv=True).header.revision + 1
        self.revisions: list[int] = []

    def hear_through(self, revision: int) -> None:
        """Every revision once, in order, up to this one."""
        while not self.revisions or self.revisions[-1] < revision:
            response = self._stream.hear(30.0)
            assert not response.canceled, response
            self.revisions += [event.kv.mod_revision for event in response.events]
        told = [number for number, _ in itertools.groupby(self.revisions)]
        assert told == list(range(self._first, self.revisions[-1] + 1))

    def close(self) -> None:
        self._stream.__exit__(None, None, None)
        self._keyspace.channel.close()


@contextmanager
def watched(cluster: Cluster, names: Sequence[str] = MOVING) -> Iterator[None]:
    """Watches of these tables are told of everything that happened in the block."""
    watches = {table: Watching(cluster, table) for table in names}
    try:
        yield
        for table, watching in watches.items():
            with cluster.client("n3", table=table) as client:
                end = client.put(etcd.PutRequest(key=b"end")).header.revision
            watching.hear_through(end)
    finally:
        for watching in watches.values():
            watching.close()


@contextmanager
def leased(cluster: Cluster, table: str) -> Iterator[None]:
    """A lease of the table that is kept alive through the block has its key at the end, and loses it afterwards."""
    with Keyspace(cluster.endpoint("n3"), table) as keyspace:
        probe = Leases(keyspace)
        lease = probe.grant(LEASE_TTL_S).ID
        probe.put(b"leased", lease=lease)
        stop = threading.Event()
        answers: list[list[tuple[int, int]]] = []

        def renew() -> None:
            while not stop.wait(LEASE_TTL_S / 6):
                answers.append(probe.keep_alive([lease]))

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert answers
        assert all(answer == [(lease, LEASE_TTL_S)] for answer in answers)
        request = etcd.RangeRequest(key=b"leased")
        assert keyspace.call(request).message.count == 1
        wait_until(
            lambda: keyspace.call(request).message.count == 0,
            timeout_s=LEASE_TTL_S + 15,
            what="the lease to end",
        )


@contextmanager
def load_on(cluster: Cluster, *, seed: int, repeats: bool = False) -> Iterator[Load]:
    with Load(cluster.endpoints, tuple(TABLES), clients=24, seed=seed, retry_elsewhere=repeats) as load:
        load.wait_answers(CALM_ANSWERS)
        yield load
        load.wait_answers(CALM_ANSWERS)


def move_all(cluster: Cluster) -> None:
    for table in MOVING:
        target = 3 - shard_of(cluster, table)
        assert move_table(tables(cluster), table, target).is_new
        assert shard_of(cluster, table) == target


def check_agreed(cluster: Cluster) -> None:
    """All replicas hold the same, each table in one shard, and nothing is left of those that went."""

    def agreed() -> bool:
        for shard in (1, 2):
            answers = cluster.ask(shard).values()
            states = {
                tuple((one.id, one.revision, one.checksum, one.keys) for one in status.tables)
                for status in answers
            }
            unfreed = sum(status.statistics["leftovers"] for status in answers)
            if len(answers) != 3 or len(states) != 1 or unfreed:
                return False
        return True

    wait_until(agreed, timeout_s=30, what="replicas to agree, and rows to be freed")
    held = [one.name for shard in (1, 2) for one in next(iter(cluster.ask(shard).values())).tables]
    assert sorted(held) == ["_catalog", *sorted(TABLES)]


def test_nobody_notices_that_tables_move(cluster: Cluster) -> None:
    with leased(cluster, "kept"), watched(cluster):
        with load_on(cluster, seed=SEED) as load:
            for _ in range(MOVES):
                move_all(cluster)
                load.wait_answers(CALM_ANSWERS)
        assert load.failures == []
        load.check()
        assert load.slowest_s < PAUSE_S_MAX
    check_agreed(cluster)
    assert move_table(tables(cluster), "kept", shard_of(cluster, "kept")).is_new is False


def source_leader(cluster: Cluster, source: int) -> ProcessName:
    return cluster.leader(source)


def target_leader(cluster: Cluster, source: int) -> ProcessName:
    return cluster.leader(3 - source)


def mover(_cluster: Cluster, _source: int) -> ProcessName:
    return ProcessName.coordinator("n1")


@pytest.mark.parametrize(
    ("victim", "seed"),
    [
        (mover, SEED + 1),
        pytest.param(source_leader, SEED + 2, marks=pytest.mark.long),
        pytest.param(target_leader, SEED + 3, marks=pytest.mark.long),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_move_goes_on_whoever_is_killed(
    cluster: Cluster, victim: Callable[[Cluster, int], ProcessName], seed: int
) -> None:
    rng = random.Random(seed)
    # What a replica has not told yet when it dies, no other one knows of a table without history.
    with watched(cluster, MOVING if victim is mover else ("kept",)):
        with load_on(cluster, seed=seed, repeats=True) as load:
            for _ in range(KILLED_MOVES):
                move_and_kill(cluster, victim, lambda: load.wait_answers(rng.randrange(1, 150)))
        told = {failure.code for failure in load.failures}
        assert told <= {"UNAVAILABLE"}, load.failures[:5]
        assert all(failure.endpoint == cluster.endpoint("n1") for failure in load.failures), (
            "only the mover was asked"
        )
        load.check()
    check_agreed(cluster)


def move_and_kill(
    cluster: Cluster, victim: Callable[[Cluster, int], ProcessName], wait: Callable[[], None]
) -> None:
    """A move that n1's coordinator begins goes on, whoever is killed in its course."""
    source = shard_of(cluster, "kept")
    name = victim(cluster, source)
    with cluster.client("n1") as client:
        request = moves.MoveRequest(table="kept", shard=3 - source)
        client.call("/boathouse.v1.Moves/Move", request, moves.MoveProgress)
    wait()
    old_pid = cluster.kill(name)
    move_table(tables(cluster), "kept", 3 - source)
    cluster.wait_restarted(name, old_pid)
    cluster.wait_leaders()


def cancelled(cluster: Cluster, table: str) -> bool:
    """Whether it was not too late to cancel the table's move."""
    try:
        tables(cluster).cancel_move(table)
    except CallFailed as refusal:
        if "it is too late" in str(refusal) or "on its way nowhere" in str(refusal):
            return False
        raise
    return True


@pytest.mark.long
def test_a_move_that_is_cancelled_leaves_the_table_where_it_was(cluster: Cluster) -> None:
    source = shard_of(cluster, "kept")
    target = 3 - source
    paused = [cluster.pause(name) for name in cluster.replicas(target)[:2]]
    try:
        with cluster.client("n1") as client:
            request = moves.MoveRequest(table="kept", shard=target)
            client.call("/boathouse.v1.Moves/Move", request, moves.MoveProgress)
        with cluster.client("n2", table="kept") as client:
            client.put(etcd.PutRequest(key=b"while it moves"))
        with pytest.raises(CallFailed, match="is on its way to shard"):
            tables(cluster).delete("kept")
    finally:
        for pid in paused:
            cluster.resume(pid)
    assert cancelled(cluster, "kept") == (shard_of(cluster, "kept") == source)
    with cluster.client("n3", table="kept") as client:
        assert client.range(etcd.RangeRequest(key=b"while it moves")).count == 1
    check_agreed(cluster)


def term(cluster: Cluster, shard: int) -> int:
    return max(status.term for status in cluster.ask(shard).values())


def terms_shown(cluster: Cluster, table: str) -> list[int]:
    """Through each node, by the leader's answer and by the replica's."""
    told = []
    for node in cluster.config.nodes:
        with cluster.client(node, table=table) as client:
            for serializable in (False, True):
                answer = client.range(etcd.RangeRequest(key=b"k", serializable=serializable))
                told.append(answer.header.raft_term)
    return told


def test_the_term_goes_down_for_nobody(cluster: Cluster) -> None:
    """Patroni takes a node that shows a lower one for stale, and leaves it."""
    source = shard_of(cluster, "kept")
    while term(cluster, source) < term(cluster, 3 - source) + 2:
        assert cluster.cli("shard", "move-leader", str(source)).returncode == 0
    before = max(terms_shown(cluster, "kept"))
    for target in (3 - source, source, 3 - source):
        assert move_table(tables(cluster), "kept", target).is_new
        assert min(terms_shown(cluster, "kept")) >= before
    restarted = ProcessName.coordinator("n2")
    cluster.wait_restarted(restarted, cluster.kill(restarted))
    assert min(terms_shown(cluster, "kept")) >= before
