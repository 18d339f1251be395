"""Every script beside this file produces the transcript written in it. `make golden` rewrites them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.simulation.scripts.runner import rewrite

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_transcript(path: Path) -> None:
    expected = path.read_text()
    produced = rewrite(expected)
    if os.environ.get("BOATHOUSE_GOLDEN") == "rewrite":
        path.write_text(produced)
        return
    assert produced.splitlines() == expected.splitlines(), "read the diff; if it is right: make golden"


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 10
