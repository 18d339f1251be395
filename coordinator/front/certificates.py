"""What a client's certificate says. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

Certificate = Mapping[str, Any]
"""A verified one, as ssl.SSLSocket.getpeercert() has it; empty if the client showed none."""


def common_name(certificate: Certificate) -> str:
    """The subject's common name; "" if it has none."""
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


def is_valid_for(certificate: Certificate, host: str) -> bool:
    """Whether a certificate names a host among its alternative names, by RFC 6125's rules: an asterisk stands for one
    whole label, the first. The common name does not count."""
    names = certificate.get("subjectAltName", ())
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return any(kind == "DNS" and _matches(name, host) for kind, name in names)
    return any(kind == "IP Address" and ipaddress.ip_address(name) == address for kind, name in names)


def _matches(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if not pattern.startswith("*."):
        return pattern == host
    label, _, rest = host.partition(".")
    return bool(label) and rest == pattern[2:]
