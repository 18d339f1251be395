"""The tests that client libraries of etcd come with, against etcd and boathouse: what passes there passes here.

They know one endpoint, localhost:2379, so nothing else may listen there meanwhile. The counts are printed at the end.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.conformance.foreign.conftest import COUNTS, Count
from tests.conformance.foreign.programs import NotBuilt
from tests.conformance.foreign.suites import SUITES, Suite
from tools.bench import systems

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.foreign.suites import Outcome

PORT: Final = 2379
RUN_S: Final = 600
PREFIX: Final = "pifpaf"
"""Of members' names: pifpaf, which starts etcd for some of the suites, names them so, and their tests look for it."""
TOKEN_TTL_S: Final = 2
"""Some tests wait for the end of a login."""

KNOWN: Final = {
    "test_snapshot": "what is saved is a file for `boathouse restore`, and `etcdctl snapshot status` reads etcd's alone"
}
"""Why each test that passes on etcd and not on boathouse does, by its name."""


@pytest.fixture(params=SUITES, ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    found: Suite = request.param
    try:
        found.prepare()
    except NotBuilt as error:
        pytest.fail(str(error), pytrace=False)
    return found


@pytest.mark.timeout(3 * RUN_S)
@pytest.mark.parametrize("nodes", [1, 3])
def test_what_passes_on_etcd_passes_on_boathouse(
    suite: Suite, nodes: int, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    theirs = on_etcd(suite, nodes, tmp_path / "etcd")
    ours = on_boathouse(suite, nodes, tmp_path / "boathouse")
    pytestconfig.stash.setdefault(COUNTS, []).append(
        Count(suite.name, nodes, len(theirs.passed), len(ours.passed))
    )
    assert theirs.passed, theirs.others
    differing = {name: ours.others.get(name, "not run") for name in theirs.passed - ours.passed}
    assert {name for name in differing if name.rpartition(".")[2] not in KNOWN} == set(), differing


def on_etcd(suite: Suite, nodes: int, folder: Path) -> Outcome:
    options = ("--auth-token-ttl", str(TOKEN_TTL_S))
    system = systems.Etcd(folder, nodes, first_port=PORT, prefix=PREFIX, options=options)
    check_port_is_free()
    try:
        system.start()
        processes = system.processes()
        return outcome(
            suite, nodes, [processes[f"etcd {PREFIX}{number}"].pid for number in range(2, nodes + 1)], folder
        )
    finally:
        system.stop()


def on_boathouse(suite: Suite, nodes: int, folder: Path) -> Outcome:
    system = systems.Boathouse(
        folder,
        nodes=nodes,
        shards=1,
        replicas=nodes,
        tables=("default",),
        first_port=PORT,
        prefix=PREFIX,
        settings={"auth": {"token_ttl_ms": TOKEN_TTL_S * 1_000}},
    )
    check_port_is_free()
    try:
        system.start()
        status = [sys.executable, "-m", "tools.cli", "status", str(system.cluster_file), "-o", "json"]
        told = json.loads(subprocess.run(status, capture_output=True, check=True).stdout)
        others = [process["pid"] for process in told if process["node"] != f"{PREFIX}1"]
        return outcome(suite, nodes, others, folder)
    finally:
        system.stop()


def check_port_is_free() -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.fail(
                f"port {PORT} is in use, and these tests know no other: stop what listens there",
                pytrace=False,
            )


def outcome(suite: Suite, nodes: int, others: list[int], folder: Path) -> Outcome:
    """others: the processes of all members but the first. A suite finds them with pgrep by how pifpaf starts etcd, to
    stop and continue them; it is given them by a pgrep that knows."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "pgrep").write_text("#!/bin/sh\n" + "".join(f"echo {pid}\n" for pid in others))
    (programs / "pgrep").chmod(0o755)
    etcdctl = systems.etcd_program("etcdctl")
    if suite.root_password:
        add_root(etcdctl, suite.root_password)
    url = f"http://localhost:{PORT}"
    environment = {
        "PATH": f"{programs}:{etcdctl.parent}:{os.environ['PATH']}",
        "PYTHON_ETCD_HTTP_URL": url,
        "TEST_ETCD_HTTP_URL": url,
    }
    return suite.run(nodes, environment, RUN_S)


def add_root(etcdctl: Path, password: str) -> None:
    for words in (("user", "add", f"root:{password}"), ("user", "grant-role", "root", "root")):
        subprocess.run([etcdctl, "--endpoints", f"localhost:{PORT}", *words], capture_output=True, check=True)
