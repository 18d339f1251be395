"""Commands and pages that the documents name are there, commands with the options that they are shown with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.unit.tools.command_lines import check_can_be_given

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[3]
DOCUMENTS: Final = [
    ROOT / "README.md",
    *(path for path in (ROOT / "docs").glob("*.md") if path.name != "commands.md"),
]
NO_COMMAND: Final = re.compile(r"[|…]|\.\.\.|^boathouse(?:  | /)")
"""In a line that only sketches commands, or is a row of the benchmark's report."""


def _commands() -> Iterator[str]:
    """Lines of code blocks that begin with `boathouse`, as a shell would be given them."""
    for path in DOCUMENTS:
        for block in re.findall(r"^```\w*$(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                words = line.removeprefix("$ ").removeprefix(".venv/bin/").partition("  #")[0].strip()
                if words.startswith("boathouse ") and not NO_COMMAND.search(words):
                    yield words


def _links(path: Path) -> set[Path]:
    """Files and folders that a document leads to, by a link or by a name that begins with a folder of the project."""
    text = path.read_text()
    links = {path.parent / target for target in re.findall(r"\]\(([\w./-]+)\)", text)}
    links |= {
        ROOT / name
        for name in re.findall(r"`((?:config|coordinator|proto|shardworker|tests|tools)/[\w./-]+)`", text)
    }
    return links | {ROOT / name for name in re.findall(r"\bdocs/[\w-]+\.\w+", text)}


@pytest.mark.parametrize(
    "path", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name
)
def test_what_a_document_leads_to_is_there(path: Path) -> None:
    assert {str(link) for link in _links(path) if not link.exists()} == set()


def test_the_readme_leads_to_every_page() -> None:
    assert set((ROOT / "docs").glob("*.md")) <= _links(ROOT / "README.md")


def test_there_are_some() -> None:
    assert len(set(_commands())) > 20


@pytest.mark.parametrize("line", sorted(set(_commands())))
def test_a_command_of_the_documents_can_be_given(line: str) -> None:
    check_can_be_given(line)
