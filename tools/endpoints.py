"""Where coordinators are, as a user writes it: host:port or unix:///path, several with commas between. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_UNIX: Final = "unix://"

_ENDPOINT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s/:\[\]]+):(?P<port>[0-9]{1,5})")


def parse_endpoints(text: str) -> list[str]:
    """Of each host:port, or unix:///path as it is. `http://` before host:port and a slash behind it are fine, as
    etcdctl takes them.

    Raises ValueError with what is wrong, in words."""
    endpoints = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    if not endpoints:
        raise ValueError("no endpoint given")
    return endpoints


def _parse(text: str) -> str:
    if text.startswith("https://"):
        raise ValueError(f"{text}: boathouse does not speak TLS yet; use http:// or no scheme")
    if text.startswith(_UNIX):
        if not text.startswith(f"{_UNIX}/"):
            raise ValueError(f"{text!r}: a unix socket is given by its whole path, {_UNIX}/path")
        return text
    endpoint = text.removeprefix("http://").removesuffix("/")
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
