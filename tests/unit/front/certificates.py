"""An authority of the tests' own, and files of certificates that it has signed."""

from __future__ import annotations

import os
import ssl
import time
from typing import TYPE_CHECKING

import trustme

from config.access import ClientTlsConfig
from coordinator.front.server_tls import H2, HTTP1, ServerTls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AUTHORITY = trustme.CA()


def write(folder: Path, leaf: trustme.LeafCert, name: str) -> tuple[Path, Path]:
    """The files of a certificate and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    leaf.cert_chain_pems[0].write_to_path(str(cert))
    leaf.private_key_pem.write_to_path(str(key))
    key.chmod(0o600)
    return cert, key


def files(
    folder: Path,
    *,
    client_cert_auth: bool = False,
    allowed_cn: str | None = None,
    allowed_hostname: str | None = None,
) -> ClientTlsConfig:
    """A server's, for localhost."""
    cert, key = write(folder, AUTHORITY.issue_cert("127.0.0.1", "localhost"), "server")
    ca = folder / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(ca))
    return ClientTlsConfig(
        cert=cert,
        key=key,
        ca=ca if client_cert_auth else None,
        client_cert_auth=client_cert_auth,
        allowed_cn=allowed_cn,
        allowed_hostname=allowed_hostname,
    )


def server_tls(config: ClientTlsConfig, clock: Callable[[], float] = time.monotonic) -> ServerTls:
    return ServerTls(config, (HTTP1, H2), clock)


def client_context(
    *alpn: str, authority: trustme.CA = AUTHORITY, certificate: trustme.LeafCert | None = None
) -> ssl.SSLContext:
    """A client's, with a certificate of its own if one is given."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def touch_later(*paths: Path) -> None:
    """As if they were written a moment later than they were: file systems' clocks are coarse."""
    for path in paths:
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000))
