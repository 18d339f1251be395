"""How fast a follower cluster follows: a leader and a follower cluster of one node each, both started here."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from config import loading
from proto.etcd import rpc_pb2 as etcd
from tools.admin.client import channel_options
from tools.bench import systems
from tools.bench.following import PATIENCE_S, TABLE, follow
from tools.bench.memory import Growth
from tools.bench.report import OURS, Figure, Report
from tools.bench.run import LoadFailed

if TYPE_CHECKING:
    from pathlib import Path

    from tools.bench.setting import Setting
    from tools.bench.workload import Workload

SNAPSHOT_KEYS: Final = 1_000_000
KEEP_BYTES: Final = 64 << 20
"""History for a follower: less than what it misses before it takes the snapshot."""
TXN_PUTS: Final = 100


def replication(setting: Setting, workload: Workload) -> Report:
    """Lag, writes through the follower, new tables, and catching up by snapshot."""
    report = Report("a follower cluster beside its leader cluster, 1 node each")
    folder = setting.folder / "replication"
    leader = systems.Boathouse(
        folder / "leader",
        1,
        1,
        1,
        ("default",),
        settings={"cluster": "harbour", "replication": {"keep_bytes": KEEP_BYTES}},
    )
    try:
        leader.start()
        follows = {"cluster": "harbour", "endpoints": list(leader.endpoints)}
        follower = systems.Boathouse(
            folder / "follower", 1, 1, 1, (), settings={"cluster": "island", "follows": follows}
        )
        try:
            follower.start()
            report.figures += asyncio.run(follow(leader, follower, workload, setting.progress(OURS)))
            report.figures += asyncio.run(_catching_up(leader, follower, workload))
        finally:
            follower.stop()
    finally:
        leader.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return report


async def _catching_up(
    leader: systems.Boathouse, follower: systems.Boathouse, workload: Workload
) -> list[Figure]:
    """The follower cluster is away while the table is filled and compacted, and takes a snapshot."""
    await asyncio.to_thread(follower.stop)
    revision = await _fill(leader, bytes(workload.value_bytes))
    await asyncio.to_thread(follower.start)
    log = loading.load(follower.cluster_file).node_dir("n1") / "logs" / "replicator.log"
    deadline = time.monotonic() + PATIENCE_S
    with Growth(leader, follower) as growth:
        while (span_s := _snapshot_span_s(log, revision)) is None:
            if time.monotonic() > deadline:
                raise LoadFailed("the follower cluster did not catch up by a snapshot")
            await asyncio.sleep(0.1)
    note = f"{SNAPSHOT_KEYS:,} keys of {workload.value_bytes} B"
    return [
        Figure(OURS, "catching up by snapshot", SNAPSHOT_KEYS / span_s, "keys/s", note),
        Figure(OURS, "growth of a process meanwhile, most", growth.largest_mb, "MB"),
    ]


async def _fill(leader: systems.Boathouse, value: bytes) -> int:
    """Put all keys, compact what was before, and say where the table is."""
    channel: Any
    endpoint = leader.endpoints[0]
    async with grpc.aio.insecure_channel(endpoint, options=channel_options(endpoint)) as channel:
        txn: Any = channel.unary_unary(
            "/etcdserverpb.KV/Txn", response_deserializer=etcd.TxnResponse.FromString
        )
        revision = 0

        async def put_from(first: int) -> None:
            nonlocal revision
            request = etcd.TxnRequest()
            for number in range(first, first + TXN_PUTS):
                request.success.add(request_put=etcd.PutRequest(key=b"filled-%09d" % number, value=value))
            answer = await txn(request.SerializeToString(), metadata=TABLE, timeout=30)
            revision = max(revision, answer.header.revision)

        firsts = range(0, SNAPSHOT_KEYS, TXN_PUTS)
        for start in range(0, len(firsts), 16):
            await asyncio.gather(*map(put_from, firsts[start : start + 16]))
        compact: Any = channel.unary_unary("/etcdserverpb.KV/Compact")
        request = etcd.CompactionRequest(revision=revision, physical=True).SerializeToString()
        await compact(request, metadata=TABLE, timeout=30)
        return revision


def _snapshot_span_s(log: Path, revision: int) -> float | None:
    """From the beginning to the end of the snapshot of that revision, by the replicator's own clock."""
    began: dict[str, str] = {}
    for line in log.read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if said.get("event") == "a copy is replaced by a snapshot":
            began[said["table"]] = said["timestamp"]
        elif said.get("event") == "a copy was replaced by a snapshot" and said["revision"] >= revision:
            ended = datetime.fromisoformat(said["timestamp"])
            return max(1e-3, (ended - datetime.fromisoformat(began[said["table"]])).total_seconds())
    return None
