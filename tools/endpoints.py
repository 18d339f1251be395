"""Where coordinators are, as a user writes it: host:port, several with commas between. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_ENDPOINT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s/:\[\]]+):(?P<port>[0-9]{1,5})")


def parse_endpoints(text: str) -> list[str]:
    """host:port of each. `http://` before it and a slash behind it are fine, as etcdctl takes them.

    Raises ValueError with what is wrong, in words."""
    endpoints = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    if not endpoints:
        raise ValueError("no endpoint given")
    return endpoints


def _parse(text: str) -> str:
    if text.startswith("https://"):
        raise ValueError(f"{text}: boathouse does not speak TLS yet; use http:// or no scheme")
    endpoint = text.removeprefix("http://").removesuffix("/")
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None:
        raise ValueError(f"{text!r} is not host:port")
    if not 1 <= int(match["port"]) <= 65535:
        raise ValueError(f"{text!r}: a port is 1 to 65535")
    return endpoint


def is_loopback(endpoint: str) -> bool:
    """Whether host:port is on this machine for sure."""
    host = endpoint.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
