"""What a real bash offers when Tab is pressed behind some words."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
# The program has to be found by the name that its script completes.
_FUNCTION: Final = """
boathouse() { "$PYTHON" -P -c 'import sys; sys.argv[0] = "boathouse"; from tools.cli import main; main()' "$@"; }
"""
_PROGRAM: Final = """
env() { local name; while [[ $1 == *=* ]]; do local -x "$1"; shift; done; "$@"; }
eval "$SCRIPT"
COMP_WORDS=(%s) COMP_CWORD=%d
_boathouse_completion boathouse
printf '%%s\\n' "${COMPREPLY[@]}"
"""


def _bash(program: str, environment: dict[str, str]) -> str:
    """What it prints. Fails if anything was said on stderr, into the midst of what the user types."""
    done = subprocess.run(
        ["bash", "--norc", "-c", _FUNCTION + program],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@functools.cache
def _script() -> str:
    return _bash("boathouse completion bash", {})


def offered(*words: str, **environment: str) -> list[str]:
    """What stands to choose from after `boathouse` and these words, the last of which is incomplete."""
    line = " ".join(shlex.quote(word) for word in ("boathouse", *words))
    return _bash(_PROGRAM % (line, len(words)), {"SCRIPT": _script(), **environment}).split()
