"""Files with which a coordinator tells who somebody is: keys that sign tokens, and tokens of who runs the cluster."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES_MAX: Final = 64 << 10
SECRET_BYTES_MIN: Final = 32
BEARER_BYTES_MIN: Final = 8


class BadTokenKey(Exception):
    """A key or token can't be used; the text says which and what to do."""


def bearer_token(path: Path) -> bytes:
    """What a client has to show. Raises BadTokenKey."""
    token = _content(path, is_secret=True).strip()
    if len(token) < BEARER_BYTES_MIN or not (token.isascii() and token.decode().isprintable()):
        raise BadTokenKey(f"{path} holds no token: at least {BEARER_BYTES_MIN} printable ASCII characters")
    return token


# cryptography takes 10 MB that only who signs tokens needs: it is imported where there are keys.


def signing_key(path: Path, method: str) -> Any:
    """What signs, and with HS also checks. Raises BadTokenKey."""
    data = _content(path, is_secret=True)
    if method.startswith("HS"):
        secret = data.strip()
        if len(secret) < SECRET_BYTES_MIN:
            raise BadTokenKey(f"{path} holds fewer than {SECRET_BYTES_MIN} bytes; a secret has to be longer")
        return secret
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadTokenKey(f"{path} is no PEM file with a private key that is not encrypted") from None
    return _fit(path, key, method)


def checking_key(path: Path, method: str) -> Any:
    """What checks signatures that are made elsewhere. Raises BadTokenKey."""
    if method.startswith("HS"):
        raise BadTokenKey(f"auth.jwt.public_key: {method} has no public key; write private_key")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_content(path, is_secret=False))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadTokenKey(f"{path} is no PEM file with a public key") from None
    return _fit(path, key, method)


def _fit(path: Path, key: Any, method: str) -> Any:
    """The key, which is of the kind that the method signs with. Raises BadTokenKey."""
    import jwt

    try:
        return jwt.get_algorithm_by_name(method).prepare_key(key)
    except (TypeError, jwt.InvalidKeyError):
        raise BadTokenKey(f"{path} holds a key that {method} can't be signed with") from None


def _content(path: Path, *, is_secret: bool) -> bytes:
    """What a file holds. Raises BadTokenKey."""
    try:
        with path.open("rb") as file:
            if is_secret and stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise BadTokenKey(f"{path} can be read by others than its owner; chmod 600 it")
            return file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise BadTokenKey(f"{path} can't be read: {error.strerror}") from None
