"""Passwords: hashed and checked on a few threads, since bcrypt takes a twentieth of a second on purpose.

A check that has succeeded is remembered, by a keyed digest of everything it was about: a client that logs in anew for
each call costs as much once. For a user that does not exist a password is checked too, in vain: who asks can't tell
the two apart by the time it takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

import bcrypt

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD_BYTES_MAX: Final = 72
"""bcrypt looks no further, so a longer one would be as good as its beginning."""
THREADS: Final = 2
WAITING_MAX: Final = 64
"""Checks under way or waiting for a thread; more are refused."""
REMEMBERED_MAX: Final = 4_096

COST_MIN: Final = 4
COST_MAX: Final = 16
"""What the cluster file may ask for; of a hash that came from elsewhere no more is made up for."""

_NOBODYS_SALT: Final = "Zx0fYl4hOJvR3T1sQe8Uku"
_NOBODYS_DIGEST: Final = "b7mCq2Gk9rLw5HnXvT0eJdSaYp1uZiO"

T = TypeVar("T")


def nobodys_hash(cost: int) -> str:
    """That of no password, which takes as long to check as another one of this cost."""
    return f"$2b${min(max(cost, COST_MIN), COST_MAX):02}${_NOBODYS_SALT}{_NOBODYS_DIGEST}"


class Passwords:
    """All passwords that one coordinator hears."""

    def __init__(self, *, cost: int) -> None:
        """cost: bcrypt's, of new hashes."""
        self._cost = cost
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._waiting_count = 0
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, None] = OrderedDict()

    async def hash(self, password: str) -> str:
        """What is stored in its place. Raises PasswordTooLong, QueueFull."""
        plain = password.encode()
        if len(plain) > PASSWORD_BYTES_MAX:
            raise errors.PasswordTooLong
        return await self._on_thread(lambda: bcrypt.hashpw(plain, bcrypt.gensalt(self._cost)).decode())

    async def matches(self, password: str, hash_: str, *, usual_cost: int = 0) -> bool:
        """Whether it is the password that was hashed; never for an empty hash, which nobody's password has. It takes
        then as long as with usual_cost, or with that of new hashes. Raises QueueFull."""
        plain = password.encode()
        digest = self._digest(plain, hash_)
        if digest in self._remembered:
            self._remembered.move_to_end(digest)
            return True
        short = plain[:PASSWORD_BYTES_MAX]
        compared = (hash_ or nobodys_hash(usual_cost or self._cost)).encode()
        found = await self._on_thread(lambda: bcrypt.checkpw(short, compared))
        is_right = found and bool(hash_) and short == plain
        if is_right:
            self._remembered[digest] = None
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        return is_right

    def _digest(self, plain: bytes, hash_: str) -> bytes:
        """Of a hash that carries its own salt: another user, or a new password, is another digest."""
        return hashlib.blake2b(hash_.encode() + plain, key=self._key, digest_size=32).digest()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if self._waiting_count >= WAITING_MAX:
            raise errors.QueueFull(f"{self._waiting_count} passwords are being checked")
        self._waiting_count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting_count -= 1

    def close(self) -> None:
        """Take no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
