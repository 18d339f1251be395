"""Patroni keeps its leader's lock in boathouse: a dead worker demotes no primary, and a dead primary is replaced."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.foreign.patroni import TTL_S, PatroniNode, as_user, patroni, postgresql
from tests.conformance.foreign.programs import NotBuilt
from tests.integration.cluster import Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.admin.client import KvClient

SHARD: Final = 1
START_S: Final = 90.0
FAILOVER_S: Final = TTL_S + 40.0
LOOK_S: Final = 0.5


@pytest.fixture
def programs() -> tuple[Path, Path]:
    try:
        return patroni(), postgresql()
    except NotBuilt as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that PostgreSQL's user may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="boathouse-patroni-"))
    try:
        if as_user():
            path.chmod(0o711)
        yield path
    finally:
        shutil.rmtree(path)


def wait_role(node: PatroniNode, role: str, timeout_s: float) -> None:
    try:
        wait_until(
            lambda: node.is_in_role(role),
            timeout_s=timeout_s,
            what=f"{node.name} as {role}",
            interval_s=LOOK_S,
        )
    except AssertionError as error:
        raise AssertionError(f"{error}\n{node.log()}") from None


def holder(client: KvClient) -> bytes:
    """Whose the leader's lock is."""
    (pair,) = client.range(etcd.RangeRequest(key=b"/service/demo/leader")).kvs
    return pair.value


def test_patroni(programs: tuple[Path, Path], folder: Path, tmp_path: Path) -> None:
    there, binaries = programs
    with Cluster(tmp_path, nodes=3, shards=1, tables={"default": {"shard": SHARD}}) as cluster:
        cluster.wait_leaders()
        first, second = (
            PatroniNode(folder, name, cluster.endpoints, programs=there, binaries=binaries)
            for name in ("pg1", "pg2")
        )
        with first:
            wait_role(first, "primary", START_S)
            with second, cluster.client() as client:
                wait_role(second, "replica", START_S)
                assert holder(client) == b"pg1"
                first.sql("create table kept (number int)")
                timeline = first.timeline()

                # The lock has to be renewed through another leader, again and again, for longer than it lives.
                until = time.monotonic() + TTL_S + 10
                cluster.kill(cluster.leader(SHARD))
                wait_until(
                    lambda: not first.is_in_role("primary") or time.monotonic() > until,
                    timeout_s=TTL_S + 30,
                    what="the time of a lock to pass",
                    interval_s=LOOK_S,
                )
                assert first.is_in_role("primary"), first.log()
                assert first.timeline() == timeline
                first.sql("insert into kept values (1)")
                wait_until(lambda: second.sql("select * from kept") == "1", timeout_s=20, what="replication")

                first.kill()
                wait_role(second, "primary", FAILOVER_S)
                # It is told from the last checkpoint, which may come a moment after the promotion.
                wait_until(
                    lambda: second.timeline() == timeline + 1,
                    timeout_s=START_S,
                    what="one promotion",
                    interval_s=LOOK_S,
                )
                second.sql("insert into kept values (2)")
                assert second.sql("select sum(number) from kept") == "3"
                assert holder(client) == b"pg2"
