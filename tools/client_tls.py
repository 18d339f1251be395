"""What HTTPS connections of commands are made with."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike


def client_context(
    cacert: str | PathLike[str] | None, cert: str | PathLike[str] | None, key: str | PathLike[str] | None
) -> ssl.SSLContext:
    """With these files; by the system's authorities without cacert. Raises OSError, ssl.SSLError among it.

    Certificates that are good enough for gRPC, in the same command, and for etcd's clients are so here: since 3.13
    Python also asks for extensions that many an authority leaves out, and before it does not trust an authority without
    the one above it."""
    context = ssl.create_default_context(cafile=cacert)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context
