"""What is found out about a cluster by trying: its disks, ports and folders, as far as they are on this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import stat
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from config.process.names import ProcessName
from config.process.report import State
from tools.admin import certificate_dates
from tools.admin.diagnosis import of_certificates
from tools.admin.findings import Code, Finding, finding
from tools.admin.snapshot import DOWN, ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from config import ClusterConfig, NodeConfig
    from tools.admin.snapshot import Certificate, Snapshot

SYNCS: Final = 8
SYNC_BYTES: Final = 4_096
DISK_SLOW_S: Final = 0.05
"""etcd's guide asks for a tenth of an election timeout at most; this is half of that of ours."""
CONNECT_TIMEOUT_S: Final = 1.0
ROOM_FACTOR: Final = 4


def check(
    cluster: ClusterConfig, snapshot: Snapshot, *, file: str, disk_slow_s: float = DISK_SLOW_S
) -> list[Finding]:
    """Try everything. Takes a second or so; writes a few small files below data_dir, and removes them."""
    findings = [*_disk(cluster, file, disk_slow_s), *_folders(cluster, file), *_not_tried(cluster, file)]
    with ThreadPoolExecutor(max_workers=len(cluster.nodes)) as pool:
        shown = pool.map(lambda node: _shown_elsewhere(cluster, node), cluster.nodes.values())
        certificates = [certificate for certificate in shown if certificate is not None]
        findings += of_certificates(certificates, now=time.time(), file=file)
        tried = pool.map(lambda node: list(_ports(cluster, snapshot, node, file)), cluster.nodes.values())
        for found in tried:
            findings += found
    return findings


# ---- disks ----------------------------------------------------------------------------------------------------------


def _disk(cluster: ClusterConfig, file: str, slow_s: float) -> Iterator[Finding]:
    """Of each node whose folder is here; before the first start, of the nearest folder above that exists."""
    folders = {_existing(cluster.node_dir(node)) for node in cluster.nodes if cluster.node(node).is_loopback}
    folders |= {folder for node in cluster.nodes if (folder := cluster.node_dir(node)).is_dir()}
    for folder in sorted(folders):
        free_bytes = shutil.disk_usage(folder).free
        wanted = ROOM_FACTOR * cluster.store.disk_free_bytes_min
        if free_bytes < wanted:
            says = f"{free_bytes >> 20} MiB are free for {folder}, {wanted >> 20} MiB would leave some room"
            yield finding(Code.DISK_LOW, str(folder), says, file=file)
        try:
            usual_s = sync_time_s(folder)
        except OSError as error:
            says = f"{folder} can't be written: {error.strerror or error}"
            yield finding(Code.DISK_UNUSABLE, str(folder), says, file=file)
        else:
            if usual_s > slow_s:
                says = f"half of {SYNCS} syncs in {folder} took {usual_s * 1000:.0f} ms or more"
                yield finding(Code.DISK_SLOW, str(folder), says, file=file)


def sync_time_s(folder: Path) -> float:
    """How long half of a few small synced writes take there, or longer. Not the slowest: any disk has a slow one now
    and then, and so few can't tell how often. Raises OSError."""
    path = folder / f".sync-{secrets.token_hex(8)}"
    took_s = []
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        for _ in range(SYNCS):
            begun_s = time.perf_counter()
            os.write(handle, b"\0" * SYNC_BYTES)
            os.fdatasync(handle)
            took_s.append(time.perf_counter() - begun_s)
    finally:
        os.close(handle)
        path.unlink()
    return statistics.median_high(took_s)


def _existing(folder: Path) -> Path:
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _folders(cluster: ClusterConfig, file: str) -> Iterator[Finding]:
    for node in cluster.nodes:
        folder = cluster.node_dir(node)
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(folder.stat().st_mode)
            if mode & 0o077:
                says = f"{folder} has mode {mode:04o}, 0700 keeps others out"
                yield finding(Code.FOLDER_OPEN, str(folder), says, file=file)


def _not_tried(cluster: ClusterConfig, file: str) -> Iterator[Finding]:
    away = [
        node.name
        for node in cluster.nodes.values()
        if not node.is_loopback and not cluster.node_dir(node.name).is_dir()
    ]
    if away:
        says = f"disks and folders of {', '.join(away)} were not tried"
        yield finding(Code.NOT_TRIED, cluster.cluster, says, file=file, where="on each of their hosts")


def _shown_elsewhere(cluster: ClusterConfig, node: NodeConfig) -> Certificate | None:
    """What a node's clients are shown, where its file is on another machine."""
    files = cluster.client_tls(node.name)
    return None if files is None or os.path.exists(files.cert) else certificate_dates.shown(cluster, node)


# ---- ports ----------------------------------------------------------------------------------------------------------


def _ports(cluster: ClusterConfig, snapshot: Snapshot, node: NodeConfig, file: str) -> Iterator[Finding]:
    is_up = next((each.is_up for each in snapshot.nodes if each.name == node.name), None)
    if is_up is None or (not is_up and not node.is_loopback):
        return
    for port, use in _uses(cluster, snapshot, node).items():
        listens = _listens(node.host, port)
        if is_up and not listens:
            says = f"nobody takes connections on {node.host}:{port}, the {use} of {node.name}"
            yield finding(Code.PORT_CLOSED, f"{node.host}:{port}", says, file=file)
        elif not is_up and listens:
            says = f"node {node.name} is down, but somebody listens on {node.host}:{port}, its {use}"
            yield finding(Code.PORT_TAKEN, f"{node.host}:{port}", says, file=file)


def _uses(cluster: ClusterConfig, snapshot: Snapshot, node: NodeConfig) -> dict[int, str]:
    """The ports that should be taken while the node is up: not those of replicas that are known not to run."""
    replicas = {
        node.peer_port + shard - 1: f"port of shard {shard}"
        for shard in range(1, cluster.shards + 1)
        if (process := snapshot.process(ProcessName.replica(node.name, shard))) is not None
        and process.state in (State.RUNNING, DOWN, ELSEWHERE)
    }
    return {node.client_port: "client port", node.http_port: "HTTP port", **replicas}


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True
