"""Signed tokens (JWT): who somebody is, for which table, and at which of its auth revisions, with a signature.

The claims are etcd's (`username`, `revision`, `exp`) and `table`, the table's id: a user of one table is not the user
of the same name in another.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jwt

from config.key_files import checking_key, signing_key
from proto import errors

if TYPE_CHECKING:
    from config import JwtConfig

VERIFIED_MAX: Final = 4_096
"""Tokens whose signature was found right, so that it is not computed for each call."""


class Claims(NamedTuple):
    """What a token says, and was signed."""

    user: str
    revision: int
    table_id: int
    expires: float
    """By the wall clock."""


class SignedTokens:
    """Makes and checks them."""

    def __init__(self, config: JwtConfig) -> None:
        """Reads the key files. Raises BadTokenKey."""
        self._method = config.sign_method
        self._ttl_s = config.ttl_ms / 1000
        self._signs_with: Any = None
        self._verified: OrderedDict[str, Claims] = OrderedDict()
        if config.private_key is not None:
            self._signs_with = signing_key(config.private_key, self._method)
        if config.public_key is not None:
            self._checks_with = checking_key(config.public_key, self._method)
        elif self._method.startswith("HS"):
            self._checks_with = self._signs_with
        else:
            self._checks_with = self._signs_with.public_key()

    def sign(self, user: str, *, table_id: int, revision: int) -> str:
        """A new one. Raises AuthError if this cluster only checks them."""
        if self._signs_with is None:
            raise errors.AuthError("tokens of this cluster are signed elsewhere")
        claims = {
            "username": user,
            "revision": revision,
            "table": table_id,
            "exp": int(time.time() + self._ttl_s),
        }
        return jwt.encode(claims, self._signs_with, algorithm=self._method)

    def check(self, token: str) -> Claims | None:
        """What it says; None if it is expired, or not signed as it has to be."""
        claims = self._verified.get(token)
        if claims is None:
            claims = self._read(token)
            if claims is None:
                return None
            self._verified[token] = claims
            if len(self._verified) > VERIFIED_MAX:
                self._verified.popitem(last=False)
        return claims if time.time() < claims.expires else None

    def _read(self, token: str) -> Claims | None:
        try:
            said = jwt.decode(
                token,
                self._checks_with,
                algorithms=[self._method],
                options={"require": ["exp", "username", "revision", "table"]},
            )
        except (jwt.PyJWTError, ValueError):
            return None
        user, revision, table_id = said["username"], said["revision"], said["table"]
        if not (
            isinstance(user, str)
            and user
            and type(revision) is int
            and revision > 0
            and type(table_id) is int
        ):
            return None
        return Claims(user, revision, table_id, float(said["exp"]))
