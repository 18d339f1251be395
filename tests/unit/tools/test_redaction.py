"""No secret leaves the machine: neither those that the cluster's files hold nor what has the form of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.loading import parse
from tools.admin.redaction import REMOVED, Redaction, secrets_of, without_secrets

PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQ\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"before\n{PEM}\nafter", f"before\n{REMOVED}\nafter"),
        ("-----BEGIN EC PRIVATE KEY-----\ncut off", REMOVED),
        ("token eyJhbGciOiJFUzI1NiJ9.eyJ1c2VybmFtZSI6InIifQ.c2ln here", f"token {REMOVED} here"),
        ("saw AbCdEfGhIjKlMnOp.1234 twice", f"saw {REMOVED} twice"),
        ("authorization: Bearer abc.def", f"authorization: {REMOVED}"),
        ("Authorization: Basic YW5uOnBhNTU= next", f"Authorization: {REMOVED} next"),
        ('{"authorization": "Basic YW5uOnBhNTU="}', f'{{"authorization": {REMOVED}}}'),
        ('Authorization: Digest username="ann", response="abc"', f"Authorization: {REMOVED}"),
        (r'{"event": "sent {\"token\": \"abc\", \"user\": \"ann\"}"}',
         rf'{{"event": "sent {{\"token\": {REMOVED}, \"user\": \"ann\"}}"}}'),
        (r'{"a": "{\"b\": \"{\\\"token\\\": \\\"abc\\\"}\"}"}',
         rf'{{"a": "{{\"b\": \"{{\\\"token\\\": {REMOVED}}}\"}}"}}'),
        (r'password="ab\"cd ef" user=ann', f"password={REMOVED} user=ann"),
        (r'{"password": "ab\"cd", "user": "ann"}', f'{{"password": {REMOVED}, "user": "ann"}}'),
        ("password: correct horse, battery", f"password: {REMOVED}"),
        ("password=two words user=ann", f"password={REMOVED} user=ann"),
        ('token="cut off', f"token={REMOVED}"),
        ("https://ann:pa55@host:1/x", f"https://{REMOVED}@host:1/x"),
        ("password=hunter2 user=ann", f"password={REMOVED} user=ann"),
        ('{"token": "abc", "user": "ann"}', f'{{"token": {REMOVED}, "user": "ann"}}'),
        ("token_file: /keys/token", "token_file: /keys/token"),
        ("token_ttl_ms: 300000", "token_ttl_ms: 300000"),
        ('grpc_server_started_total{grpc_method="Put"} 3', 'grpc_server_started_total{grpc_method="Put"} 3'),
    ],
)  # fmt: skip
def test_what_has_the_form_of_a_secret_goes(text: str, left: str) -> None:
    assert Redaction([]).apply(text.encode()).decode() == left


@given(st.from_regex(rb"\A[a-z.*+?(){}^$|\\]{8,40}\Z"), st.lists(st.binary(max_size=9), min_size=2))
def test_what_is_known_goes_wherever_it_stands(secret: bytes, around: list[bytes]) -> None:
    assert secret not in Redaction([b"other", secret]).apply(secret.join(around))


def test_secrets_are_what_the_named_files_hold(tmp_path: Path) -> None:
    for name, content in {
        "ca.pem": "-----BEGIN CERTIFICATE-----\nMIIB-public-for-all\n-----END CERTIFICATE-----\n",
        "n1.pem": "-----BEGIN CERTIFICATE-----\nMIIC-public-for-all\n-----END CERTIFICATE-----\n",
        "n1-key.pem": PEM,
        "hs.secret": "shared-secret\n",
        "tokens": "the-token-of-one\nthe-token-of-another\n",
        "keys/n1.secret": "c" * 40,
        "keys/n1.public": "p" * 40,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    cluster = parse(
        f"nodes: {{n1: {{}}}}\n"
        f"tls:\n  client:\n    cert: {tmp_path}/{{node}}.pem\n    key: '{tmp_path}/{{node}}-key.pem'\n"
        f"    ca: {tmp_path}/ca.pem\n    client_cert_auth: true\n  peer: {{keys: {tmp_path}/keys}}\n"
        f"auth: {{jwt: {{sign_method: HS256, private_key: {tmp_path}/hs.secret}}}}\n"
        f"replication: {{token_file: {tmp_path}/tokens}}\n",
        "test",
    )
    found = set(secrets_of(cluster))
    assert {b"shared-secret", b"the-token-of-one", b"the-token-of-another", b"c" * 40} <= found
    assert b"MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQ" in found
    assert not any(b"public" in secret or b"p" * 40 in secret for secret in found)
    assert without_secrets(cluster.model_dump())["replication"]["token_file"] == f"{tmp_path}/tokens"


def test_a_secret_in_the_file_itself_goes_by_its_name() -> None:
    """No field of today's holds one; the next may."""
    dumped = {"backup": {"secret_access_key": "abc", "bucket": "b", "key_file": Path("k"), "tries": 3}}
    kept = {"backup": {"secret_access_key": REMOVED, "bucket": "b", "key_file": "k", "tries": 3}}
    assert without_secrets(dumped) == kept
