"""A client that watches while an operator works: one thread per coordinator writes and reads without pause, and counts
what fails and what takes long. So it can be said afterwards what clients saw, over hand-overs of coordinators too,
whose own counters end with them.

It changes nothing. It reads an absent key linearizably, and its write is a transaction whose condition never holds:
that goes through the shard's leader and log like any write, and touches no key and no revision. Nothing is repeated
here, so what fails would have failed for a client as well. One table of each shard is probed; what can't be reached
before the work begins is left out, and named."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import grpc

from proto import catalog
from proto.etcd import rpc_pb2 as rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from config import ClusterConfig
    from tools.admin.reach import Reach

KEY: Final = b"\0boathouse/canary"
CALL_TIMEOUT_S: Final = 10.0
PREPARE_TIMEOUT_S: Final = 2.0
"""A coordinator or a shard that does not serve is no reason to wait long: it may be what is to be restarted."""
PAUSE_S: Final = 0.005
"""Between two probes of one coordinator."""
_KV: Final = "/etcdserverpb.KV/"
_NEVER: Final = rpc.Compare(
    key=KEY,
    target=rpc.Compare.VERSION,
    result=rpc.Compare.LESS,
    version=0,  # no version is below 0
)
_WRITE: Final = rpc.TxnRequest(
    compare=[_NEVER], success=[rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=KEY))]
).SerializeToString()
_READ: Final = rpc.RangeRequest(key=KEY).SerializeToString()


@dataclass(frozen=True, slots=True)
class Sighting:
    """What clients saw while it watched."""

    probes: int
    failed: int
    slowest_ms: float
    """Of the probes that were answered."""
    first_failure: str
    """Its words; "" without one."""
    coordinators: tuple[str, ...]
    """Nodes whose coordinators were probed."""
    shards: tuple[int, ...]
    """Shards that were probed."""
    not_probed: tuple[str, ...]
    """What was left out, and why."""

    def to_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return {
            "probes": self.probes,
            "failed": self.failed,
            "slowest_ms": round(self.slowest_ms, 1),
            "first_failure": self.first_failure,
            "coordinators": list(self.coordinators),
            "shards": list(self.shards),
            "not_probed": list(self.not_probed),
        }

    def __str__(self) -> str:
        if not self.probes:
            left_out = "; ".join(self.not_probed)
            return f"what clients saw is not known: nothing could be probed ({left_out})"
        said = (
            f"clients saw {self.failed} failed, slowest {self.slowest_ms:.0f} ms"
            f" ({self.probes} writes and linearizable reads that change nothing, through {_listed(self.coordinators)},"
            f" of {'shard' if len(self.shards) == 1 else 'shards'} {_listed(self.shards)})"
        )
        said += f"; first failure: {self.first_failure}" if self.first_failure else ""
        return said + (f"; not probed: {'; '.join(self.not_probed)}" if self.not_probed else "")


@dataclass(slots=True)
class _Tally:
    probes: int = 0
    failed: int = 0
    slowest_s: float = 0.0
    first_failure: str = ""


@dataclass(slots=True)
class _Probed:
    """One coordinator, and what was seen through it."""

    node: str
    channel: grpc.Channel
    login: tuple[tuple[str, str], ...]
    tables: Mapping[int, str]
    """A table of each shard."""
    tally: _Tally = field(default_factory=_Tally)

    def probe(self, table: str, method: str, body: bytes, timeout_s: float) -> str:
        """One call. Why it failed, or ""."""
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(_KV + method, None, None)
        try:
            call(body, timeout=timeout_s, metadata=(*self.login, ("table", table)))
        except grpc.RpcError as error:
            return f"{self.node}, table {table}: {error.details()} ({error.code().name})"
        return ""

    def run(self, ended: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """Write and read each table in turn, until told to end."""
        tally = self.tally
        while not ended():
            for table in self.tables.values():
                for method, body in (("Txn", _WRITE), ("Range", _READ)):
                    started = clock()
                    failure = self.probe(table, method, body, CALL_TIMEOUT_S)
                    tally.probes += 1
                    if failure:
                        tally.failed += 1
                        tally.first_failure = tally.first_failure or failure
                    else:
                        tally.slowest_s = max(tally.slowest_s, clock() - started)
            time.sleep(PAUSE_S)


class Canary:
    """Watches from when it is entered until it is left; `sighting` then says what it saw."""

    def __init__(self, cluster: ClusterConfig, reach: Reach) -> None:
        self._cluster = cluster
        self._reach = reach
        self._probed: list[_Probed] = []
        self._not_probed: list[str] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        nodes = self._cluster.nodes
        with ThreadPoolExecutor(len(nodes)) as pool:
            endpoints = [node.client_endpoint for node in nodes.values()]
            for probed, left_out in pool.map(partial(_prepare, self._reach), nodes, endpoints):
                self._not_probed += left_out
                self._probed.append(probed)
        for probed in self._probed:
            if not probed.tables:
                continue
            thread = threading.Thread(target=probed.run, args=(self._ended.is_set,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * CALL_TIMEOUT_S)
        for probed in self._probed:
            probed.channel.close()

    def sighting(self) -> Sighting:
        """What was seen so far."""
        tallies = [probed.tally for probed in self._probed]
        shards = sorted({shard for probed in self._probed for shard in probed.tables})
        without = [shard for shard in range(1, self._cluster.shards + 1) if shard not in shards]
        no_table = (
            [f"shard {shard}: it holds no table, or none that answered" for shard in without]
            if shards
            else []
        )
        return Sighting(
            probes=sum(tally.probes for tally in tallies),
            failed=sum(tally.failed for tally in tallies),
            slowest_ms=1000 * max((tally.slowest_s for tally in tallies), default=0.0),
            first_failure=next((tally.first_failure for tally in tallies if tally.first_failure), ""),
            coordinators=tuple(probed.node for probed in self._probed if probed.tables),
            shards=tuple(shards),
            not_probed=(*self._not_probed, *no_table),
        )


def _prepare(reach: Reach, node: str, endpoint: str) -> tuple[_Probed, list[str]]:
    """A coordinator and the tables that can be probed through it, and what can't be and why."""
    probed = _Probed(node, reach.channel(endpoint), reach.login, {})
    try:
        tables = _table_of_each_shard(probed)
    except grpc.RpcError as error:
        return probed, [f"{node}: {error.details()} ({error.code().name})"]
    failures = {
        shard: probed.probe(table, "Txn", _WRITE, PREPARE_TIMEOUT_S) for shard, table in tables.items()
    }
    probed.tables = {shard: table for shard, table in tables.items() if not failures[shard]}
    return probed, [why for why in failures.values() if why]


def _table_of_each_shard(probed: _Probed) -> dict[int, str]:
    """By shard, the oldest table that clients may write. Raises grpc.RpcError."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = probed.channel.unary_unary(_KV + "Range", None, None)
    request = rpc.RangeRequest(key=catalog.TABLES_PREFIX, range_end=catalog.TABLES_END)
    metadata = (*probed.login, ("table", catalog.CATALOG_NAME))
    body = call(request.SerializeToString(), timeout=PREPARE_TIMEOUT_S, metadata=metadata)
    entries = [catalog.parse_row(kv.key, kv.value) for kv in rpc.RangeResponse.FromString(body).kvs]
    oldest: dict[int, catalog.TableEntry] = {}
    for entry in sorted(entries, key=lambda entry: entry.id):
        if not entry.is_reserved:
            oldest.setdefault(entry.shard, entry)
    return {shard: entry.name for shard, entry in sorted(oldest.items())}


def _listed(values: tuple[object, ...]) -> str:
    return ", ".join(map(str, values))
