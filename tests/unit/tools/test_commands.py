"""What holds for every command: its help is there at once, and what it prints can be read by people and programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tools import file_reference
from tools.failure import EXIT_CODES, Failed
from tools.output import Output
from tools.reference import all_commands, reference

ROOT = Path(__file__).parents[3]
COMMANDS: Final = dict(all_commands())
LEAVES: Final = {words: command for words, command in COMMANDS.items() if not hasattr(command, "commands")}

WITHOUT_OUTPUT: Final = {
    ("completion",),  # a script
    ("down",),  # a sentence a node
    ("keygen",),
    ("logs",),  # lines of others
    ("snapshot", "restore"),
    ("tls", "init"),
    ("top",),  # a terminal interface
    ("up",),
}
"""They list nothing."""

HEAVY: Final = (
    "apsw asyncio bcrypt cryptography google grpc jwt prometheus_client prompt_toolkit psutil pydantic rich "
    "sqlite_utils structlog textual uvloop yaml zmq"
)
"""Each takes 10 to 300 ms to import, which nobody who asks for help waits for."""

PROBE: Final = """
import contextlib, io, sys
from tools.cli import app
from typer.main import get_command
seen = set()
def heavy():
    return {name for name in %r.split() if name in sys.modules}
for words in %r:
    with contextlib.redirect_stdout(io.StringIO()):
        get_command(app).main([*words, "--help"], prog_name="boathouse", standalone_mode=False)
    for name in sorted(heavy() - seen):
        print("boathouse", *words, "--help imports", name)
    seen |= heavy()
"""


def _id(words: tuple[str, ...]) -> str:
    return " ".join(words) or "boathouse"


def test_help_waits_for_nothing_heavy() -> None:
    """150 ms is the budget of every --help; what exceeds it are imports, so those are what is looked at."""
    probe = PROBE % (HEAVY, list(COMMANDS))
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("words", COMMANDS, ids=_id)
def test_every_command_and_option_explains_itself(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", "")] == []
    assert not {"install_completion", "show_completion"} & {parameter.name for parameter in command.params}


def test_the_references_are_fresh() -> None:
    assert (ROOT / "docs/commands.md").read_text() == reference(), "run `make docs`"
    assert (ROOT / "docs/cluster-file.md").read_text() == file_reference.reference(), "run `make docs`"


def test_the_reference_of_the_cluster_file_says_what_each_key_is_for() -> None:
    rows = [line for line in file_reference.reference().splitlines() if line.startswith("| `")]
    silent = [row for row in rows if row.endswith("|  |") and "keys below" not in row]
    assert len(rows) > 80
    assert not silent


@pytest.mark.parametrize("words", LEAVES, ids=_id)
def test_every_command_prints_for_people_and_programs(words: tuple[str, ...]) -> None:
    options: dict[str, Any] = {parameter.name: parameter for parameter in LEAVES[words].params}
    if words in WITHOUT_OUTPUT:
        assert "output" not in options, "it has -o now: take it out of WITHOUT_OUTPUT"
        return
    assert list(options["output"].type_descriptor.choices) == list(Output)
    assert options["output"].opts == ["-o", "--output"]


def test_the_notations_of_documents_are_the_business_of_one_module() -> None:
    """A command that asks for JSON by name forgets YAML: it asks output.is_document, and calls print_document()."""
    sources = [path for path in (ROOT / "tools").rglob("*.py") if path.name != "output.py"]
    assert [path.name for path in sources if re.search(r"Output\.(JSON|YAML)", path.read_text())] == []


def test_scenarios_of_the_benchmark_are_those_that_its_option_takes() -> None:
    from tools.bench.cli import Scenario
    from tools.bench.scenarios import SCENARIOS

    assert [*SCENARIOS, "all"] == [scenario.value for scenario in Scenario]


def test_every_exit_code_is_explained() -> None:
    """0, 2 and 130 are the command line's own; tests/integration/test_cli.py meets each."""
    kinds, found = [Failed], set()
    while kinds:
        kind = kinds.pop()
        found.add(kind.exit_code)
        kinds += kind.__subclasses__()
    assert found | {0, 2, 130} == set(EXIT_CODES)
