"""Groups of commands whose modules are imported when they are named, so that `--help` and every other command wait for
none of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

if TYPE_CHECKING:
    from collections.abc import Mapping


class Group(TyperGroup):
    """A group of commands."""

    def get_help_option(self, ctx: Any) -> Any:
        """A --help that was not given is False. With its usual None it would be coerced to a flag, by pydantic, which
        takes longer to import than all the rest together."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


class LazyGroup(Group):
    """A group some of whose commands are in other modules: in `app` of the module that `modules` has for their names.

    Their help is said here, not there: the list of commands shows it without an import."""

    modules: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """By name of the command: its module, and its help."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, text) in self.modules.items():
            self.commands[name] = TyperCommand(name, help=text)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Whoever runs a command or completes its words comes by here; whoever lists the commands does not."""
        self.load(args[0])
        return super().resolve_command(ctx, args)

    def load(self, name: str) -> None:
        """Put the command itself in the place of its name and help."""
        if name not in self.modules:
            return
        module, text = self.modules[name]
        command = get_command(importlib.import_module(module).app)
        command.name, command.help = name, text
        self.commands[name] = command


def command_group() -> typer.Typer:
    """What a module of several commands calls its `app`."""
    return typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
