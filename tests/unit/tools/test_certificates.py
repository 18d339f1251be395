"""`boathouse tls init` and `boathouse keygen`: what they make fits together, is for its owner, replaces nothing."""

from __future__ import annotations

import os
import ssl
import stat
from typing import TYPE_CHECKING

import pytest
import zmq
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from config import ClusterConfig
from config.access import ClientTlsConfig
from config.loading import load_with_files
from config.tls_files import context_of, peer_keys, write_pair
from coordinator.front.certificates import common_name
from proto.internal.curve import PeerKeys
from tools.admin.certificates import CertificateFiles, hosts_of, make_set
from tools.cli import app
from tools.client_tls import client_context
from tools.failure import Failed

if TYPE_CHECKING:
    from pathlib import Path


def shake_hands(files: CertificateFiles, host: str, *, cacert: Path | None = None) -> str:
    """The client's common name as the server sees it. cacert: whom the client trusts, if it is another file. Raises
    ssl.SSLError if either does not trust the other."""
    config = ClientTlsConfig(cert=files.server, key=files.server_key, ca=files.ca, client_cert_auth=True)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context_of(config, ("h2",)).wrap_bio(to_server, to_client, server_side=True)
    context = client_context(cacert or files.ca, files.client, files.client_key)
    client = context.wrap_bio(to_client, to_server, server_hostname=host)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return common_name(server.getpeercert() or {})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "db.example", "10.0.0.1"])
def test_clients_and_servers_trust_each_other(tmp_path: Path, host: str) -> None:
    cluster = ClusterConfig.model_validate(
        {"nodes": {"n1": {"host": "db.example"}, "n2": {"host": "10.0.0.1"}}, "insecure": True}
    )
    files = make_set(tmp_path / "certs", hosts_of(cluster), "ann")
    assert shake_hands(files, host) == "ann"


def test_a_certificate_is_for_the_hosts_of_the_cluster_only(tmp_path: Path) -> None:
    files = make_set(tmp_path, ["db.example"], "ann")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, "other.example")


def test_an_authority_may_leave_out_what_tls_does_not_need(tmp_path: Path) -> None:
    """As many do: which key has signed a certificate, and what its own key is for."""
    files = make_set(tmp_path, ["db.example"], "ann")
    made = x509.load_pem_x509_certificate(files.server.read_bytes())
    bare = (
        x509.CertificateBuilder()
        .subject_name(made.subject)
        .issuer_name(made.issuer)
        .public_key(made.public_key())
        .serial_number(made.serial_number)
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
        .add_extension(made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value, False)
    )
    key = load_pem_private_key(files.ca_key.read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    files.server.write_bytes(bare.sign(key, SHA256()).public_bytes(Encoding.PEM))
    assert shake_hands(files, "db.example") == "ann"


def test_an_authority_may_be_trusted_without_the_one_above_it(tmp_path: Path) -> None:
    files, cacert = make_set(tmp_path, ["db.example"], "ann"), tmp_path / "between.crt"
    made = x509.load_pem_x509_certificate(files.ca.read_bytes())
    between = (
        x509.CertificateBuilder()
        .subject_name(made.subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "above")]))
        .public_key(made.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    above = generate_private_key(SECP256R1())
    cacert.write_bytes(between.sign(above, SHA256()).public_bytes(Encoding.PEM))
    assert shake_hands(files, "db.example", cacert=cacert) == "ann"


def test_keys_are_for_their_owner(tmp_path: Path) -> None:
    make_set(tmp_path / "certs", ["localhost"], "ann")
    write_pair(tmp_path / "keys", "n1")
    secrets = [*(tmp_path / "certs").glob("*-key.pem"), *(tmp_path / "keys").glob("*.secret")]
    assert len(secrets) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


def test_all_of_it_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    make_set(tmp_path / "certs", ["localhost"], "root")
    write_pair(tmp_path / "keys", "n1")
    made = {str(path) for path in tmp_path.rglob("*")}
    assert made | {str(tmp_path)} == synced


def test_nothing_is_replaced(tmp_path: Path) -> None:
    make_set(tmp_path, ["localhost"], "ann")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(FileExistsError, match=r"ca-key.pem is there already"):
        make_set(tmp_path, ["localhost"], "ann")
    assert all(path.read_bytes() == before[path] for path in tmp_path.iterdir())


def test_what_the_commands_make_is_what_up_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "cluster.yaml"
    nodes = "nodes:\n  n1: {host: 10.0.0.1}\n  n2: {host: 10.0.0.2}\n"
    file.write_text(nodes)
    made = CliRunner().invoke(app, ["tls", "init", str(file)])
    assert made.exit_code == 0, made.output
    keys = CliRunner().invoke(app, ["keygen", str(file)])
    assert keys.exit_code == 0, keys.output
    # What they print goes into the file as it is.
    printed = [line.removeprefix("  ") for line in made.output.splitlines() if line.startswith("  ")]
    peer = [line.removeprefix("  ") for line in keys.output.splitlines() if line.startswith("  ")]
    tls = [line for line in printed if not line.startswith("--")] + peer[1:]
    file.write_text(nodes + "\n".join(tls) + "\n")
    cluster = load_with_files(file, "n1")
    assert cluster.tls.client is not None
    assert cluster.tls.client.client_cert_auth
    assert peer_keys(cluster, "n2") is not None


def test_keys_are_added_for_new_nodes_and_never_made_twice(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"nodes: {{n1: {{}}}}\ntls: {{peer: {{keys: {tmp_path / 'keys'}}}}}\n")
    run = CliRunner()
    assert run.invoke(app, ["keygen", str(file)]).exit_code == 0
    first = (tmp_path / "keys" / "n1.secret").read_bytes()
    again = run.invoke(app, ["keygen", str(file)])
    assert isinstance(again.exception, Failed)
    assert "every node has its keys" in str(again.exception)
    file.write_text(
        "nodes: {n1: {}, n2: {client_port: 1, http_port: 2, peer_port: 3}}\n"
        f"tls: {{peer: {{keys: {tmp_path / 'keys'}}}}}\n"
    )
    assert "made keys of n2 " in run.invoke(app, ["keygen", str(file)]).output
    assert (tmp_path / "keys" / "n1.secret").read_bytes() == first
    keys = PeerKeys.load(tmp_path / "keys", "n2", {"n1": 1, "n2": 2})
    assert zmq.curve_public(keys.secret) == keys.of_file[2]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cacert", "absent.pem"], "absent.pem: can't be read: No such file or directory"),
        (["--cacert", "/dev/null"], "/dev/null: is not a PEM file"),
    ],
)
def test_files_that_can_not_be_used_are_told(arguments: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, ["kv", "get", "k", *arguments])
    assert str(done.exception) == complaint


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cert", "c.pem"], "--cert and --key come together"),
        (["--key", "k.pem"], "--cert and --key come together"),
        (["--cacert", "c.pem", "-e", "http://n1:1"], "http:// is without TLS; write https://, or no scheme"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(arguments: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, ["kv", "get", "k", *arguments])
    assert done.exit_code == 2
    assert complaint in done.output
