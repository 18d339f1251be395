"""The shell on a terminal: a prompt with history, editing and completion."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.history import FileHistory, InMemoryHistory

from tools.failure import Failed, answered
from tools.output import Output
from tools.shell.session import OWN, Consistency, Ended, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History

NAMES_MAX: Final = 50
"""Keys that Tab offers at most."""
TIMEOUT_S: Final = 0.5
"""Tab waits no longer."""


def converse(session: Session, endpoint: str, timeout_s: float) -> None:
    """Read and do lines until the user leaves. A command that fails says why, and the next may be typed."""
    typer.echo(f"boathouse at {endpoint}, `help` lists the commands, Ctrl-D leaves")
    prompt: PromptSession[str] = PromptSession(
        history=_history(), completer=Names(session, endpoint, timeout_s), complete_while_typing=False
    )
    while True:
        try:
            session.run(prompt.prompt(_prompt(session)), lambda text: prompt.prompt(text, completer=None))
        except (Ended, EOFError):
            return
        except KeyboardInterrupt:
            continue  # the line is given up, as in a shell
        except Failed as failure:
            typer.echo(str(failure), err=True)


def _prompt(session: Session) -> str:
    weaker = " (serializable)" if session.consistency is Consistency.SERIALIZABLE else ""
    return f"{session.table or 'default'}{weaker}> "


class _PrivateHistory(FileHistory):
    """Lines that begin with a space are not kept: whoever types a secret begins with one."""

    def store_string(self, string: str) -> None:
        if not string.startswith(" "):
            super().store_string(string)


def _history() -> History:
    """In a file that its owner alone can read, whatever the umask says; in memory where there is no place for it."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "boathouse"
    path = state / "shell-history"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        typer.echo(f"no history is kept: {path}: {error.strerror}", err=True)
        return InMemoryHistory()
    return _PrivateHistory(str(path))


class Names(Completer):
    """Commands, their options, and live names: tables, and the keys that begin with what is typed."""

    def __init__(self, session: Session, endpoint: str, timeout_s: float) -> None:
        self._session = session
        self._endpoint = endpoint
        self._timeout_s = min(timeout_s, TIMEOUT_S)

    def get_completions(self, document: Document, _event: Any) -> Iterator[Completion]:
        """What could stand in place of the word before the cursor."""
        line = document.text_before_cursor
        word = line.split(" ")[-1]
        for name in self._names(line.split(" ")[:-1], word):
            if name.startswith(word):
                yield Completion(name, start_position=-len(word))

    def _names(self, before: list[str], word: str) -> Iterable[str]:
        kv_commands = self._session.kv_commands
        match [each for each in before if each]:
            case []:
                return [*kv_commands, *OWN]
            case ["table"]:
                return self._tables()
            case ["consistency"]:
                return list(Consistency)
            case ["output"]:
                return list(Output)
            case [*_, "--table" | "-t"]:
                return self._tables()
            case [name, *_] if name in kv_commands and word.startswith("-"):
                return [option for parameter in kv_commands[name].params for option in parameter.opts]
            case [name] if name in kv_commands and name != "txn":
                return self._keys(word)
        return []

    def _tables(self) -> list[str]:
        from tools.admin.tables import TablesClient
        from tools.connection import given_connection

        try:
            with answered():
                client = TablesClient(given_connection(self._endpoint), self._timeout_s)
                return [entry.name for entry in client.list()]
        except Failed:
            return []

    def _keys(self, word: str) -> list[str]:
        from proto.etcd import rpc_pb2 as rpc
        from tools.key_range import selected
        from tools.kv import open_client

        first, end = selected(os.fsencode(word), range_end=None, prefix=True, from_key=False)
        request = rpc.RangeRequest(
            key=first, range_end=end, limit=NAMES_MAX, keys_only=True, serializable=True
        )
        try:
            with open_client(self._endpoint, self._session.table, self._timeout_s) as client:
                found = client.range(request)
        except Failed:
            return []
        return [shlex.quote(os.fsdecode(kv.key)) for kv in found.kvs if os.fsdecode(kv.key).isprintable()]
