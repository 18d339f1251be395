"""All commands of `boathouse`, for tests and for docs/commands.md, which `make docs` writes anew from their help."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from typer.main import get_command

from tools.failure import EXIT_CODES
from tools.lazy import LazyGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH: Final = 100
"""Columns of a help text in the reference."""

HEAD: Final = """\
# Commands

Written by `make docs` from what each command says with `--help`. FILE is a cluster file; `BOATHOUSE_FILE` names one
for all commands, and without either they mean the built-in single node. `-o` takes the same words everywhere: `table`
and `wide`, which has more columns, are for people, `json` and `yaml` for programs: one document, the same in both, and
no sentence around it. Keys and values are in base64 there.

## Exit codes
"""


def all_commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command and group with the words that name it, a group before what is in it."""
    from tools.cli import app

    yield from _below((), get_command(app))


def _below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name in sorted(getattr(command, "commands", ())):
        if isinstance(command, LazyGroup):
            command.load(name)
        yield from _below((*words, name), command.commands[name])


def reference() -> str:
    """The page."""
    lines = [HEAD, "| code | meaning |", "| --- | --- |"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    for words, command in all_commands():
        name = " ".join(("boathouse", *words))
        context = command.context_class(
            command, info_name=name, terminal_width=WIDTH, help_option_names=["-h", "--help"]
        )
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        lines += ["", f"{'##' if len(words) < 2 else '###'} {name}", "", "```", text, "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
