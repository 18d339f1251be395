"""Asking replicas over real sockets: who does not answer holds nobody up twice."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import zmq

from config import ClusterConfig
from config.process.names import ProcessName
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.internal import sockets, wire
from tests.waiting import free_ports, wait_until
from tools.admin import probe as probing
from tools.admin.probe import NotHandedOver, ReplicaProbe, ask_replicas, hand_over

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALIVE, DEAD = ProcessName.replica("n1", 1), ProcessName.replica("n1", 2)
TIMEOUT_S = 0.4


@pytest.fixture(name="cluster")
def _cluster(tmp_path: Path) -> ClusterConfig:
    # A folder of its own: a cluster in this one has unix sockets of the same names.
    node = {"peer_port": free_ports(2, contiguous=True)[0]}
    return ClusterConfig.model_validate(
        {"data_dir": str(tmp_path), "nodes": {"n1": node}, "shards": 2, "tables": {}}
    )


class FakeReplica:
    """Answers like one, from a thread of its own, while it may."""

    def __init__(self, cluster: ClusterConfig, name: ProcessName) -> None:
        assert name.shard is not None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.protocol = wire.PROTOCOL
        self.transfers: list[int] = []
        self.refusal: errors.BoathouseError | None = None
        self._ends = threading.Event()
        self._shard, self._group = name.shard, cluster.group(name.shard)
        self._address = cluster.worker_tcp(name.node, name.shard)
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    @contextmanager
    def running(self) -> Iterator[FakeReplica]:
        self._thread.start()
        assert self._bound.wait(10)
        try:
            yield self
        finally:
            self._ends.set()
            self.may_answer.set()
            self._thread.join(10)

    def _serve(self) -> None:
        with zmq.Context() as context:
            socket = sockets.listening(context)
            socket.linger = 0
            socket.bind(self._address)
            self._bound.set()
            while not self._ends.is_set():
                if not socket.poll(20):
                    continue
                identity, payload = socket.recv_multipart()
                self.may_answer.wait(20)
                envelope = wire.decode(payload, self._group)
                answer = frames.Envelope(replies=[self._reply(each) for each in envelope.requests])
                answer.group, answer.protocol = self._group, self.protocol
                socket.send_multipart([identity, answer.SerializeToString()])
            socket.close()

    def _reply(self, request: frames.Request) -> frames.Reply:
        if request.method == frames.TRANSFER_LEADER:
            if self.refusal is not None:
                return frames.Reply(
                    call=request.call, error=self.refusal.frame_code, detail=self.refusal.detail
                )
            self.transfers.append(frames.TransferLeader.FromString(request.body).target)
            return frames.Reply(call=request.call)
        status = frames.ReplicaStatus(shard=self._shard, node=1, term=request.call)
        return frames.Reply(call=request.call, body=status.SerializeToString())


def test_one_that_is_dead_costs_its_time_limit_once(cluster: ClusterConfig) -> None:
    with FakeReplica(cluster, ALIVE).running(), ReplicaProbe(cluster) as probe:
        begun_s = time.monotonic()
        assert set(probe.ask([ALIVE, DEAD], timeout_s=TIMEOUT_S)) == {ALIVE}
        assert time.monotonic() - begun_s >= TIMEOUT_S - 0.01
        begun_s = time.monotonic()
        assert set(probe.ask([ALIVE, DEAD], timeout_s=30)) == {ALIVE}
        assert time.monotonic() - begun_s < 15


def test_a_late_answer_is_taken_with_a_later_poll_and_no_backlog_queues_up(cluster: ClusterConfig) -> None:
    with FakeReplica(cluster, ALIVE).running() as replica, ReplicaProbe(cluster) as probe:
        replica.may_answer.clear()
        for _ in range(3):
            assert probe.ask([ALIVE], timeout_s=0.05) == {}
        replica.may_answer.set()
        answers = wait_until(
            lambda: probe.ask([ALIVE], timeout_s=0.05), timeout_s=10, what="the answer that was owed"
        )
        assert answers[ALIVE].status.term == 1, "it was asked once"
        assert answers[ALIVE].asked_at <= answers[ALIVE].answered_at
        later = wait_until(lambda: probe.ask([ALIVE], timeout_s=5), timeout_s=10, what="the next answer")
        assert later[ALIVE].status.term == 2


def test_a_clock_that_is_set_back_does_not_prolong_what_is_waited_for(
    cluster: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "GIVE_UP_S", 0.2)
    with ReplicaProbe(cluster) as probe:
        assert probe.ask([ALIVE], timeout_s=0.05) == {}
        (lost,) = probe._lines.values()
        before = time.time
        monkeypatch.setattr(time, "time", lambda: before() - 3_600)

        def asks_anew() -> bool:
            probe.ask([ALIVE], timeout_s=0.05)
            return probe._lines[ALIVE] is not lost

        wait_until(asks_anew, timeout_s=10, what="another question")


def test_who_answers_in_a_newer_protocol_is_told_apart_from_who_is_silent(cluster: ClusterConfig) -> None:
    with FakeReplica(cluster, ALIVE).running() as replica, ReplicaProbe(cluster) as probe:
        replica.protocol = wire.PROTOCOL + 1
        for _ in range(2):
            begun_s = time.monotonic()
            assert probe.ask([ALIVE], timeout_s=30) == {}
            assert time.monotonic() - begun_s < 15, "there is nothing to wait for"
            assert probe.newer == {ALIVE: wire.PROTOCOL + 1}
        replica.protocol = wire.PROTOCOL
        assert set(probe.ask([ALIVE], timeout_s=30)) == {ALIVE}
        assert probe.newer == {}


def test_asking_once(cluster: ClusterConfig) -> None:
    with FakeReplica(cluster, ALIVE).running():
        assert {
            name: status.shard for name, status in ask_replicas(cluster, [ALIVE], timeout_s=10).items()
        } == {ALIVE: 1}


def test_handing_over_names_the_target_or_leaves_the_choice(cluster: ClusterConfig) -> None:
    with FakeReplica(cluster, ALIVE).running() as replica:
        hand_over(cluster, ALIVE, "n1", timeout_s=10)
        hand_over(cluster, ALIVE, None, timeout_s=10)
        assert replica.transfers == [1, 0]
        replica.refusal = errors.BadTransferee("node 1 is a learner")
        with pytest.raises(NotHandedOver, match="node 1 is a learner"):
            hand_over(cluster, ALIVE, "n1", timeout_s=10)
    with pytest.raises(NotHandedOver, match="did not answer within"):
        hand_over(cluster, DEAD, None, timeout_s=0.2)
