"""What clients notice of a restart of everything, one process at a time: etcd's own benchmark puts meanwhile, into a
table of each of four shards, through every node.

Its clients are written in Go and repeat nothing that may have been applied. A put takes one revision, so the revisions
of a table tell whether any was applied twice or is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import grpc

from proto.etcd import rpc_pb2 as etcd
from tools.admin.client import KvClient
from tools.bench import systems
from tools.bench.report import OURS, Figure, Report
from tools.bench.run import LoadFailed

if TYPE_CHECKING:
    from pathlib import Path

    from tools.bench.setting import Setting
    from tools.bench.workload import Workload

NODES: Final = 3
SHARDS: Final = 4
PUTS_PER_S: Final = 1_500
"""Of all clients: a third of what such a cluster takes on two cores, so that a restart finds room."""
LEAD_S: Final = 3.0
"""Of puts before the first process goes."""
DURATION_S_MIN: Final = 60.0
CALL_S: Final = 10.0
_SLOWEST: Final = re.compile(r"Slowest:\s+([0-9.]+) secs")
_ERROR: Final = re.compile(r"^\s+\[(\d+)\]\s+(.+)$", re.MULTILINE)


def restarts(setting: Setting, workload: Workload) -> Report:
    """`boathouse restart --all` on three nodes and four shards under puts. Raises LoadFailed."""
    report = Report(
        f"restart --all under {workload.clients} Go clients, 3 nodes, 4 shards", compared="slowest"
    )
    system, ports = _system(setting)
    try:
        system.start()
        seconds = max(workload.seconds, DURATION_S_MIN)
        with ThreadPoolExecutor(SHARDS + 1) as pool:
            loads = [
                pool.submit(_put, setting, endpoints, replace(workload, seconds=seconds))
                for endpoints in ports.values()
            ]
            time.sleep(LEAD_S)
            took_s = _restart_all(system.cluster_file, setting)
            if ended := [load for load in loads if load.done()]:
                for load in ended:
                    load.result()  # whatever ended it at once is the better reason
                raise LoadFailed(
                    f"the restart took {took_s:.0f} s, longer than the load: give it more --duration"
                )
            slowest_ms, errors, asked = zip(*(load.result() for load in loads), strict=True)
        applied = [_applied(setting, endpoints[0]) for endpoints in ports.values()]
    finally:
        system.stop()
    failed = {text: count for each in errors for text, count in each.items()}
    note = f"{NODES * (SHARDS + 1)} processes in {took_s:.0f} s, {PUTS_PER_S:,} puts/s"
    report.figures += [
        Figure(OURS, "slowest", max(slowest_ms), "ms", note),
        Figure(OURS, "failed", sum(failed.values()), "puts", "; ".join(failed)),
        Figure(
            OURS, "doubled", sum(applied) - sum(asked), "puts", f"{sum(asked):,} puts, by their revisions"
        ),
    ]
    return report


def _system(setting: Setting) -> tuple[systems.Boathouse, dict[str, list[str]]]:
    """A cluster whose tables have ports of their own, and those, by table."""
    nodes = [f"n{number}" for number in range(1, NODES + 1)]
    names = [f"bench-{number}" for number in range(1, SHARDS + 1)]
    ports = {name: {node: systems.free_port() for node in nodes} for name in names}
    tables = {name: {"shard": shard, "client_port": ports[name]} for shard, name in enumerate(names, start=1)}
    system = systems.Boathouse(
        setting.folder / "restarts",
        NODES,
        SHARDS,
        NODES,
        tuple(names),
        setting.certificates,
        settings={"tables": tables},
    )
    return system, {name: [f"127.0.0.1:{port}" for port in each.values()] for name, each in ports.items()}


def _put(setting: Setting, endpoints: list[str], workload: Workload) -> tuple[float, dict[str, int], int]:
    """The slowest put, in milliseconds; what failed, and how often; how many were asked for. Raises LoadFailed."""
    rate, clients = PUTS_PER_S // SHARDS, max(1, workload.clients // SHARDS)
    total = int(rate * workload.seconds)
    scheme = "http" if setting.certificates is None else "https"
    command = [
        str(systems.etcd_program("benchmark")),
        "--endpoints", ",".join(f"{scheme}://{endpoint}" for endpoint in endpoints),
        "--clients", str(clients), "--conns", str(clients), "--precise",
        "put", "--total", str(total), "--rate", str(rate), "--val-size", str(workload.value_bytes),
        "--key-space-size", str(workload.key_count),
    ]  # fmt: skip
    if (files := setting.certificates) is not None:
        command += ["--cacert", str(files.ca), "--cert", str(files.client), "--key", str(files.client_key)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - etcd's own program
    found = _SLOWEST.search(done.stdout)
    if found is None:
        raise LoadFailed(f"etcd's benchmark gave no figures: {(done.stdout + done.stderr)[-500:]}")
    _, _, told = done.stdout.partition("Error distribution:")
    errors = {text: int(count) for count, text in _ERROR.findall(told)}
    return float(found[1]) * 1_000, errors, total


def _restart_all(cluster_file: Path, setting: Setting) -> float:
    """How long it took. Raises LoadFailed."""
    command = [sys.executable, "-m", "tools.cli", "restart", "--all", str(cluster_file), "-o", "json"]
    if (files := setting.certificates) is not None:
        command += ["--cacert", str(files.ca), "--cert", str(files.client), "--key", str(files.client_key)]
    began_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode:
        raise LoadFailed(f"the restart did not come to its end: {done.stderr[-500:]}")
    restarted = json.loads(done.stdout)["processes"]
    assert len(restarted) == NODES * (SHARDS + 1), restarted
    return time.monotonic() - began_s


def _applied(setting: Setting, endpoint: str) -> int:
    """How many puts a table has applied."""
    credentials = None
    if (files := setting.certificates) is not None:
        credentials = grpc.ssl_channel_credentials(
            files.ca.read_bytes(), files.client_key.read_bytes(), files.client.read_bytes()
        )
    with KvClient([endpoint], None, CALL_S, credentials=credentials) as client:
        revision: int = client.range(etcd.RangeRequest(key=b"\0", limit=1)).header.revision
    return revision - 1
