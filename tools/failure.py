"""How a command ends badly."""

from __future__ import annotations


class Failed(Exception):
    """The command did not do what it was asked; the text is for the user. Exit code 1."""
