"""What whoever looks into a problem from afar needs, in one archive, without secrets.

It is made when things are broken: a part that can't be had is named with its reason, and the others are there."""

from __future__ import annotations

import io
import json
import os
import platform
import resource
import shutil
import tarfile
import time
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import psutil
import yaml

from tools.admin.redaction import Redaction, without_secrets

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from config import ClusterConfig

    Part = tuple[str, Callable[[], bytes]]
    """Name within the archive, and what makes its content, which may raise anything."""

METRICS_TIMEOUT_S: Final = 5.0


def write_bundle(
    path: Path, folder: str, parts: Iterable[Part], redaction: Redaction, on_part: Callable[[str], None]
) -> list[str]:
    """Make the archive, for this user's eyes alone, with everything in a folder of that name; the names of the parts
    that could not be had. Raises OSError, FileExistsError if there is such a file."""
    missing = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, make in parts:
            on_part(name)
            member = f"{folder}/{name}"
            try:
                content = make()
            except Exception as error:
                missing.append(name)
                member, content = f"{member}.missing", f"{type(error).__name__}: {error}\n".encode()
            _add(archive, member, redaction.apply(content))
    return missing


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(content))


def document(value: Any) -> bytes:
    """As JSON."""
    return (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode()


def config_part(cluster: ClusterConfig) -> Part:
    """The cluster file as it was understood, defaults included."""
    dumped = without_secrets(cluster.model_dump())
    return "config.yaml", lambda: yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True).encode()


def system_part(cluster: ClusterConfig) -> Part:
    """The machine: its system, load, memory, limits, and the disk of the data."""

    def look() -> bytes:
        usage = shutil.disk_usage(cluster.data_dir if cluster.data_dir.exists() else "/")
        memory = psutil.virtual_memory()
        return document(
            {
                "platform": platform.platform(),
                "cores": os.cpu_count(),
                "load": os.getloadavg(),
                "memory": {"total": memory.total, "available": memory.available},
                "data_disk": {"total": usage.total, "free": usage.free},
                "open_files_max": resource.getrlimit(resource.RLIMIT_NOFILE),
                "time": time.time(),
                "time_zone": time.tzname,
            }
        )

    return "system.json", look


def log_parts(cluster: ClusterConfig, bytes_max: int) -> Iterator[Part]:
    """The end of every log of the nodes whose folders are here, those that were moved aside included."""
    for node in cluster.nodes:
        for log in sorted((cluster.node_dir(node) / "logs").glob("*.log*")):
            yield f"logs/{node}/{log.name}", lambda log=log: _end_of(log, bytes_max)  # type: ignore[misc]


def _end_of(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - bytes_max))
        if size > bytes_max:
            file.readline()  # the rest of a line, which could be the rest of a secret
        return file.read()


def metrics_parts(cluster: ClusterConfig, tls: ssl.SSLContext | None) -> Iterator[Part]:
    """What each node's /metrics says now. tls: how to speak to ports that are not in the clear."""
    scheme = "http" if cluster.tls.client is None else "https"
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
    )
    for node in cluster.nodes.values():
        url = f"{scheme}://{node.http_endpoint}/metrics"
        yield f"metrics/{node.name}.txt", lambda url=url: _fetch(opener, url)  # type: ignore[misc]


def _fetch(opener: urllib.request.OpenerDirector, url: str) -> bytes:
    with opener.open(url, timeout=METRICS_TIMEOUT_S) as response:
        content: bytes = response.read()
        return content
