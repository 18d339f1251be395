"""Passwords: hashed and checked on a few threads, since bcrypt takes a twentieth of a second on purpose.

A check that has succeeded is remembered, by a keyed digest of everything it was about: a client that logs in anew for
each call costs as much once. So do many clients of one user that log in at once, as after a restart: they share the
check that is under way. For a user that does not exist a password is checked too, in vain: who asks can't tell the two
apart by the time it takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from base64 import b64decode, b64encode
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD_BYTES_MAX: Final = 72
"""bcrypt looks no further, so a longer one would be as good as its beginning."""
THREADS: Final = 2
WAITING_MAX: Final = 256
"""Checks under way or waiting for a thread, that differ; more are refused. So many take the seven seconds that a login
may last, at bcrypt's usual cost."""
REMEMBERED_MAX: Final = 4_096

COST_MIN: Final = 4
COST_MAX: Final = 16
"""What the cluster file may ask for; of a hash that came from elsewhere no more is made up for."""

_NOBODYS_SALT: Final = "Zx0fYl4hOJvR3T1sQe8Uku"
_NOBODYS_DIGEST: Final = "b7mCq2Gk9rLw5HnXvT0eJdSaYp1uZiO"

SALT_BYTES: Final = 16
_TO_BCRYPTS: Final = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
)
"""bcrypt writes base64 in an alphabet of its own, and without padding."""

T = TypeVar("T")


def _encoded_salt(cost: int, salt: bytes) -> bytes:
    """As bcrypt.gensalt() gives it."""
    return b"$2b$%02d$" % cost + b64encode(salt).rstrip(b"=").translate(_TO_BCRYPTS)


def nobodys_hash(cost: int) -> str:
    """That of no password, which takes as long to check as another one of this cost."""
    return f"$2b${min(max(cost, COST_MIN), COST_MAX):02}${_NOBODYS_SALT}{_NOBODYS_DIGEST}"


_BCRYPTS: Final = re.compile(rb"\$2[aby]\$(0[4-9]|[1-9]\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
"""bcrypt knows no lower cost. A salt of 16 bytes, so its last letter is one of four."""


def hash_given(encoded: str) -> str:
    """The hash of a password that a client has hashed itself, and sends in base64, with line breaks or without, as etcd
    takes it. "" for one of another kind than bcrypt's, which no password has. Raises NoPasswordUser for what is not
    base64, as etcd does, and InvalidRequest for a hash that takes too long to check."""
    try:
        given = b64decode(re.sub(r"[\r\n]", "", encoded), validate=True)
    except ValueError:
        raise errors.NoPasswordUser from None
    found = _BCRYPTS.fullmatch(given)
    if found is None:
        return ""
    if int(found[1]) > COST_MAX:
        raise errors.InvalidRequest(f"a password's hash of cost {int(found[1])}: at most {COST_MAX}")
    return given.decode()


class Passwords:
    """All passwords that one coordinator hears."""

    def __init__(self, *, cost: int) -> None:
        """cost: bcrypt's, of new hashes."""
        self._cost = cost
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._waiting_count = 0
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[bool]] = {}

    async def hash(self, password: str, salt: bytes | None = None) -> str:
        """What is stored in its place. salt: SALT_BYTES that no other password has; None for a random one. Raises
        PasswordTooLong, TooManyLogins."""
        plain = password.encode()
        if len(plain) > PASSWORD_BYTES_MAX:
            raise errors.PasswordTooLong
        import bcrypt  # here and below, since most clusters have no users

        salted = bcrypt.gensalt(self._cost) if salt is None else _encoded_salt(self._cost, salt)
        return await self._on_thread(lambda: bcrypt.hashpw(plain, salted).decode())

    async def matches(self, user: str, password: str, hash_: str, *, usual_cost: int = 0) -> bool:
        """Whether it is the password that was hashed; never for an empty hash, which nobody's password has. It takes
        then as long as with usual_cost, or with that of new hashes. Raises TooManyLogins."""
        digest = self._digest(user, password.encode(), hash_)
        if digest in self._remembered:
            self._remembered.move_to_end(digest)
            return True
        check = self._under_way.get(digest)
        if check is None:
            check = asyncio.ensure_future(self._check(password.encode(), hash_, usual_cost))
            self._under_way[digest] = check
            check.add_done_callback(lambda done: self._have_checked(digest, done))
        return await asyncio.shield(check)  # somebody else may wait for it still

    async def _check(self, plain: bytes, hash_: str, usual_cost: int) -> bool:
        import bcrypt

        short = plain[:PASSWORD_BYTES_MAX]
        compared = (hash_ or nobodys_hash(usual_cost or self._cost)).encode()
        found = await self._on_thread(lambda: bcrypt.checkpw(short, compared))
        return found and bool(hash_) and short == plain

    def _have_checked(self, digest: bytes, check: asyncio.Future[bool]) -> None:
        del self._under_way[digest]
        if not check.cancelled() and check.exception() is None and check.result():
            self._remembered[digest] = None
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)

    def _digest(self, user: str, plain: bytes, hash_: str) -> bytes:
        """Of a hash that carries its own salt: a new password is another digest. Of a user who does not exist there is
        no hash; his name keeps his checks from being shared where those of two who exist would not be."""
        named = hashlib.blake2b(user.encode(), key=self._key, digest_size=32).digest()
        return hashlib.blake2b(named + hash_.encode() + plain, key=self._key, digest_size=32).digest()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if self._waiting_count >= WAITING_MAX:
            raise errors.TooManyLogins(f"{self._waiting_count} passwords are being checked")
        self._waiting_count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting_count -= 1

    def close(self) -> None:
        """Take no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
