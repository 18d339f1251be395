"""What etcdctl does at length, on a three-node cluster: mirrors, and its own loads."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.conformance.conftest import running
from tests.waiting import wait_until
from tools.bench import systems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.bench.systems import System

LOAD_S: Final = 200
CHANGE_S: Final = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("boathouse")
    with running(systems.Boathouse(folder, nodes=3, shards=1, replicas=3, tables=("default",))) as system:
        yield system


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(systems.Etcd(tmp_path_factory.mktemp("etcd"), 1)) as system:
        yield system


def command(system: System, *words: str) -> list[str]:
    return [str(systems.etcd_program("etcdctl")), "--endpoints", ",".join(system.endpoints), *words]


def said(system: System, *words: str, timeout_s: float = 30) -> str:
    done = subprocess.run(
        command(system, *words), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("there", ["etcd", "cluster"])
def test_a_mirror_gets_what_is_there_and_what_comes(there: str, cluster: System, etcd: System) -> None:
    """There and back: to etcd, and from it."""
    source, mirror = (cluster, etcd) if there == "etcd" else (etcd, cluster)
    key = f"mirrored-to-{there}/"
    said(source, "put", f"{key}old", "1")
    words = ("make-mirror", "--prefix", key, "--dest-prefix", f"copy/{key}", mirror.endpoints[0])
    process = subprocess.Popen(command(source, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        listing = ("get", f"copy/{key}", "--prefix")
        old = f"copy/{key}old\n"
        wait_until(lambda: said(mirror, *listing) == f"{old}1\n", timeout_s=CHANGE_S, what="what was there")
        said(source, "put", f"{key}new", "2")
        both = f"copy/{key}new\n2\n{old}1\n"
        wait_until(lambda: said(mirror, *listing) == both, timeout_s=CHANGE_S, what="what came")
        said(source, "del", f"{key}old")
        rest = f"copy/{key}new\n2\n"
        wait_until(lambda: said(mirror, *listing) == rest, timeout_s=CHANGE_S, what="what was deleted")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("load", [("perf", "m"), ("datascale", "s")])
def test_the_checks_pass(load: tuple[str, str], cluster: System) -> None:
    told = said(cluster, "check", load[0], f"--load={load[1]}", timeout_s=LOAD_S)
    assert re.search(r"^PASS", told, re.MULTILINE), told
    assert "FAIL" not in told
