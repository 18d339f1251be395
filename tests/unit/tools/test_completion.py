"""Tab in a real bash, without a cluster: names come from the file, and what can't be had is passed over in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tab import ROOT, offered

FILE = str(Path(ROOT) / "config/examples/three-nodes.yaml")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("resta",), ["restart"]),
        (("shard", "mo"), ["move-leader"]),
        (("restart", "n2/"), [f"n2/shard-{number}" for number in range(1, 5)] + ["n2/coordinator"]),
        (("shard", "move-leader", ""), ["1", "2", "3", "4"]),
        (("shard", "move-leader", "1", "--to", ""), ["n1", "n2", "n3"]),
        (("down", "--node", "n"), ["n1", "n2", "n3"]),
    ],
    ids=str,
)
def test_names_of_the_cluster_file(words: tuple[str, ...], names: list[str]) -> None:
    assert offered(*words, BOATHOUSE_FILE=FILE) == names


def test_without_a_file_they_are_those_of_the_built_in_cluster() -> None:
    assert offered("logs", "n1/", BOATHOUSE_FILE="") == ["n1/shard-1", "n1/shard-2", "n1/coordinator"]


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (("table", "describe", ""), {"BOATHOUSE_ENDPOINT": "127.0.0.1:1"}),
        (("kv", "get", "k", "--table", ""), {"BOATHOUSE_ENDPOINT": "no endpoint"}),
        (("restart", ""), {"BOATHOUSE_FILE": "/gone.yaml"}),
    ],
    ids=str,
)
def test_what_is_down_or_wrong_has_no_names_and_says_nothing(
    words: tuple[str, ...], environment: dict[str, str]
) -> None:
    assert offered(*words, **environment) == []


@pytest.mark.parametrize(("shell", "form"), [("zsh", '"{}"'), ("fish", "{}")])
def test_what_other_shells_are_told(shell: str, form: str) -> None:
    """They ask in the same way; only the notation differs."""
    asking = {
        "_BOATHOUSE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "boathouse stop n1/sh",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "BOATHOUSE_FILE": "",
    }
    program = 'import sys; sys.argv = ["boathouse"]; from tools.cli import main; main()'
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **asking},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert [form.format(f"n1/shard-{number}") in done.stdout for number in (1, 2)] == [True, True]
