"""Patroni and PostgreSQL as people run them: where they are had from, and one node of each.

PostgreSQL refuses to run as root. Where the tests do, a node runs as the user that Debian's package makes, on Debian's
own Python, because that user may not be able to reach ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

from tests.conformance.foreign.programs import NotBuilt
from tests.conformance.foreign.suites import environment
from tests.waiting import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "patroni 4.1.5"
PINS: Final = ("patroni[etcd3]==4.1.5", "psycopg[binary]==3.3.9")
USER: Final = "postgres"
PASSWORD: Final = "only for this test"
STOP_S: Final = 20.0
TTL_S: Final = 20
"""How long a leader's lock lives that nobody renews; Patroni takes no less."""


def as_user() -> dict[str, Any]:
    """How a process is started that must not be root."""
    return {"user": USER, "group": USER, "extra_groups": []} if os.getuid() == 0 else {}


def patroni() -> Path:
    """The folder of its programs. Raises NotBuilt."""
    python = "/usr/bin/python3" if os.getuid() == 0 else sys.executable
    programs = environment(NAME, python, *PINS)
    try:
        subprocess.run([programs / "python", "-c", ""], check=True, capture_output=True, **as_user())
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        raise NotBuilt(f"user {USER} cannot run {programs / 'python'}: {error}") from None
    return programs


def postgresql() -> Path:
    """The folder of its programs. Raises NotBuilt."""
    for initdb in (
        *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True),
        shutil.which("initdb"),
    ):
        if initdb is not None:
            return Path(initdb).parent
    raise NotBuilt("there is no PostgreSQL here: install it (Debian: apt-get install postgresql)")


class PatroniNode:
    """One PostgreSQL under a Patroni of its own. Both end with the block."""

    def __init__(
        self, folder: Path, name: str, endpoints: Sequence[str], *, programs: Path, binaries: Path
    ) -> None:
        self.name = name
        self._folder = folder / name
        self._programs, self._binaries = programs, binaries
        self._port, self._rest_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        self._file = self._folder / "patroni.yaml"
        self._folder.mkdir()
        self._file.write_text(yaml.safe_dump(self._document(endpoints)))
        if os.getuid() == 0:
            for path in (self._folder, self._file):
                shutil.chown(path, USER, USER)

    def _document(self, endpoints: Sequence[str]) -> dict[str, Any]:
        return {
            "scope": "demo",
            "name": self.name,
            "restapi": {
                "listen": f"127.0.0.1:{self._rest_port}",
                "connect_address": f"127.0.0.1:{self._rest_port}",
            },
            "etcd3": {"hosts": list(endpoints)},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_S,
                    "loop_wait": 2,
                    "retry_timeout": 5,
                    "postgresql": {"use_pg_rewind": True},
                },
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self._port}",
                "connect_address": f"127.0.0.1:{self._port}",
                "data_dir": str(self._data),
                "bin_dir": str(self._binaries),
                "pgpass": str(self._folder / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": PASSWORD},
                    "replication": {"username": "replicator", "password": PASSWORD},
                },
                "parameters": {"unix_socket_directories": str(self._folder), "shared_buffers": "16MB"},
                "pg_hba": [
                    "local all all scram-sha-256",
                    "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                ],
            },
        }

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def __enter__(self) -> Self:
        with (self._folder / "patroni.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "patroni", self._file],
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **as_user(),
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()  # stops PostgreSQL, too
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """Both at once, as when their machine fails."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError, ValueError):  # no file, or no process
            os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def is_in_role(self, role: str) -> bool:
        """What Patroni tells load balancers: whether this is the `primary`, or a `replica` that may be read."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._rest_port}/{role}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def timeline(self) -> int:
        """Which rises with each promotion."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._rest_port}/patroni", timeout=5) as answer:
            return int(json.load(answer)["timeline"])

    def sql(self, statement: str) -> str:
        """What it answers."""
        where = ("-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres")
        command = [str(self._binaries / "psql"), *where, "-Atc", statement]
        done = subprocess.run(
            command, env={"PGPASSWORD": PASSWORD}, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log(self) -> str:
        """What it said last."""
        return "\n".join((self._folder / "patroni.log").read_text(errors="replace").splitlines()[-25:])
