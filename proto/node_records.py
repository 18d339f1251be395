"""Where a member is, out of the record that its shard's log keeps of it (frames.NodeRecord)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proto.internal import frames_pb2 as frames
from proto.internal.keys import is_key

if TYPE_CHECKING:
    from collections.abc import Sequence


def in_record(record: bytes) -> frames.NodeRecord:
    """The record that a membership keeps. Raises DecodeError."""
    return frames.NodeRecord.FromString(record)


def peer_host_and_port(urls: Sequence[str]) -> tuple[str, int]:
    """Where a node's replicas begin to listen, by the first of its peer URLs. Raises ValueError."""
    if not urls:
        raise ValueError("no peer URL")
    parts = urlsplit(urls[0])
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
        raise ValueError(f"{urls[0]} is no http://HOST:PORT")
    return parts.hostname, parts.port


def check_peer_urls(urls: Sequence[str]) -> None:
    """Raises ValueError if these are not http://HOST:PORT, at least one of them and no path behind it."""
    for url in urls or [""]:
        peer_host_and_port([url])
        if urlsplit(url).path:
            raise ValueError(f"{url} has a path")


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
    """The ZeroMQ endpoint of a node's replica of a shard; empty if the record names none."""
    try:
        host, port = peer_host_and_port(record.peer_urls)
    except ValueError:
        return ""
    shown = "127.0.0.1" if host.lower() == "localhost" else host
    return f"tcp://{f'[{shown}]' if ':' in shown else shown}:{port + shard - 1}"
