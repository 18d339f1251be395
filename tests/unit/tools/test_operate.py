"""A restart of what is on several machines does nothing, and says what to do on which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from config import ClusterConfig
from config.process.names import ProcessName, processes_of
from tools.admin import operate
from tools.admin.control_client import SupervisorUnreachable

if TYPE_CHECKING:
    from pathlib import Path


class OnN1:
    """The supervisor of n1 is here."""

    def __init__(self, _cluster: ClusterConfig, node: str) -> None:
        self._node = node

    def status(self) -> list[object]:
        if self._node != "n1":
            raise SupervisorUnreachable(f"node {self._node} is not up here")
        return []


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterConfig:
    monkeypatch.setattr(operate, "NodeControl", OnN1)
    nodes = {f"n{number}": {"host": f"10.0.0.{number}"} for number in (1, 2, 3)}
    return ClusterConfig.model_validate({"nodes": nodes, "insecure": True, "data_dir": str(tmp_path)})


def test_what_is_elsewhere_is_named_with_its_command(cluster: ClusterConfig) -> None:
    everything = [name for node in cluster.nodes for name in processes_of(cluster, node)]
    with pytest.raises(SupervisorUnreachable) as caught:
        operate.restartable(cluster, everything)
    assert str(caught.value) == (
        "n2, n3 are not up on this machine; do it host by host: `boathouse restart n1 FILE` here, then "
        "`boathouse restart n2 FILE` on the host of n2, then `boathouse restart n3 FILE` on the host of n3"
    )
    with pytest.raises(
        SupervisorUnreachable, match=r"`boathouse restart n1/shard-2 FILE` here, then .*n2/shard-2"
    ):
        operate.restartable(cluster, [ProcessName.replica(node, 2) for node in cluster.nodes])


def test_what_is_here_is_restarted(cluster: ClusterConfig) -> None:
    names = processes_of(cluster, "n1")
    assert operate.restartable(cluster, names) == names
