"""Simple tokens: `<16 letters>.<index of the log entry that made it>`, as etcd's are.

A token is known to its client alone. What coordinators send on and shards store is its *digest*, from which nobody can
make the token: whoever reads a log, a database or a backup can't log in with it.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from typing import Final

LETTERS: Final = 16
DIGEST_BYTES: Final = 16


def draw_letters() -> str:
    """The first half of a new token: 91 bits that nobody can guess."""
    return "".join(secrets.choice(string.ascii_letters) for _ in range(LETTERS))


def digest_of(letters: str) -> bytes:
    """What a shard may know of the first half."""
    return hashlib.sha256(letters.encode(errors="surrogateescape")).digest()[:DIGEST_BYTES]


def known_by(index: int, digest: bytes) -> bytes:
    """What a shard knows a token by, once it has an index."""
    return index.to_bytes(8) + digest


def presented(token: str) -> bytes:
    """What the shard would know this token by; for what is no simple token, something that it knows nothing by."""
    letters, _, number = token.rpartition(".")
    index = int(number) if number.isascii() and number.isdigit() and len(number) < 20 else 0
    return known_by(index % (1 << 64), digest_of(letters))
