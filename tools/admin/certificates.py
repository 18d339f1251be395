"""A set of certificates for development: an authority, one certificate for the servers, one for a client.

In production, use the authority you have, or one whose key lies elsewhere: whoever has ca-key.pem can make a client."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from config.durable_files import create_durably, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from config import ClusterConfig

VALID: Final = datetime.timedelta(days=365)
CLOCKS_DIFFER: Final = datetime.timedelta(hours=1)
"""How far another machine's clock may be behind."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a set is."""

    ca: Path
    ca_key: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @classmethod
    def in_folder(cls, folder: Path) -> CertificateFiles:
        names = ("ca", "server", "client")
        return cls(*(folder / f"{name}{end}.pem" for name in names for end in ("", "-key")))


def hosts_of(cluster: ClusterConfig) -> list[str]:
    """What clients on the nodes' machines and elsewhere call the nodes."""
    return list(
        dict.fromkeys([*(node.host for node in cluster.nodes.values()), "localhost", "127.0.0.1", "::1"])
    )


def make_set(
    folder: Path, hosts: Iterable[str], client_name: str, *, valid: datetime.timedelta = VALID
) -> CertificateFiles:
    """Make all of it; keys are for this user alone. Durable on return. Raises FileExistsError before anything is
    replaced."""
    files = CertificateFiles.in_folder(folder)
    for path in (files.ca, files.ca_key, files.server, files.server_key, files.client, files.client_key):
        if path.exists():
            raise FileExistsError(f"{path} is there already; remove it, or choose another folder by --dir")
    make_folder(folder)
    authority = _authority(valid)
    server = _issued(authority, valid, "boathouse server", ExtendedKeyUsageOID.SERVER_AUTH, hosts)
    client = _issued(authority, valid, client_name, ExtendedKeyUsageOID.CLIENT_AUTH, ())
    _write(authority, files.ca, files.ca_key)
    _write(server, files.server, files.server_key)
    _write(client, files.client, files.client_key)
    return files


def _authority(valid: datetime.timedelta) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("boathouse development authority")
    builder = (
        _builder(valid, name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Identity(builder.sign(key, hashes.SHA256()), key)


def _issued(
    authority: Identity,
    valid: datetime.timedelta,
    name: str,
    usage: x509.ObjectIdentifier,
    hosts: Iterable[str],
) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(valid, _name(name), authority.certificate.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(issuer, critical=False)
    )
    names = [_general_name(host) for host in hosts]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Identity(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    valid: datetime.timedelta, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(identity: Identity, certificate_file: Path, key_file: Path) -> None:
    key = identity.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = identity.certificate.public_bytes(serialization.Encoding.PEM)
    create_durably(key_file, key, 0o600)
    create_durably(certificate_file, certificate, 0o644)
