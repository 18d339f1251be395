"""The folder of a cluster's unix sockets, for this user alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from config.paths import RUNTIME_DIR_VARIABLE, SOCKET_PATH_BYTES_MAX
from coordinator.supervisor.refusal import StartRefused

if TYPE_CHECKING:
    from config import ClusterConfig


class RuntimeDir:
    """Made by whoever comes first and removed by nobody: supervisors of several nodes share it, and one that starts
    must not lose it to one that ends.

    It is kept locked (shared), which tells systemd-tmpfiles that it is in use, however old it looks. Others
    that clean the folder above know no such thing, hence prepare_again()."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._path = cluster.runtime_dir
        self._sockets = [cluster.control_socket(node) for node in cluster.nodes]
        self._lock_fd: int | None = None

    def prepare(self) -> None:
        """Make the folder. Raises StartRefused if someone else has it."""
        longest = max(len(os.fsencode(path)) for path in self._sockets)
        if longest > SOCKET_PATH_BYTES_MAX:
            raise StartRefused(f"{RUNTIME_DIR_VARIABLE} is too long for unix sockets; choose a shorter path")
        for folder in (self._path.parent, self._path):
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                found = folder.lstat()
            except OSError as error:
                raise StartRefused(f"the socket folder {folder} can't be made: {error.strerror}") from None
            # In /tmp anyone may have made it first, and would then own our sockets.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                raise StartRefused(
                    f"the socket folder {folder} is not this user's alone; "
                    f"remove it, or set {RUNTIME_DIR_VARIABLE}"
                )
        self._hold()

    def prepare_again(self) -> None:
        """As prepare(), if the folder is no longer the one that was made."""
        try:
            found = self._path.lstat()
            is_ours = self._lock_fd is not None and os.path.samestat(found, os.fstat(self._lock_fd))
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            self.prepare()

    def release(self) -> None:
        """Let go of the folder, and leave it where it is."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _hold(self) -> None:
        self.release()
        with contextlib.suppress(OSError):  # a file system without locks: then it is only not protected
            self._lock_fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
