"""Whatever is tried here needs its program first; what client libraries' own tests came to is counted at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.conformance.foreign.programs import NotBuilt, program

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Count:
    """How many tests of a suite passed."""

    suite: str
    nodes: int
    etcd: int
    boathouse: int


COUNTS = pytest.StashKey[list[Count]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for count in config.stash.get(COUNTS, []):
        terminalreporter.write_line(
            f"{count.suite}, {count.nodes} nodes: {count.etcd} pass on etcd, {count.boathouse} on boathouse"
        )


def built(name: str) -> Path:
    try:
        return program(name)
    except NotBuilt as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def h2spec() -> Path:
    return built("h2spec")


@pytest.fixture(scope="session")
def interop_client() -> Path:
    return built("interop")


@pytest.fixture(scope="session")
def go_client() -> Path:
    return built("clientv3")


@pytest.fixture(scope="session")
def getstream() -> Path:
    return built("getstream")


@pytest.fixture(scope="session")
def etcd_3_7() -> Path:
    return built("etcd-3.7")
