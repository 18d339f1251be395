"""Where a cluster's files and sockets are.

Unix socket paths are limited to 107 bytes, so sockets can't live below a data folder of any depth: they get a
short folder of their own, named by the user and a digest of the data folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

SOCKET_PATH_BYTES_MAX = 107
"""sizeof(sun_path) - 1 on Linux; ZeroMQ's ipc transport has the same limit."""

RUNTIME_DIR_VARIABLE = "BOATHOUSE_RUNTIME_DIR"
"""Environment variable that moves the sockets, for example to a systemd RuntimeDirectory."""


def runtime_dir(data_dir: Path) -> Path:
    """Folder of the control and ipc sockets of the cluster whose data is in data_dir. May not exist yet."""
    base = os.environ.get(RUNTIME_DIR_VARIABLE) or f"/tmp/boathouse-{os.getuid()}"  # noqa: S108 - owner is checked
    digest = hashlib.blake2b(os.fsencode(os.path.realpath(data_dir)), digest_size=5).hexdigest()
    return Path(base) / digest
