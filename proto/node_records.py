"""Where a member is, out of the record that its shard's log keeps of it (frames.NodeRecord)."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proto.internal import frames_pb2 as frames
from proto.internal.keys import is_key

if TYPE_CHECKING:
    from collections.abc import Sequence


_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,253})")
"""As in the cluster file. ZeroMQ connects to no other: the call fails."""

_PORT_MAX: Final = 65_535

_SOCKET_SCHEMES: Final = ("unix", "unixs")
_SCHEMES: Final = ("http", "https", *_SOCKET_SCHEMES)


def in_record(record: bytes) -> frames.NodeRecord:
    """The record that a membership keeps. Raises DecodeError."""
    return frames.NodeRecord.FromString(record)


def peer_host_and_port(urls: Sequence[str]) -> tuple[str, int]:
    """Where a node's replicas begin to listen, by the first of its peer URLs. Raises ValueError."""
    if not urls:
        raise ValueError("no peer URL")
    parts = urlsplit(urls[0])
    host, port = parts.hostname, parts.port
    if parts.scheme not in ("http", "https") or not host or not port or "@" in parts.netloc:
        raise ValueError(f"{urls[0]!r} is no http://HOST:PORT")
    if not _is_host(host):
        raise ValueError(f"{host!r} is neither an IP address that other nodes reach nor a host name")
    return host, port


def _is_host(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    _, _, zone = text.partition("%")
    return not address.is_unspecified and (not zone or _HOST_NAME.fullmatch(zone) is not None)


def check_are_urls(urls: Sequence[str]) -> None:
    """Raises ValueError for what is no list of URLs of members by etcd's rules, which ask for less than
    check_peer_urls(): at least one, each with a scheme that etcd knows, and of http a host and a port alone."""
    for url in urls or [""]:
        parts = urlsplit(url.strip())
        host, colon, port = parts.netloc.rpartition("@")[2].rpartition(":")
        is_bare = ":" not in host or host.startswith("[")
        has_port = bool(colon) and is_bare and (not port or port.isdecimal())
        if parts.scheme not in _SCHEMES or (
            parts.scheme not in _SOCKET_SCHEMES and (not has_port or parts.path)
        ):
            raise ValueError(f"{url!r} is no http://HOST:PORT")


def check_peer_urls(urls: Sequence[str], *, shards: int) -> None:
    """Raises ValueError if these are not http://HOST:PORT, at least one of them and nothing behind it, with a port for
    each shard from that one on."""
    for url in urls or [""]:
        _, port = peer_host_and_port([url])
        parts = urlsplit(url)
        if parts.path or parts.query or parts.fragment or not url.isprintable():
            raise ValueError(f"{url!r} has more than a host and a port")
        if port + shards - 1 > _PORT_MAX:
            raise ValueError(
                f"{url}: {shards} shards need as many ports, and there is none above {_PORT_MAX}"
            )


def members_of(membership: frames.Membership) -> dict[int, str]:
    """By the ids of all members: host:port where a node's replicas begin to listen; empty if its shard was not told."""
    known = {entry.node: in_record(entry.record) for entry in membership.directory}
    everybody = {*membership.voters, *membership.voters_outgoing, *membership.learners}
    return {node: _host_port(known[node]) if node in known else "" for node in sorted(everybody)}


def keys_of(membership: frames.Membership) -> dict[int, str]:
    """By the ids of members: their public keys between nodes, of those whose shard was told."""
    records = ((entry.node, in_record(entry.record)) for entry in membership.directory)
    return {node: record.peer_key.decode() for node, record in records if is_key(record.peer_key)}


def _host_port(record: frames.NodeRecord) -> str:
    return endpoint_of(record, 1).removeprefix("tcp://")


def endpoint_of(record: frames.NodeRecord, shard: int) -> str:
    """The ZeroMQ endpoint of a node's replica of a shard; empty if the record names none that can be: it was written by
    a build that did not look."""
    try:
        host, port = peer_host_and_port(record.peer_urls)
    except ValueError:
        return ""
    if port + shard - 1 > _PORT_MAX:
        return ""
    shown = "127.0.0.1" if host.lower() == "localhost" else host
    return f"tcp://{f'[{shown}]' if ':' in shown else shown}:{port + shard - 1}"
