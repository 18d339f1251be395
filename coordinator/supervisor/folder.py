"""A node's data folder: one owner at a time, and never that of another cluster.

The lock is an flock on `<data_dir>/<node>/lock`, and all children inherit its descriptor. So it is free only
when the supervisor *and* every process it started are gone: after `kill -9` of a supervisor a new one waits
until the orphans have stopped, instead of opening their databases beside them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Any

from config import members
from config.durable_files import sync_folder, write_durably
from coordinator.supervisor.refusal import StartRefused

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig

IDENTITY_FORMAT = 1
ORPHANS_WAIT_S = 15.0
"""How long a start waits for processes of a supervisor that died. Above their own time limits for
stopping."""

REPLICA_DIR_BYTES_MAX = 480
"""What the path of a replica's folder may have, so that its files stay below SQLite's limit of 504 bytes."""

_POLL_S = 0.05


class NodeFolder:
    """A node's folder, locked. `lock_fd` is for the children to inherit."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.lock_fd = lock_fd

    @classmethod
    def claim(cls, cluster: ClusterConfig, node: str) -> NodeFolder:
        """Make the folder if needed, lock it, and make sure that its data belongs to this node of this
        cluster.

        Raises StartRefused; then the folder is as it was, but for an empty one that may have been made."""
        path = cluster.node_dir(node)
        _check_length(cluster, node)
        try:
            _make_folder(path)
            lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartRefused(f"the data folder {path} can't be written: {error.strerror}") from None
        try:
            _lock(node, path, lock_fd)
            _check_identity(cluster, node, path)
            _close_to_others(path)
            holder = {"pid": os.getpid(), "control": str(cluster.control_socket(node))}
            os.ftruncate(lock_fd, 0)
            os.pwrite(lock_fd, json.dumps(holder).encode(), 0)
        except OSError as error:
            os.close(lock_fd)
            raise StartRefused(f"the data folder {path} can't be written: {error.strerror}") from None
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(path, lock_fd)

    def release(self) -> None:
        """Let go of the folder. Free for others once the children are gone, too."""
        os.close(self.lock_fd)


def lock_holder(path: Path) -> dict[str, Any]:
    """What the supervisor that locked a node folder wrote there: its pid, its control socket. {} if none did.

    It may be gone since; only the lock itself tells."""
    try:
        holder = json.loads((path / "lock").read_bytes())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def living_holder(path: Path) -> int | None:
    """Pid of the supervisor that holds a node folder's lock now; None if none does."""
    pid = lock_holder(path).get("pid")
    if not isinstance(pid, int):
        return None
    try:
        lock_fd = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid if _is_alive(pid) else None
    else:
        return None
    finally:
        os.close(lock_fd)


def _check_length(cluster: ClusterConfig, node: str) -> None:
    """SQLite opens no file whose path has more than 504 bytes: one sentence now instead of workers that can't start."""
    for shard in cluster.shards_of(node):
        excess = len(os.fsencode(cluster.replica_dir(node, shard))) - REPLICA_DIR_BYTES_MAX
        if excess > 0:
            limit = len(os.fsencode(cluster.data_dir)) - excess
            raise StartRefused(
                f"the path of data_dir is too long for SQLite: it may have {limit} bytes here, "
                f"{cluster.data_dir} has {limit + excess}"
            )


