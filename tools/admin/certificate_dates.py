"""From when until when certificates are valid: those of the files that a cluster file names, as far as they are on this
machine, and those that servers show."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

from config.changed_files import ChangedFiles
from tools.admin.snapshot import Certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from config import ClusterConfig, NodeConfig
    from config.access import FollowsTlsConfig

CONNECT_TIMEOUT_S: Final = 1.0


class CertificateDates:
    """Of the files of a cluster. They are read again when they change."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._chains: dict[Path, list[str]] = {}
        """What is shown: path to nodes."""
        self._authorities: dict[Path, list[str]] = {}
        """What is checked by."""
        for node in cluster.nodes:
            for files in (cluster.client_tls(node), _following(cluster, node)):
                if files is not None and files.cert is not None:
                    self._chains.setdefault(files.cert, []).append(node)
                if files is not None and files.ca is not None:
                    self._authorities.setdefault(files.ca, []).append(node)
        self._changes = ChangedFiles([*self._chains, *self._authorities], time.monotonic)
        self._found: Sequence[Certificate] | None = None

    def look(self) -> Sequence[Certificate]:
        """As the files are now."""
        if self._found is None or self._changes.changed():
            self._found = [*self._of_chains(), *self._of_authorities()]
        return self._found

    def _of_chains(self) -> Iterator[Certificate]:
        """A chain is as good as the first of it that ends."""
        for path, nodes in self._chains.items():
            if dates := _read(path):
                begins_at, ends_at = max(begin for begin, _ in dates), min(end for _, end in dates)
                yield Certificate(str(path), tuple(nodes), begins_at, ends_at)

    def _of_authorities(self) -> Iterator[Certificate]:
        """Among authorities that take turns, the last one counts."""
        for path, nodes in self._authorities.items():
            if dates := _read(path):
                begins_at, ends_at = min(begin for begin, _ in dates), max(end for _, end in dates)
                yield Certificate(str(path), tuple(nodes), begins_at, ends_at)


def shown(cluster: ClusterConfig, node: NodeConfig) -> Certificate | None:
    """What a node's client port shows; None if it is not reached, or speaks no TLS. It is not verified."""
    files = cluster.client_tls(node.name)
    assert files is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((node.host, node.client_port), CONNECT_TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=node.host) as secured,
        ):
            raw = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    if raw is None:
        return None
    from cryptography import x509

    found = x509.load_der_x509_certificate(raw)
    begins_at, ends_at = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return Certificate(str(files.cert), (node.name,), begins_at, ends_at)


def _following(cluster: ClusterConfig, node: str) -> FollowsTlsConfig | None:
    return None if cluster.follows is None else cluster.follows.of_node(node).tls


def _read(path: Path) -> list[tuple[float, float]]:
    """When each certificate of a file begins and ends; [] for what can't be read here, or is none: `boathouse up` says
    what is wrong with it."""
    from cryptography import x509  # by whoever has any

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return []
    return [(one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()) for one in found]
