"""Certificates and keys that a cluster file names: what is wrong with them, and on which line of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from config import ClusterConfig, ConfigError
from config.loading import load, load_draft, load_with_files
from config.tls_files import peer_keys, write_pair

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = trustme.CA()

FILE = """\
nodes:
  n1: {}
  n2: {client_port: 2389, http_port: 8089, peer_port: 7201}
tls:
  client:
    cert: FOLDER/{node}.pem
    key: FOLDER/{node}-key.pem
    ca: FOLDER/ca.pem
    client_cert_auth: true
  peer:
    keys: FOLDER/keys
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A cluster file all of whose files are sound."""
    for node in ("n1", "n2"):
        leaf = AUTHORITY.issue_cert(f"{node}.example")
        leaf.cert_chain_pems[0].write_to_path(str(tmp_path / f"{node}.pem"))
        leaf.private_key_pem.write_to_path(str(tmp_path / f"{node}-key.pem"))
        (tmp_path / f"{node}-key.pem").chmod(0o600)
        write_pair(tmp_path / "keys", node)
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE.replace("FOLDER", str(tmp_path)))
    return path


def complaints(file: Path, node: str | None = None) -> list[str]:
    """Without the folder's name."""
    try:
        load_with_files(file, node)
    except ConfigError as error:
        return str(error).replace(f"{file.parent}/", "").splitlines()
    return []


def test_sound_files_are_fine(file: Path) -> None:
    assert complaints(file) == []
    cluster = load(file)
    client = cluster.client_tls("n2")
    assert client is not None
    assert client.cert == file.parent / "n2.pem"
    assert cluster.client_url("n2") == "https://127.0.0.1:2389"


def test_every_child_gets_the_same_and_no_secret(file: Path) -> None:
    spec = load(file).model_dump_json()
    assert ClusterConfig.model_validate_json(spec) == load(file)
    assert (file.parent / "keys" / "n1.secret").read_text().strip() not in spec