def _make_folder(path: Path) -> None:
    """With its own name on disk, and that of what holds it: the replicas sync no more than what they make, and a power
    cut must not take the folder away from above synced data."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    if not (path / "node.json").exists():
        for folder in dict.fromkeys((path, path.parent, *missing)):
            with contextlib.suppress(PermissionError):  # not ours to read: its owner made what we found there
                sync_folder(folder.parent)


def _close_to_others(path: Path) -> None:
    """What lies in the folder is for this user alone, also what an earlier version made for others to read."""
    for folder, _, names in os.walk(path):
        os.chmod(folder, 0o700)
        for name in names:
            file = os.path.join(folder, name)
            if not os.path.islink(file):
                os.chmod(file, 0o600)


def _lock(node: str, path: Path, lock_fd: int) -> None:
    deadline_s = time.monotonic() + ORPHANS_WAIT_S
    while True:
        try:
            return fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = lock_holder(path).get("pid")
        if isinstance(pid, int) and _is_alive(pid):
            raise StartRefused(
                f"node {node} is up already: process {pid} holds {path}; `boathouse down` stops it"
            )
        if time.monotonic() > deadline_s:
            raise StartRefused(
                f"processes of an earlier start still use {path}, though their supervisor {pid} is gone; "
                f"`fuser {path / 'lock'}` lists them"
            )
        time.sleep(_POLL_S)


def _is_alive(pid: int) -> bool:
    """Whether the process runs. One that was killed and not yet collected by its parent does not."""
    import psutil  # only where a lock is held; a start does without it

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


# ---- whose data this is ------------------------------------------------------------------------------------


def _identity(cluster: ClusterConfig, node: str) -> dict[str, Any]:
    return {
        "format": IDENTITY_FORMAT,
        "cluster": cluster.cluster,
        "cluster_id": f"{cluster.cluster_id:016x}",
        "node": node,
        "node_id": cluster.node(node).id,
        "shards": cluster.shards,
        "replicas": cluster.replicas,
        # Where shards began follows from these nodes' ids, so data fixes them, too.
        "nodes": {name: other.id for name, other in cluster.nodes.items() if not other.joins},
    }


def _check_identity(cluster: ClusterConfig, node: str, path: Path) -> None:
    file = path / "node.json"
    expected = _identity(cluster, node)
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        if any(path.glob("shard-*")):
            raise StartRefused(
                f"{path} holds shards but no node.json, so whose they are is unknown"
            ) from None
        write_durably(file, json.dumps(expected, indent=2) + "\n")
        return
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StartRefused(f"{file} is damaged; restore it, or use another data_dir")
    has_changed = members.file_of(cluster, node).exists()
    reason = _difference(found, expected, founders_may_go=has_changed or cluster.node(node).joins)
    if reason:
        raise StartRefused(f"{path} {reason}")
    if found["shards"] < expected["shards"]:
        # From here on there can't be fewer: they may hold data as soon as they run.
        write_durably(file, json.dumps(found | {"shards": expected["shards"]}, indent=2) + "\n")


def _difference(found: dict[str, Any], expected: dict[str, Any], *, founders_may_go: bool) -> str:
    """How the data's identity contradicts the file's, most fundamental first; "" if it does not. founders_may_go: of
    the nodes that the cluster began with some may be gone from it."""
    if found.get("format") != IDENTITY_FORMAT:
        return f"was written in format {found.get('format')}, this version reads format {IDENTITY_FORMAT}"
    if (found.get("cluster"), found.get("cluster_id")) != (expected["cluster"], expected["cluster_id"]):
        mine, other = expected["cluster"], found.get("cluster")
        return (
            f"holds data of cluster {other}, not of {mine}; "
            f"use another data_dir, or the file of cluster {other}"
        )
    if (found.get("node"), found.get("node_id")) != (expected["node"], expected["node_id"]):
        mine, other = (f"node {whose.get('node')} (id {whose.get('node_id')})" for whose in (expected, found))
        return f"holds data of {other}, not of {mine}; move the folder back, or set the name and id back"
    if not isinstance(found.get("shards"), int) or found["shards"] > expected["shards"]:
        return (
            f"has had shards: {found.get('shards')} and the cluster file says shards: {expected['shards']}; "
            f"there can be more of them and not fewer: set it back, or use another data_dir"
        )
    if found.get("replicas") != expected["replicas"]:
        return (
            f"was made with replicas: {found.get('replicas')} and the cluster file says replicas: "
            f"{expected['replicas']}; it can't change once there is data: set it back, or use another data_dir"
        )
    before = found.get("nodes")
    if before != expected["nodes"]:
        if founders_may_go and isinstance(before, dict) and before.items() >= expected["nodes"].items():
            return ""
        listed = ", ".join(f"{name} (id {number})" for name, number in before.items()) if before else "none"
        return (
            f"was made for the nodes {listed}; the ids of these can't change once there is data: set them back, or "
            f"use another data_dir. A node that comes later is written with `joins: true`; one that founded the "
            f"cluster may go from the file once `boathouse node remove` has taken it out of its shards"
        )
    return ""
