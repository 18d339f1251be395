"""/readyz/node of a real coordinator over fake workers: what the node lacks, whatever tables there are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coordinator.services.readiness import TRAILS_ENTRIES
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import Running, in_loop, make_config, running
from tests.unit.coordinator.test_etcd_pages import ask
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path


async def look(cluster: Running, query: str = "") -> tuple[int, str]:
    return await ask(f"http://{cluster.cluster.node('n1').http_endpoint}/readyz/node{query}")


async def elect(cluster: Running, shard: int, leader: int, *, term: int) -> None:
    cluster.elect(shard, leader, term=term)
    await wait_until_async(
        lambda: cluster.coordinator.leader_believed(shard) == leader, timeout_s=10, what="the news"
    )


@in_loop
async def test_a_node_is_ready_without_a_table_of_any_name(tmp_path: Path) -> None:
    config = make_config(tmp_path, nodes=3, shards=2)
    config = type(config).model_validate({**config.model_dump(), "tables": {"users": {"shard": 2}}})
    async with running(tmp_path, config=config) as cluster:
        assert await look(cluster) == (200, "ok\n")
        listed = "[+]tables ok\n[+]leaders ok\n[+]shard-1 ok\n[+]shard-2 ok\nok\n"
        assert await look(cluster, "?verbose") == (200, listed)
        base = f"http://{cluster.cluster.node('n1').http_endpoint}"
        assert (await ask(f"{base}/readyz"))[0] == 503, "this one is of the table default"


@in_loop
async def test_a_shard_that_nobody_leads_takes_no_node_out_of_service(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2) as cluster:
        await elect(cluster, 2, 0, term=9)
        assert await look(cluster) == (200, "ok\n")
        await elect(cluster, 1, 0, term=9)
        status, text = await look(cluster)
        assert status == 503
        assert "[-]leaders failed: no shard has a leader" in text
        await elect(cluster, 1, 2, term=10)
        cluster.workers[1, 1].believe(term=11, leader=0)  # the one here has not heard
        status, text = await look(cluster)
        assert status == 503
        assert (
            "[+]leaders ok\n[-]shard-1 failed: it knows no leader, though there is one\n[+]shard-2 ok" in text
        )


@in_loop
async def test_a_replica_that_is_not_back_yet_holds_up_an_update(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        here, leader = cluster.workers[1, 1], cluster.workers[1, 2]
        leader.status.commit_index = TRAILS_ENTRIES
        assert (await look(cluster))[0] == 200
        leader.status.commit_index += 1
        assert "[-]shard-1 failed: it trails its leader by 1,001 entries" in (await look(cluster))[1]
        leader.script[frames.REPLICA_STATUS] = lambda _: None  # it hangs: nobody can tell
        assert (await asyncio.wait_for(look(cluster), 1.0))[0] == 200
        here.status.voters.remove(1)
        assert "it has no vote yet" in (await look(cluster))[1]
        here.status.fault = "a row is damaged"
        assert (await look(cluster))[1].endswith("[-]shard-1 failed: a row is damaged\n")
        here.script[frames.REPLICA_STATUS] = lambda _: None
        status, text = await look(cluster)
        assert (status, text.splitlines()[-1]) == (503, "[-]shard-1 failed: it does not answer")


@in_loop
async def test_a_node_that_has_not_read_which_tables_there_are_is_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        for worker in cluster.workers.values():
            worker.script[frames.ETCD_RANGE] = lambda _: None
        assert (await look(cluster))[1].startswith("[-]tables failed: ")
        await elect(cluster, 1, 2, term=9)
        status, text = await look(cluster)
        assert (status, text.splitlines()[1:]) == (503, ["[+]leaders ok", "[+]shard-1 ok"])
