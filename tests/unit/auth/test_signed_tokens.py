"""Signed tokens: what is accepted, what is not, and key files that can't be used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from config import JwtConfig
from config.key_files import BadTokenKey
from coordinator.auth.signed_tokens import Claims, SignedTokens
from proto import errors

if TYPE_CHECKING:
    from pathlib import Path

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
SECRET = b"a secret that is long enough for it"


def private_file(folder: Path, key: Any = RSA_KEY, mode: int = 0o600) -> Path:
    path = folder / "private.pem"
    path.write_bytes(
        key
        if isinstance(key, bytes)
        else key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    path.chmod(mode)
    return path


def public_file(folder: Path, key: Any = RSA_KEY) -> Path:
    path = folder / "public.pem"
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.mark.parametrize(
    ("method", "key"), [("RS256", RSA_KEY), ("PS384", RSA_KEY), ("ES256", EC_KEY), ("HS256", SECRET)]
)
def test_what_was_signed_is_read_again(tmp_path: Path, method: Any, key: Any) -> None:
    signed = SignedTokens(JwtConfig(sign_method=method, private_key=private_file(tmp_path, key)))
    token = signed.sign("u", table_id=10_001, revision=7)
    claims = signed.check(token)
    assert claims is not None
    assert claims[:3] == ("u", 7, 10_001)
    assert signed.check(token) == claims  # remembered
    said = jwt.decode(token, options={"verify_signature": False})
    assert (said["username"], said["revision"]) == ("u", 7)


def test_who_has_the_public_key_only_checks(tmp_path: Path) -> None:
    signs = SignedTokens(JwtConfig(sign_method="RS256", private_key=private_file(tmp_path)))
    checks = SignedTokens(JwtConfig(sign_method="RS256", public_key=public_file(tmp_path)))
    assert checks.check(signs.sign("u", table_id=1, revision=1)) is not None
    with pytest.raises(errors.AuthError):
        checks.sign("u", table_id=1, revision=1)


def test_what_was_not_signed_for_this_is_refused(tmp_path: Path) -> None:
    signed = SignedTokens(JwtConfig(sign_method="RS256", private_key=private_file(tmp_path)))
    good: dict[str, Any] = {"username": "u", "revision": 7, "table": 1, "exp": int(time.time()) + 60}
    assert signed.check(jwt.encode(good, RSA_KEY, algorithm="RS256")) == Claims("u", 7, 1, good["exp"])
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    bad = [
        jwt.encode(good, other, algorithm="RS256"),
        jwt.encode(good, RSA_KEY, algorithm="RS512"),
        jwt.encode(good, "", algorithm="none"),
        jwt.encode({**good, "exp": int(time.time()) - 1}, RSA_KEY, algorithm="RS256"),
        *(
            jwt.encode({k: v for k, v in good.items() if k != missing}, RSA_KEY, algorithm="RS256")
            for missing in good
        ),
        *(
            jwt.encode({**good, **wrong}, RSA_KEY, algorithm="RS256")
            for wrong in (
                {"username": ""},
                {"username": 1},
                {"revision": "7"},
                {"revision": 0},
                {"table": "t"},
            )
        ),
        "",
        "abcdefghijklmnop.12",
        "a.b.c",
        "\u00e4.\u00e4.\u00e4",
    ]
    assert [signed.check(token) for token in bad] == [None] * len(bad)


def test_a_remembered_token_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = SignedTokens(JwtConfig(sign_method="RS256", private_key=private_file(tmp_path), ttl_ms=60_000))
    token = signed.sign("u", table_id=1, revision=1)
    assert signed.check(token) is not None
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert signed.check(token) is None


def test_key_files_that_can_not_be_used_say_why(tmp_path: Path) -> None:
    def why(**settings: Any) -> str:
        with pytest.raises(BadTokenKey) as refusal:
            SignedTokens(JwtConfig(**settings))
        return str(refusal.value)

    open_file = private_file(tmp_path, mode=0o640)
    assert "chmod 600" in why(sign_method="RS256", private_key=open_file)
    assert "can't be read" in why(sign_method="RS256", private_key=tmp_path / "none")
    assert "no PEM file" in why(sign_method="RS256", private_key=private_file(tmp_path, SECRET))
    assert "32 bytes" in why(sign_method="HS256", private_key=private_file(tmp_path, b"short"))
    assert "no public key" in why(
        sign_method="HS256", private_key=private_file(tmp_path, SECRET), public_key=public_file(tmp_path)
    )
    assert "no PEM file" in why(sign_method="RS256", public_key=private_file(tmp_path, SECRET))
