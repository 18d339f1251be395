"""What writers notice while a table's past is compacted and the disk's free pages are given back."""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from proto.etcd import rpc_pb2 as etcd
from tools.admin.client import open_channel
from tools.bench.report import Figure
from tools.bench.run import LoadFailed, measure

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

    from tools.bench.run import Outcome, Progress
    from tools.bench.systems import System
    from tools.bench.workload import Workload

CHANGES: Final = 1_000_000
FILLS: Final = 10
"""Each key is put so often: all but the newest changes are there to be compacted."""
BEFORE_S: Final = 3.0
"""Of load, before the compaction begins."""
AFTER_S: Final = 3.0
"""Of load, at least, when all is over."""
CALL_S: Final = 120.0
LOAD_S_MIN: Final = 30.0
REST_S: Final = 30.0
"""How long the disk is looked at while nobody else is at work."""
SYNC_EVERY_S: Final = 0.01
SYNCED_BYTES: Final = 16 << 10


def slowest_sync(folder: Path) -> Figure:
    """What the disk itself makes a writer wait, whatever is run on it: no pause that is measured on it means less."""
    slowest_s = 0.0
    ends_s = time.monotonic() + REST_S
    count = 0
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while time.monotonic() < ends_s:
            time.sleep(SYNC_EVERY_S)
            file.seek(0)
            file.write(os.urandom(SYNCED_BYTES))
            began_s = time.monotonic()
            os.fdatasync(file.fileno())
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            count += 1
    note = f"of {count:,} of {SYNCED_BYTES >> 10} KiB, before, with nobody else at work"
    return Figure("disk", "slowest_sync", 1000 * slowest_s, "ms", note)


def compact_and_defragment(
    system: System, workload: Workload, progress: Progress
) -> tuple[Outcome, list[Figure]]:
    """Puts, while all but the newest of 1,000,000 changes go and every node gives its free pages back.

    Raises LoadFailed, also if the load was over first."""
    load = replace(
        workload,
        mix={"put": 100},
        tables=("default",),
        key_count=CHANGES // FILLS,
        requests=None,
        seconds=max(workload.seconds, LOAD_S_MIN),
    )
    for _ in range(FILLS):
        measure(system, replace(load, seconds=0.1, warmup_seconds=0.0), progress, fill=True)
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(_compact_and_defragment, system, load.warmup_seconds + BEFORE_S)
        began = time.monotonic()
        outcome = measure(system, load, progress, fill=False)
        ended = time.monotonic()
        compacted_s, defragmented_s, over = work.result()
    if over + AFTER_S > ended:
        raise LoadFailed(
            f"{system.name} was at it for {over - began:.0f} s, and the load lasted {ended - began:.0f}: "
            "ask for a longer --duration"
        )
    note = f"of all clients; compacted in {compacted_s:.1f} s, defragmented in {defragmented_s:.1f} s"
    return outcome, [
        Figure(system.name, "longest_pause", outcome.longest_pause_ms, "ms", note),
        Figure(system.name, "slowest", outcome.histogram.percentile_ms(100), "ms", "put"),
    ]


def _compact_and_defragment(system: System, after_s: float) -> tuple[float, float, float]:
    """How long either took, in seconds, and when it was over."""
    time.sleep(after_s)
    credentials = system.tls.credentials() if system.tls.given else None
    with ExitStack() as stack:
        channels = [stack.enter_context(open_channel(endpoint, credentials)) for endpoint in system.endpoints]
        first = channels[0]
        newest: Any = first.unary_unary(
            "/etcdserverpb.KV/Range", etcd.RangeRequest.SerializeToString, etcd.RangeResponse.FromString
        )
        compact: Any = first.unary_unary(
            "/etcdserverpb.KV/Compact",
            etcd.CompactionRequest.SerializeToString,
            etcd.CompactionResponse.FromString,
        )
        began = time.monotonic()
        revision = newest(etcd.RangeRequest(key=b"none"), timeout=CALL_S).header.revision
        compact(etcd.CompactionRequest(revision=revision, physical=True), timeout=CALL_S)
        compacted = time.monotonic()
        for channel in channels:
            _defragment(channel)
        return compacted - began, time.monotonic() - compacted, time.monotonic()


def _defragment(channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary(
        "/etcdserverpb.Maintenance/Defragment",
        etcd.DefragmentRequest.SerializeToString,
        etcd.DefragmentResponse.FromString,
    )
    call(etcd.DefragmentRequest(), timeout=CALL_S)
