"""Whatever is tried here needs its program first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.foreign.programs import NotBuilt, program

if TYPE_CHECKING:
    from pathlib import Path


def built(name: str) -> Path:
    try:
        return program(name)
    except NotBuilt as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def h2spec() -> Path:
    return built("h2spec")


@pytest.fixture(scope="session")
def interop_client() -> Path:
    return built("interop")
