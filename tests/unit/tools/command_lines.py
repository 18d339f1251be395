"""Whether a line that a user is told to type can be given: the command is there, with these arguments and options."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from typer.exceptions import TyperException
from typer.main import get_command

from tools.cli import app


def check_can_be_given(line: str) -> None:
    """Of a line that begins with `boathouse`; fails the test if it can't."""
    words = shlex.split(line, comments=True)[1:]
    context: Any = get_command(app).make_context("boathouse", words)
    try:
        while words := [*context._protected_args, *context.args]:
            name, command, rest = context.command.resolve_command(context, words)
            context = command.make_context(name, rest, parent=context)
            if not hasattr(command, "commands"):
                break
    except TyperException as error:
        pytest.fail(f"{line}: {error}")
