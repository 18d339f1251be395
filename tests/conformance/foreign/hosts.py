"""Network namespaces as hosts: each with an address on one bridge, and with file systems of its own at the same paths.

Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[3]
BOATHOUSE: Final = (sys.executable, "-P", "-m", "tools.cli")
FOLDERS: Final = ("etc", "var", "run")
"""That each host has for itself."""
_MOUNTED: Final = " && ".join(f'mount --bind "$HOST/{name}" "$SHARED/{name}"' for name in FOLDERS)


class Hosts:
    """Hosts of one network. Use as a context manager; it ends what was started and leaves nothing behind."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        """By name of the host, all in one /24."""
        self.addresses = addresses
        self.shared = Path(tempfile.mkdtemp(prefix="bh"))  # sockets below it need short paths
        self._prefix = f"bh{os.getpid()}"
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        assert os.geteuid() == 0, "hosts are network namespaces: run this as root"
        assert shutil.which("ip"), "there is no `ip` on the PATH: install iproute2"
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    # ---- the network -------------------------------------------------------------------------------------------

    def _build(self) -> None:
        for name in FOLDERS:
            (self.shared / name).mkdir()
        _ip("netns", "add", self._space("switch"))
        self._ip_in("switch", "link", "add", "bridge", "type", "bridge")
        self._ip_in("switch", "link", "set", "bridge", "up")
        for host, address in self.addresses.items():
            for name in FOLDERS:
                self.folder(host, name).mkdir(parents=True)
            _ip("netns", "add", self._space(host))
            self._ip_in(
                "switch",
                "link",
                "add",
                host,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                self._space(host),
            )
            self._ip_in("switch", "link", "set", host, "master", "bridge", "up")
            self._ip_in(host, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                self._ip_in(host, "link", "set", device, "up")

    def _remove(self) -> None:
        for process in self._started.values():
            process.terminate()
        for process in self._started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(40)
            process.kill()
            process.wait()
        for host in (*self.addresses, "switch"):
            subprocess.run(["ip", "netns", "del", self._space(host)], capture_output=True, check=False)
        shutil.rmtree(self.shared, ignore_errors=True)

    def _space(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _ip_in(self, host: str, *words: str) -> None:
        _ip("-n", self._space(host), *words)

    # ---- what a host has and does ------------------------------------------------------------------------------

    def folder(self, host: str, name: str) -> Path:
        """What the host has at shared/NAME."""
        return self.shared / host / name

    def _command(self, host: str, words: Sequence[str]) -> list[str]:
        enter = ["ip", "netns", "exec", self._space(host), "sh", "-c", f'{_MOUNTED} && exec "$@"', "sh"]
        return [*enter, *words]

    def _environment(self, host: str, more: Mapping[str, str]) -> dict[str, str]:
        here = {"HOST": str(self.shared / host), "SHARED": str(self.shared)}
        runtime = {"BOATHOUSE_RUNTIME_DIR": str(self.shared / "run"), "PYTHONPATH": str(ROOT)}
        return {**os.environ, **here, **runtime, **more}

    def run(self, host: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""
        return subprocess.run(
            self._command(host, words),
            env=self._environment(host, environment),
            cwd=self.shared,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, host: str, *words: str, **environment: str) -> None:
        """Start a command there, once the one before it has ended."""
        if host in self._started:
            self._started.pop(host).wait(60)
        with self._output(host).open("ab") as output:
            self._started[host] = subprocess.Popen(
                self._command(host, words),
                env=self._environment(host, environment),
                cwd=self.shared,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def stop(self, host: str) -> str:
        """End what was started there, by SIGTERM; all that was printed on this host."""
        process = self._started.pop(host)
        assert process.poll() is None, f"it has ended by itself: {self._output(host).read_text()}"
        process.terminate()
        process.wait(60)
        return self._output(host).read_text()

    def _output(self, host: str) -> Path:
        return self.shared / f"{host}.out"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