@pytest.mark.parametrize(
    ("name", "harm", "complaint"),
    [
        ("n1.pem", None, "cluster.yaml:6: tls.client.cert: n1.pem can't be read: No such file or directory"),
        ("n1-key.pem", None, "cluster.yaml:7: tls.client.key: n1-key.pem can't be read: No such file or directory"),
        ("ca.pem", None, "cluster.yaml:8: tls.client.ca: ca.pem can't be read: No such file or directory"),
        ("n1.pem", "x", "cluster.yaml:6: tls.client.cert: n1.pem and n1-key.pem can't be used: not all of it is PEM"),
        ("n1-key.pem", "other", ("cluster.yaml:6: tls.client.cert: n1.pem and n1-key.pem can't be used: "
         "the key is another certificate's")),
        ("n1-key.pem", 0o640, ("cluster.yaml:7: tls.client.key: n1-key.pem can be used by others than its owner; "
         "chmod 600 it")),
        ("ca.pem", "x", ("cluster.yaml:8: tls.client.ca: ca.pem can't be used: "
         "NO_CERTIFICATE_OR_CRL_FOUND")),
        ("keys/n1.secret", None, ("cluster.yaml:11: tls.peer.keys: keys/n1.secret can't be read: "
         "No such file or directory")),
        ("keys/n2.public", None, ("cluster.yaml:11: tls.peer.keys: keys/n2.public can't be read: "
         "No such file or directory")),
        ("keys/n1.secret", 0o604, ("cluster.yaml:11: tls.peer.keys: keys/n1.secret can be used by others than its "
         "owner; chmod 600 it")),
        ("keys/n1.public", "x", ("cluster.yaml:11: tls.peer.keys: keys/n1.public holds no key of 40 characters; "
         "`boathouse keygen` makes one")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(file: Path, name: str, harm: object, complaint: str) -> None:
    path = file.parent / name
    match harm:
        case None:
            path.unlink()
        case int():
            path.chmod(harm)
        case "other":
            AUTHORITY.issue_cert("x.example").private_key_pem.write_to_path(str(path))
        case str():
            path.write_text(harm)
    assert complaint in complaints(file)
    assert "cluster.yaml" in str(complaints(file, "n1"))


def test_a_secret_of_another_node_is_found(file: Path) -> None:
    keys = file.parent / "keys"
    (keys / "n1.secret").write_bytes((keys / "n2.secret").read_bytes())
    assert complaints(file) == [
        "cluster.yaml:11: tls.peer.keys: keys/n1.secret does not belong to keys/n1.public; copy both again"
    ]


def test_what_other_machines_have_is_not_missed_here(file: Path) -> None:
    for name in ("n2.pem", "n2-key.pem", "keys/n2.secret"):
        (file.parent / name).unlink()
    assert complaints(file, "n1") == []
    assert complaints(file)


def test_commands_that_start_nothing_do_not_look(file: Path) -> None:
    (file.parent / "n1.pem").unlink()
    assert load(file).tls.client is not None


def test_a_draft_may_lack_what_is_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("nodes:\n  n1: {host: 10.0.0.1}\n")
    assert load_draft(path).node("n1").host == "10.0.0.1"
    path.write_text("nodes:\n  n1: {hst: 10.0.0.1}\n")
    with pytest.raises(ConfigError, match="did you mean host"):
        load_draft(path)


def test_a_secret_key_is_shown_to_nobody(file: Path) -> None:
    keys = peer_keys(load(file), "n1")
    assert keys is not None
    assert keys.secret.decode() not in repr(keys)
    assert set(keys.of_file) == {1, 2}


def test_a_key_with_a_password_is_refused_in_words(file: Path) -> None:
    """OpenSSL would ask for it on the terminal."""
    path = file.parent / "n1-key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    (complaint,) = complaints(file, "n1")
    assert "the key needs a password; store it without one" in complaint


@pytest.fixture
def following(file: Path) -> Path:
    """As `file`, of a cluster that follows another one over TLS."""
    folder = file.parent
    (folder / "token").write_text("0123456789abcdef")
    (folder / "token").chmod(0o600)
    tls = f'{{ca: {folder}/ca.pem, cert: {folder}/n1.pem, key: "{folder}/{{node}}-key.pem"}}'
    file.write_text(
        f"nodes: {{n1: {{}}}}\nfollows:\n  cluster: a\n  endpoints: [10.0.0.1:1]\n  tls: {tls}\n"
        f"  token_file: {folder}/token\n"
    )
    return file


def test_what_a_cluster_needs_to_follow_another_is_looked_at(following: Path) -> None:
    assert complaints(following) == []
    (following.parent / "token").chmod(0o644)
    (following.parent / "n1-key.pem").chmod(0o644)
    assert complaints(following) == [
        "cluster.yaml:5: follows.tls.key: n1-key.pem can be used by others than its owner; chmod 600 it",
        "cluster.yaml:6: follows.token_file: token can be used by others than its owner; chmod 600 it",
    ]
    (following.parent / "n1-key.pem").write_text("x")
    (following.parent / "token").unlink()
    assert complaints(following)[1:] == [
        "cluster.yaml:5: follows.tls.cert: n1.pem and n1-key.pem can't be used: not all of it is PEM",
        "cluster.yaml:6: follows.token_file: token can't be read: No such file or directory",
    ]


def test_what_tokens_are_signed_and_shown_with_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    file, key, token = (tmp_path / name for name in ("cluster.yaml", "n1-key.pem", "token-n1"))
    key.write_bytes(AUTHORITY.issue_cert("x.example").private_key_pem.bytes())  # of an elliptic curve
    token.write_text("0123456789abcdef")
    for path in (key, token):
        path.chmod(0o600)

    def with_method(method: str, public: str = "") -> list[str]:
        file.write_text(
            f"nodes: {{n1: {{}}}}\nauth:\n  jwt:\n    sign_method: {method}\n    private_key: {key}\n{public}"
            f"tokens:\n  maintenance: {tmp_path}/token-{{node}}\n  tables: {token}\n"
        )
        return complaints(file)

    assert with_method("ES256") == []
    assert with_method("RS256") == [
        "cluster.yaml:5: auth.jwt.private_key: n1-key.pem holds a key that RS256 can't be signed with"
    ]
    assert with_method("ES256", f"    public_key: {key}\n") == [
        "cluster.yaml:6: auth.jwt.public_key: n1-key.pem is no PEM file with a public key"
    ]
    key.unlink()
    token.write_text("short")
    assert with_method("ES256") == [
        "cluster.yaml:5: auth.jwt.private_key: n1-key.pem can't be read: No such file or directory",
        "cluster.yaml:7: tokens.maintenance: token-n1 holds no token: at least 8 printable ASCII characters",
        "cluster.yaml:8: tokens.tables: token-n1 holds no token: at least 8 printable ASCII characters",
    ]
