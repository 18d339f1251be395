"""The systems under test, each started once: etcd as the reference, a second etcd to test the tests,
boathouse.

Everything below works on endpoints alone, so that any system can take any side.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.conformance.keyspace import Keyspace
from tools.bench import systems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROBE_TABLES = (
    "probe-kv", "probe-sort", "probe-value", "probe-txn", "probe-watch", "probe-future", "probe-fragment",
    "probe-auth",
    "probe-lease", "probe-lock", "probe-election",
)  # fmt: skip

PATIENCE: Final = ("--command-timeout", "20s", "--dial-timeout", "20s")
"""etcdctl's own 5 s and 2 s may be too short where the machine has much else to do: then it tells of that instead."""


@contextmanager
def running(system: systems.System) -> Iterator[systems.System]:
    try:
        system.start()
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="session")
def etcd_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(systems.Etcd(tmp_path_factory.mktemp("etcd"), 1)) as system:
        yield system.endpoints[0]


@pytest.fixture(scope="session")
def other_etcd_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(systems.Etcd(tmp_path_factory.mktemp("etcd"), 1)) as system:
        yield system.endpoints[0]


@pytest.fixture(scope="session")
def boathouse_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One node, with tables that nothing was written to."""
    folder = tmp_path_factory.mktemp("boathouse")
    tables = ("default", *PROBE_TABLES)
    with running(systems.Boathouse(folder, nodes=1, shards=2, replicas=1, tables=tables)) as system:
        yield system.endpoints[0]


@pytest.fixture(scope="session")
def cluster_endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Three nodes with three replicas of each shard."""
    folder = tmp_path_factory.mktemp("cluster")
    with running(systems.Boathouse(folder, nodes=3, shards=2, replicas=3, tables=("default",))) as system:
        yield system.endpoints


@pytest.fixture(params=["etcd", "boathouse"])
def fresh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Keyspace]]:
    """A keyspace at revision 1 of each system; boathouse has one a table, etcd one a process."""
    if request.param == "boathouse":
        endpoint = request.getfixturevalue("boathouse_endpoint")
        yield lambda table: Keyspace(endpoint, table)
        return
    with running(systems.Etcd(tmp_path_factory.mktemp("etcd"), 1)) as system:
        yield lambda table: Keyspace(system.endpoints[0])
