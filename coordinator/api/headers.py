"""Response headers, put in front of bodies that workers made.

The header is field 1 of every response of both APIs, and protobuf merges by concatenation: header bytes in front of
body bytes are the whole message, and the coordinator never parses a body. Zero fields are left out, as protobuf does.
"""

from __future__ import annotations

from typing import Final

from proto.varint import delimited, varint

_TAG_HEADER: Final = b"\x0a"
_TAGS: Final = tuple(bytes([number << 3]) for number in range(6))


def _field(number: int, value: int) -> bytes:
    return _TAGS[number] + varint(value) if value else b""


class EtcdHeaders:
    """Headers of the etcd API: who answers, and where its keyspace stands."""

    def __init__(self, *, cluster_id: int, member_id: int) -> None:
        self._cluster_id = cluster_id
        self.become(member_id)

    def become(self, member_id: int) -> None:
        """The member that answers has this id."""
        self._identity = _field(1, self._cluster_id) + _field(2, member_id)

    def encode(self, *, revision: int, term: int) -> bytes:
        """Field 1 of a response, tag included."""
        header = b"".join((self._identity, _field(3, revision), _field(4, term)))
        return delimited(_TAG_HEADER, header)


class RegattaHeaders:
    """Headers of the Regatta API."""

    def __init__(self, *, replica_id: int) -> None:
        """replica_id is the id of the node that answers, not of the leader."""
        self._replica = _field(2, replica_id)

    def encode(self, *, shard: int, revision: int, term: int, leader: int) -> bytes:
        """Field 1 of a response, tag included."""
        header = b"".join(
            (_field(1, shard), self._replica, _field(3, revision), _field(4, term), _field(5, leader))
        )
        return delimited(_TAG_HEADER, header)
