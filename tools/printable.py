"""Bytes of a user's as text for a terminal. Pure."""


def printable(content: bytes) -> str:
    """Text on one line as it is, anything else as Python would write it between quotes: what is shown never steers the
    terminal."""
    text = content.decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
