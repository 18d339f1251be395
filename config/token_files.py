"""Files with tokens that one cluster shows to another: one a line, for their owner alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.internal.curve import exposure_of

if TYPE_CHECKING:
    from pathlib import Path

FILE_BYTES_MAX: Final = 64 << 10
TOKEN_CHARS_MIN: Final = 16


class BadTokenFile(Exception):
    """The file is missing, open to others, or holds no token. The text says which, and what to do."""


def read_tokens(path: Path) -> tuple[str, ...]:
    """All tokens of a file, in order, at least one. Raises BadTokenFile."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        exposure = exposure_of(path)
    except OSError as error:
        raise BadTokenFile(f"{path} can't be read: {error.strerror}") from None
    if exposure:
        raise BadTokenFile(exposure)
    tokens = tuple(line.decode("latin-1") for line in content.split())
    if not tokens or len(content) > FILE_BYTES_MAX:
        raise BadTokenFile(f"{path} holds no token; write one, as `openssl rand -hex 32` makes them")
    for token in tokens:
        if len(token) < TOKEN_CHARS_MIN or not (token.isascii() and token.isprintable()):
            raise BadTokenFile(
                f"{path} holds a token that is not {TOKEN_CHARS_MIN} or more characters of printable ASCII"
            )
    return tokens
