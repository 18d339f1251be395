"""Ids of writes: the state machine applies each id once, so whoever repeats a write repeats its id."""

from __future__ import annotations

import hashlib
import itertools
from typing import Final

from proto import errors
from proto.methods import REQUEST_ID_BYTES

METADATA_KEY: Final = "boathouse-request-id"
"""gRPC metadata by which a client names its write."""

CLIENT_ID_BYTES_MAX: Final = 128


class RequestIds:
    """Ids for writes whose clients brought none: an incarnation that no other coordinator has, and a sequence."""

    def __init__(self, incarnation: bytes) -> None:
        """incarnation is 8 bytes drawn anew at each start."""
        assert len(incarnation) == 8
        self._incarnation = incarnation
        self._sequence = itertools.count(1)

    def draw(self) -> bytes:
        """An id that was never given before."""
        return self._incarnation + next(self._sequence).to_bytes(8)


def from_client(client_id: bytes, table_id: int) -> bytes:
    """The id of a write whose client named it. The same name in another table is another write.

    Raises InvalidRequestId unless it has 1 to CLIENT_ID_BYTES_MAX bytes."""
    _check(client_id)
    return hashlib.blake2b(client_id, digest_size=REQUEST_ID_BYTES, salt=table_id.to_bytes(16)).digest()


def of_step(client_id: str, step: str) -> str:
    """The client's name for one of the writes that his call consists of: whoever repeats the call repeats each of them.

    Raises InvalidRequestId as from_client() does. step: up to 16 bytes."""
    named = client_id.encode()
    _check(named)
    return hashlib.blake2b(named, digest_size=REQUEST_ID_BYTES, person=step.encode()).hexdigest()


def _check(client_id: bytes) -> None:
    if not 1 <= len(client_id) <= CLIENT_ID_BYTES_MAX:
        raise errors.InvalidRequestId(f"boathouse-request-id has {len(client_id)} bytes")


def following(request_id: bytes) -> bytes:
    """The id for the same write after its first was used up by a refusal; the same one each time."""
    return hashlib.blake2b(request_id, digest_size=REQUEST_ID_BYTES, person=b"following").digest()
