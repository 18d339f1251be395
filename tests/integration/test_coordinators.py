"""Two coordinators behind one port: either may go, and the port is served all the time."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import TYPE_CHECKING, Self

from config.process.names import ProcessName
from tests.integration.clients import Load
from tests.integration.cluster import Cluster

if TYPE_CHECKING:
    from pathlib import Path

CONNECT_EVERY_S = 0.005


class Knocker:
    """Connects again and again, and remembers what was refused."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self.address = (host, int(port))
        self.taken = 0
        self.refused: list[OSError] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="knocker")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(CONNECT_EVERY_S):
            try:
                with socket.create_connection(self.address, timeout=5):
                    self.taken += 1
            except OSError as error:
                self.refused.append(error)


def test_one_of_two_coordinators_is_killed_then_both_are_restarted(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1, shards=1, coordinators=2) as cluster:
        cluster.wait_leaders()
        first, second = (ProcessName.coordinator("n1", number) for number in (1, 2))
        with Knocker(cluster.endpoint("n1")) as knocker:
            with Load(cluster.endpoints, clients=16, retry_elsewhere=True) as load:
                load.wait_answers(100)
                cluster.wait_restarted(first, cluster.kill(first))
                load.wait_answers(100)
            assert {failure.code for failure in load.failures} <= {"UNAVAILABLE"}
            assert max(Counter(load.failures).values(), default=0) <= load.clients, "only what was in flight"
            load.check()

            with Load(cluster.endpoints, clients=16, seed=2) as load:
                load.wait_answers(100)
                before = {cluster.pid(name) for name in (first, second)}
                for name in (first, second):
                    told = cluster.cli_json("restart", str(name))
                    assert told["clients"]["failed"] == 0
                assert before.isdisjoint({cluster.pid(name) for name in (first, second)})
                load.wait_answers(100)
            assert not load.failures, load.failures[:3]
            load.check()
        assert knocker.taken > 100
        assert not knocker.refused, knocker.refused[:3]
