"""Watches of a three-node cluster while its workers are killed: every guarantee, to the last event."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import grpc
import pytest

from config.process.names import ProcessName
from proto.etcd import rpc_pb2 as etcd
from proto.regatta import regatta_pb2 as regatta
from tests.conformance.keyspace import EVERYTHING, ORIGIN, Keyspace
from tests.conformance.watching import WatchStream
from tests.history.watches import Watched, check, check_resumed, truth_of
from tests.integration.cluster import Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE = "default"
SHARD = 1
NODES = ("n1", "n2", "n3")
KEYS = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("watch")
    tables: dict[str, dict[str, Any]] = {
        TABLE: {"shard": SHARD},
        "brief": {"shard": SHARD, "history": "none"},
    }
    with Cluster(
        folder,
        nodes=3,
        shards=1,
        replicas=3,
        tables=tables,
        settings={"watch": {"progress_interval_ms": 300}},
    ) as running:
        running.wait_leaders()
        yield running


class Writer:
    """Puts, deletes and transactions through one node after the other, by both APIs, until the block ends."""

    def __init__(self, cluster: Cluster) -> None:
        self._keyspaces = [Keyspace(cluster.endpoint(node), TABLE) for node in NODES]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.count = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for keyspace in self._keyspaces:
            keyspace.channel.close()

    def wait_more(self, count: int = 60) -> None:
        before = self.count
        wait_until(lambda: self.count >= before + count, timeout_s=60, what="writes go on")

    def _write(self) -> None:
        while not self._stop.is_set():
            keyspace = self._keyspaces[self.count % len(NODES)]
            try:
                self._write_one(keyspace, self.count)
            except grpc.RpcError as error:
                self.failures.append(str(error))
            self.count += 1

    def _write_one(self, keyspace: Keyspace, number: int) -> None:
        key = b"key-%02d" % (number % KEYS)
        match number % 5:
            case 0:
                request = regatta.PutRequest(table=TABLE.encode(), key=key, value=b"%d" % number)
                stub = keyspace.channel.unary_unary("/regatta.v1.KV/Put", None, None)
                stub(request.SerializeToString(), timeout=15)
                return
            case 1:
                answer = keyspace.call(etcd.DeleteRangeRequest(key=key))
            case 2:
                ops = [
                    etcd.RequestOp(request_put=etcd.PutRequest(key=b"key-%02d" % other, value=b"%d" % number))
                    for other in (number % KEYS, (number + 7) % KEYS)
                ]
                answer = keyspace.call(etcd.TxnRequest(success=ops))
            case _:
                answer = keyspace.call(etcd.PutRequest(key=key, value=b"%d" % number))
        if answer.code != "OK":
            self.failures.append(str(answer))


class Listener:
    """A watcher whose client notes everything it hears."""

    def __init__(self, cluster: Cluster, node: str, watched: Watched, table: str = TABLE) -> None:
        self.watched = watched
        self._keyspace = Keyspace(cluster.endpoint(node), table)
        self._stream = WatchStream(self._keyspace)
        filters = [etcd.WatchCreateRequest.NOPUT] if not watched.puts else []
        self.created = self._stream.create(
            watched.key,
            watched.end,
            start_revision=watched.first,
            prev_kv=watched.prev_kv,
            filters=filters,
            progress_notify=True,
        )
        assert self.created.created

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)
        self._keyspace.channel.close()

    def ask_progress(self) -> None:
        self._stream.ask_progress()

    def hear_until(self, revision: int) -> None:
        """Read on until a progress notification says that everything up to this revision was told."""
        while True:
            response = self._stream.hear()
            assert not response.canceled, response
            self.watched.responses.append(response)
            if not response.events and response.header.revision >= revision:
                return


def revision_of(cluster: Cluster, table: str = TABLE) -> int:
    with Keyspace(cluster.endpoint("n1"), table) as keyspace:
        keyspace.base = ORIGIN  # revisions as they are
        answer = keyspace.call(etcd.RangeRequest(key=b"none"))
        revision: int = answer.message.header.revision
        return revision


def test_no_kill_of_a_worker_costs_or_doubles_an_event(cluster: Cluster) -> None:
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(Listener(cluster, node, watched))
            for node in NODES
            for watched in (
                Watched(EVERYTHING, EVERYTHING, prev_kv=True),
                Watched(b"key-00", b"key-10", puts=False),
                Watched(b"key-03", prev_kv=True),
            )
        ]
        with Writer(cluster) as writer:
            writer.wait_more()
            for name in (cluster.leader(SHARD), *(ProcessName.replica(node, SHARD) for node in NODES)):
                for listener in listeners:
                    listener.ask_progress()
                cluster.wait_restarted(name, cluster.kill(name))
                writer.wait_more()
                cluster.wait_leaders()
        assert writer.failures == []
        revision = revision_of(cluster)
        whole = Watched(EVERYTHING, EVERYTHING, prev_kv=True)
        listeners.append(stack.enter_context(Listener(cluster, "n2", whole)))
        resumed = Watched(EVERYTHING, EVERYTHING, first=revision // 2, prev_kv=True)
        listeners.append(stack.enter_context(Listener(cluster, "n3", resumed)))
        for listener in listeners:
            listener.hear_until(revision)
    truth = truth_of(whole.events)
    assert max(truth) == revision
    for listener in listeners:
        check(listener.watched, truth)
    check_resumed(whole, resumed)


def test_a_table_without_history_is_watched_without_a_gap(cluster: Cluster) -> None:
    watched = Watched(EVERYTHING, EVERYTHING, first=2, prev_kv=True)
    with (
        Keyspace(cluster.endpoint("n1"), "brief") as keyspace,
        Listener(cluster, "n3", watched, "brief") as listener,
    ):
        for number in range(300):
            assert keyspace.call(etcd.PutRequest(key=b"%d" % (number % 3))).code == "OK"
        listener.hear_until(301)
    check(watched, truth_of(watched.events))
    assert len(watched.events) == 300
