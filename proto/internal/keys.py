"""How a key between nodes is written: ZeroMQ's Z85, 40 characters for 32 bytes."""

from __future__ import annotations

import re
from typing import Final

_KEY: Final = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


def is_key(text: bytes) -> bool:
    """Whether it can be a key."""
    return _KEY.fullmatch(text) is not None
