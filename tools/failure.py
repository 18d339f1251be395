"""How a command ends badly."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERRUPTED: Final = 130

EXIT_CODES: Final = {
    0: "done",
    1: "failed: a line on stderr says what happened, to what, and what to do; what was found before is shown",
    2: "wrong usage; nothing was done",
    3: "refused: a shard would lose its quorum (`restart --force` does it all the same)",
    4: "done, but requests of clients failed meanwhile (`restart`)",
    INTERRUPTED: "interrupted by Ctrl-C",
}
"""What every command ends with, and what it means; docs/commands.md shows it."""


class Failed(Exception):
    """The command did not do what it was asked; the text is for the user."""

    exit_code = 1


class RefusedForQuorum(Failed):
    """A shard can't do without what the command was asked to take away; --force takes it all the same."""

    exit_code = 3


class SeenByClients(Failed):
    """What should go unnoticed was done, and requests of clients failed."""

    exit_code = 4


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Within the block, what tools/admin raises about processes ends the command."""
    from tools.admin.control_client import RequestRefused, SupervisorUnreachable
    from tools.admin.leadership import NotMoved
    from tools.admin.rolling import QuorumNeeded, RestartStuck

    try:
        yield
    except QuorumNeeded as error:
        raise RefusedForQuorum(f"{error}; --force does it all the same") from None
    except (SupervisorUnreachable, RequestRefused, RestartStuck, NotMoved) as error:
        raise Failed(str(error)) from None


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Within the block, a call that fails ends the command with the server's words."""
    from tools.admin.client import CallFailed

    try:
        yield
    except CallFailed as error:
        raise Failed(str(error)) from None
