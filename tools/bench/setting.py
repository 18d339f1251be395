"""What a scenario is given: what the command line asked for, and systems to measure."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.bench import systems
from tools.bench.report import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tools.admin.certificates import CertificateFiles
    from tools.bench.run import Progress
    from tools.bench.workload import Workload
    from tools.tls_options import TlsOptions


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a cluster to start."""

    nodes: int
    shards: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What the command line asked for."""

    folder: Path
    """On the disk that is measured; every system gets a fresh folder below it."""
    endpoints: tuple[str, ...]
    """Of a cluster that runs; empty to start one."""
    tls: TlsOptions
    """For those endpoints."""
    certificates: CertificateFiles | None
    """For boathouse and etcd, where they are started; the echo server speaks in the clear."""
    against_etcd: bool
    ceiling: bool
    rounds: int
    progress: Callable[[str], Progress]


@contextmanager
def running(setting: Setting, name: str, shape: Shape, load: Workload) -> Iterator[systems.System]:
    """A system in a fresh folder, ended and removed afterwards."""
    folder = setting.folder / name
    system: systems.System
    if name == "echo":
        system = systems.Echo(folder)
    elif name == "etcd":
        system = systems.Etcd(folder, shape.nodes, setting.certificates)
    elif setting.endpoints:
        system = systems.Running(setting.endpoints, setting.tls)
    else:
        system = systems.Boathouse(
            folder, shape.nodes, shape.shards, shape.replicas, load.tables, setting.certificates
        )
    try:
        system.start()
        yield system
    finally:
        system.stop()
        shutil.rmtree(folder, ignore_errors=True)


def names(setting: Setting, *, ceiling: bool) -> list[str]:
    """Of what is measured, in that order. ceiling: also the echo server, unless it was left out."""
    ceilings = ["echo"] if ceiling and setting.ceiling else []
    return [*ceilings, OURS, *(["etcd"] if setting.against_etcd else [])]
