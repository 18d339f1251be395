"""Clusters made of plain values, at one moment of a fixed clock: healthy, degraded, leaderless. And somebody attached
to one, who counts what he is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from config.process.names import ProcessName
from coordinator.replication.report import CopyReport, Report
from proto.histogram import CALL_BOUNDS_S
from tools.admin.attachment import NotDone
from tools.admin.etcd_client import Refused
from tools.admin.keys import KeyPage, KeyRow
from tools.admin.node_pages import Series
from tools.admin.snapshot import Node, Process, Replica, Replication, Snapshot, Table, make_shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.admin.quorum import Verb

NOW: Final = 1_790_000_000.0
NODES: Final = ("n1", "n2", "n3")
TABLES: Final = {1: ("default", "all"), 2: ("users", "none"), 3: ("events", "1000")}


def healthy(*, shards: int = 4, seconds: float = 0.0) -> Snapshot:
    """All is well. `seconds` later more was written."""
    now = NOW + seconds
    processes = [
        Process(
            name=name,
            state="running",
            pid=4_000 + 100 * NODES.index(name.node) + (name.shard or 0),
            restarts=0,
            started_at=NOW - 7_265,
            log=f"data/{name.node}/logs/{name.local}.log",
            cpu_percent=4.0 if name.shard else 21.0,
            rss_bytes=(54 if name.shard else 62) << 20,
            answered_at=now,
        )
        for node in NODES
        for name in (
            *(ProcessName.replica(node, shard) for shard in range(1, shards + 1)),
            ProcessName.coordinator(node),
        )
    ]
    return Snapshot(
        cluster="demo",
        taken_at=now,
        nodes=[
            Node(name=node, endpoint=f"127.0.0.1:23{number}9", is_up=True)
            for number, node in enumerate(NODES, 7)
        ],
        processes=processes,
        shards=[
            make_shard(shard, [_replica(shard, node, seconds) for node in NODES], NODES)
            for shard in range(1, shards + 1)
        ],
        calls=_calls(seconds),
    )


def _calls(seconds: float) -> dict[Series, Sequence[int]]:
    """Of clients of each table through n1: 100 writes and 500 reads in a second, some of them slow."""
    counted: dict[Series, Sequence[int]] = {}
    for number, (table, _) in TABLES.items():
        for method, place, rate in (("Put", 5 + number, 100), ("Range", 2 + number, 500)):
            counts = [0] * (len(CALL_BOUNDS_S) + 1)
            counts[place], counts[place + 2] = int(0.98 * rate * seconds), int(0.02 * rate * seconds)
            counted[Series("n1/coordinator", f"/etcdserverpb.KV/{method}", table)] = counts
    return counted


def copying(*copies: CopyReport, at_s: float = NOW, **said: Any) -> Snapshot:
    """Healthy, and follows another cluster, of which n2 says this."""
    report = Report.of("n2", at_s, copies, **said)
    replication = Replication(leader="cluster harbour at h:1", report=report, answered=True)
    return replace(healthy(), replication=replication)


def copied(name: str, behind: int = 0, lag_s: float = 0.0, **also: Any) -> CopyReport:
    """A copy that follows."""
    words: dict[str, Any] = {"does": "follows", "stalled": False, "trouble": "", "backoff_s": 0.0} | also
    return CopyReport(name=name, revision=100, lag_revisions=behind, lag_s=lag_s, **words)


def _replica(shard: int, node: str, seconds: float) -> Replica:
    leader = NODES[(shard - 1) % len(NODES)]
    index = 12_000 * shard + int(900 * seconds)
    table = TABLES.get(shard)
    return Replica(
        shard=shard,
        node=node,
        is_answering=True,
        answered_at=NOW + seconds,
        role="leader" if node == leader else "follower",
        leader=leader,
        term=3,
        commit_index=index,
        applied_index=index if node == leader else index - 7,
        database_bytes=(180 << 20) + shard,
        wal_bytes=9 << 20,
        disk_free_bytes=61 << 30,
        queued=12 if node == leader else 0,
        sync_p99_us=3_200 + 100 * shard,
        commands_applied=index,
        reads_served=5 * index if node == leader else 0,
        build_level=1,
        clock_skew_ms=0,
        voters=NODES,
        tables=()
        if table is None
        else [Table(name=table[0], shard=shard, revision=index // 2, keys=90_000, history=table[1])],
    )


def degraded() -> Snapshot:
    """Node n3 is down, one replica on n2 is far behind and slow, and one process was stopped."""
    whole = healthy()
    shards = []
    for shard in whole.shards:
        replicas = []
        for replica in shard.replicas:
            changed = replica
            if replica.node == "n3":
                changed = replace(replica, is_answering=False, answered_at=NOW - 42)
            elif replica.leader == "n3":
                changed = replace(
                    replica, leader="n1", role="leader" if replica.node == "n1" else "follower", term=4
                )
            if (replica.node, replica.shard) == ("n2", 1):
                changed = replace(changed, applied_index=2_000, sync_p99_us=310_000, queued=40)
            if (replica.node, replica.shard) == ("n2", 4):
                changed = replace(changed, is_answering=False, answered_at=NOW - 300)
            replicas.append(changed)
        shards.append(make_shard(shard.number, replicas, NODES))
    return replace(
        whole,
        nodes=[replace(node, is_up=node.name != "n3") for node in whole.nodes],
        processes=[_degraded(process) for process in whole.processes],
        shards=shards,
    )


def _degraded(process: Process) -> Process:
    if process.name.node == "n3":
        return Process(name=process.name, state="down")
    if process.name == ProcessName.replica("n2", 4):
        return replace(process, state="stopped", pid=None, cpu_percent=None, rss_bytes=None)
    if process.name == ProcessName.coordinator("n2"):
        return replace(process, restarts=3, started_at=NOW - 20, last_error="exited with code 1")
    return process


def leaderless() -> Snapshot:
    """Of shards 2 and 4 two replicas each have failed; the third waits for them."""
    whole = healthy()
    shards = []
    for shard in whole.shards:
        replicas = list(shard.replicas)
        if shard.number in (2, 4):
            replicas = [
                replace(replica, role="candidate", leader="", term=9)
                if replica.node == "n1"
                else Replica(shard=shard.number, node=replica.node)
                for replica in replicas
            ]
        shards.append(make_shard(shard.number, replicas, NODES))
    failed = {ProcessName.replica(node, shard) for node in ("n2", "n3") for shard in (2, 4)}
    return replace(
        whole,
        processes=[
            replace(
                process,
                state="failed",
                pid=None,
                cpu_percent=None,
                rss_bytes=None,
                last_error="replica-1.db: row 7 of the log is damaged",
            )
            if process.name in failed
            else process
            for process in whole.processes
        ],
        shards=shards,
    )


@dataclass
class Attached:
    """Somebody attached to such a cluster."""

    snapshots: Sequence[Snapshot]
    """One a look; the last stays."""
    can_act: bool = True
    file: str = "demo.yaml"
    refuses: str = ""
    looks: int = 0
    done: list[tuple[str, str, str | None, bool]] = field(default_factory=list)

    def poll(self) -> Snapshot:
        snapshot = self.snapshots[min(self.looks, len(self.snapshots) - 1)]
        self.looks += 1
        return snapshot

    def table(self, name: str) -> Keys:
        return Keys(name)

    def act(self, verb: Verb, name: ProcessName, leader: str | None, *, force: bool) -> str:
        if self.refuses:
            raise NotDone(self.refuses)
        self.done.append((verb.value, str(name), leader, force))
        return f"{name} was restarted"


@dataclass
class Keys:
    """300 keys in a table of that name; none can be read from `events`."""

    table: str

    def page(self, start: bytes) -> KeyPage:
        if self.table == "events":
            raise Refused("127.0.0.1:2379: no replica answers (UNAVAILABLE)")
        names = [b"key-%03d" % number for number in range(300)]
        left = [name for name in names if name >= start]
        rows = [KeyRow(name, 100 + number, 50, 2, 0) for number, name in enumerate(left[:200])]
        return KeyPage(rows, len(left), left[199] + b"\0" if len(left) > 200 else None)

    def history(self, key: bytes) -> list[KeyRow]:
        return [
            KeyRow(key, 120, 50, 2, 0, b'{"name": "Ann"}'),
            KeyRow(key, 50, 50, 1, 0, b"\x00\xff binary"),
        ]
