"""Where coordinators are, as a user writes it: host:port or unix:///path, several with commas between. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

_UNIX: Final = "unix://"

_ENDPOINT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s/:\[\]]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Coordinators of one cluster."""

    addresses: tuple[str, ...]
    """host:port of each, or unix:///path; at least one."""
    scheme: str = ""
    """http, https, unix, or "" where none was written."""


def parse_endpoints(text: str) -> Endpoints:
    """All endpoints. A scheme before each and a slash behind it are fine, as etcdctl takes them.

    Raises ValueError with what is wrong, in words."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("no endpoint given")
    schemes = {part.partition("://")[0] if "://" in part else "" for part in parts}
    if len(schemes) > 1:
        raise ValueError(f"{text}: write the same scheme before all endpoints")
    (scheme,) = schemes
    if scheme not in ("", "http", "https", "unix"):
        raise ValueError(f"{text}: a scheme is http, https or unix")
    return Endpoints(tuple(_parse(part, scheme) for part in parts), scheme)


def _parse(text: str, scheme: str) -> str:
    if scheme == "unix":
        if not text.startswith(f"{_UNIX}/"):
            raise ValueError(f"{text!r}: a unix socket is given by its whole path, {_UNIX}/path")
        return text
    endpoint = text.removeprefix(f"{scheme}://").removesuffix("/")
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None:
        raise ValueError(f"{text!r} is not host:port")
    if not 1 <= int(match["port"]) <= 65535:
        raise ValueError(f"{text!r}: a port is 1 to 65535")
    return endpoint


def is_loopback(endpoint: str) -> bool:
    """Whether an endpoint is on this machine for sure."""
    if endpoint.startswith(_UNIX):
        return True
    host = endpoint.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
