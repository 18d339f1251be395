"""What a line of the shell does: the commands of `boathouse kv`, with the table, the consistency and the notation that
hold until they are switched, and the commands that switch them. Where lines come from is somebody else's business."""

from __future__ import annotations

import enum
import shlex
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from tools import kv, streams
from tools import table as tables
from tools.failure import Failed
from tools.output import Output, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Word = TypeVar("Word", bound=enum.StrEnum)

READS: Final = ("get", "range")
SECTIONS: Final = ("compares", "then", "else")
"""Of a transaction: each ends with an empty line."""
OWN: Final = {
    "table": "table NAME: the table that what follows is about; without NAME, say which",
    "tables": "list the tables",
    "consistency": "linearizable: what was acknowledged is seen; serializable: any replica answers, maybe old",
    "output": "table, wide, json or yaml",
    "help": "this; COMMAND --help for one",
    "exit": "leave, as does Ctrl-D",
}


class Consistency(enum.StrEnum):
    """How reads are made."""

    LINEARIZABLE = "linearizable"
    SERIALIZABLE = "serializable"


class Ended(Exception):
    """The user has had enough."""


class Session:
    """What has been switched to so far."""

    def __init__(self, connection: Sequence[str], table: str | None, output: Output) -> None:
        """connection: options that every command gets."""
        self.table = table
        self.output = output
        self.consistency = Consistency.LINEARIZABLE
        self._connection = list(connection)
        self._kv: Any = get_command(kv.app)

    @property
    def kv_commands(self) -> dict[str, Any]:
        """By name."""
        return dict(self._kv.commands)

    def run(self, line: str, ask: Callable[[str], str]) -> None:
        """Do what a line says. ask: gives one more line, after a prompt, for a transaction or a value, and raises
        EOFError if there is none. Raises Failed if it could not be done, and Ended."""
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise Failed(f"{error}: quote words as in a shell") from None
        match words:
            case []:
                return
            case ["exit" | "quit"]:
                raise Ended
            case ["help"]:
                self._help()
            case ["table"]:
                typer.echo(self.table or "default")
            case ["table", name]:
                self.table = name
            case ["tables"]:
                self._invoke(get_command(tables.app), ["list", *self._connection, "-o", self.output])
            case ["consistency"]:
                typer.echo(self.consistency.value)
            case ["consistency", word]:
                self.consistency = _chosen(Consistency, word)
            case ["output"]:
                typer.echo(self.output.value)
            case ["output", word]:
                self.output = _chosen(Output, word)
            case [name, *rest] if name in self._kv.commands:
                with streams.given_stdin(lambda: _asked(name, ask)):
                    self._invoke(self._kv, [name, *self._options(name), *rest])
            case [name, *_]:
                raise Failed(f"{name}: no such command, or not with these words; `help` lists them")

    def _options(self, name: str) -> list[str]:
        """In front of what the line says, which therefore counts more."""
        options = [*self._connection, "-o", self.output]
        if self.table is not None:
            options += ["--table", self.table]
        if name in READS and self.consistency is Consistency.SERIALIZABLE:
            options.append("--serializable")
        return options

    def _invoke(self, command: Any, words: list[str]) -> None:
        try:
            ended = command.main(args=words, prog_name="", standalone_mode=False)
        except TyperException as error:
            raise Failed(error.format_message()) from None
        if ended:
            raise Failed("interrupted")

    def _help(self) -> None:
        known = {name: command.get_short_help_str(100) for name, command in self._kv.commands.items()} | OWN
        print_table(["command", "what"], [{"command": name, "what": text} for name, text in known.items()])


def _chosen(words: type[Word], word: str) -> Word:
    try:
        return words(word)
    except ValueError:
        raise Failed(f"{word}: one of {', '.join(words)}") from None


def _asked(name: str, ask: Callable[[str], str]) -> bytes:
    """What a command would read from its standard input: the sections of a transaction, or one line, the value."""
    if name != "txn":
        return ask("value> ").encode(errors="surrogateescape")
    lines = []
    for section in SECTIONS:
        while line := ask(f"{section}> "):
            lines.append(line)
        lines.append("")
    return "\n".join(lines).encode(errors="surrogateescape")
