"""The certificate that a port shows, and which clients it lets in.

The files are looked at when a client connects, about once a second at most. When one has changed, what they hold now is
tried; if it can be used, handshakes from then on use it. If not, because half of it is copied perhaps, that is logged
and the last good ones stay. Connections that are open keep what they began with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from config.changed_files import ChangedFiles
from config.tls_files import TlsUnusable, context_of, reason_of
from coordinator.front.certificates import common_name, is_valid_for
from proto.internal.curve import exposure_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from config.access import ClientTlsConfig
    from coordinator.front.certificates import Certificate

H2: Final = "h2"
HTTP1: Final = "http/1.1"
"""Names of protocols in ALPN."""

log = structlog.get_logger()


class ServerTls:
    """What one port needs for its handshakes."""

    def __init__(self, files: ClientTlsConfig, alpn: Sequence[str], clock: Callable[[], float]) -> None:
        """files: of this node; alpn: what the port speaks, best first. Raises TlsUnusable.

        HTTP/1.1 is to come before h2: whoever offers both, as curl does, wants a page, and pages are served by HTTP/1.1
        alone. Clients of gRPC offer h2 only."""
        self._files = files
        self._alpn = alpn
        self._changes = ChangedFiles((files.cert, files.key, files.ca), clock)
        try:
            self._context = self._load()
        except TlsUnusable as error:
            raise TlsUnusable(f"the clients' port has no TLS: {error}") from None

    def context(self) -> ssl.SSLContext:
        """For a handshake that begins now."""
        if self._changes.changed():
            self._replace()
        return self._context

    def _replace(self) -> None:
        try:
            self._context = self._load()
        except TlsUnusable as error:
            log.error("a new certificate or key is refused, the last one stays", reason=str(error))
        else:
            log.info("a new certificate is used", cert=str(self._files.cert))

    def _load(self) -> ssl.SSLContext:
        files = self._files
        try:
            if reason := exposure_of(files.key):
                raise TlsUnusable(reason)
            return context_of(files, self._alpn)
        except (OSError, ValueError) as error:
            raise TlsUnusable(f"{files.cert} and {files.key}: {reason_of(error)}") from None

    def refusal(self, certificate: Certificate) -> str:
        """Why the client with this certificate is not let in; "" if it is."""
        files = self._files
        if files.allowed_cn is not None and common_name(certificate) != files.allowed_cn:
            return "its certificate's common name is not allowed_cn"
        if files.allowed_hostname is not None and not is_valid_for(certificate, files.allowed_hostname):
            return "its certificate is not valid for allowed_hostname"
        return ""
