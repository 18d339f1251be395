"""How a command ends badly."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Failed(Exception):
    """The command did not do what it was asked; the text is for the user. Exit code 1."""


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Within the block, what tools/admin raises about processes ends the command."""
    from tools.admin.control_client import RequestRefused, SupervisorUnreachable
    from tools.admin.rolling import RestartStuck

    try:
        yield
    except (SupervisorUnreachable, RequestRefused, RestartStuck) as error:
        raise Failed(str(error)) from None
