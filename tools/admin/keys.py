"""Looks into a table: a page of its keys, a value, the revisions of a key. Over etcd's API, from whatever endpoint
answers; serializable, so it works while there is no leader, and may then be old."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proto.etcd import rpc_pb2 as rpc
from tools.admin.etcd_client import EtcdClient, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proto.etcd import kv_pb2
    from tools.admin.reach import Reach

TIMEOUT_S: Final = 2.0
PAGE_KEYS: Final = 200
REVISIONS_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key at one revision."""

    key: bytes
    mod_revision: int
    create_revision: int
    version: int
    lease: int
    value: bytes = b""
    """Empty in a page of keys, which brings no values."""


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Some keys in order."""

    rows: Sequence[KeyRow]
    count: int
    """Of all keys from the page's first on."""
    after: bytes | None
    """Where the next page begins; None if there is none."""


class KeyReader:
    """One table. Every method raises Refused if no endpoint answers well, with the words of the last."""

    def __init__(self, endpoints: Sequence[str], table: str | None, reach: Reach) -> None:
        """table: None for etcd's one keyspace."""
        self._reach = reach
        self._endpoints = deque(endpoints)
        self._table = table

    def page(self, start: bytes) -> KeyPage:
        """PAGE_KEYS keys from start on, without values."""
        answer = self._range(
            rpc.RangeRequest(
                key=start or b"\0", range_end=b"\0", limit=PAGE_KEYS, keys_only=True, serializable=True
            )
        )
        after = answer.kvs[-1].key + b"\0" if answer.more and answer.kvs else None
        return KeyPage([_row(kv) for kv in answer.kvs], answer.count, after)

    def history(self, key: bytes) -> list[KeyRow]:
        """The key's revisions, the newest first: as far back as they can be read, REVISIONS_MAX at most. Empty if it
        does not exist."""
        rows: list[KeyRow] = []
        revision = 0
        while len(rows) < REVISIONS_MAX:
            try:
                answer = self._range(rpc.RangeRequest(key=key, revision=revision, serializable=True))
            except Refused:
                if rows:
                    break  # what is older was compacted
                raise
            if not answer.kvs:
                break
            rows.append(_row(answer.kvs[0]))
            if rows[-1].version == 1:
                break  # before that there was none, or another life of it
            revision = rows[-1].mod_revision - 1
        return rows

    def _range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        with EtcdClient(TIMEOUT_S, self._reach) as client:
            for position in range(len(self._endpoints)):
                try:
                    return client.range(self._endpoints[0], request, self._table).result()
                except Refused:
                    if position == len(self._endpoints) - 1:
                        raise
                    self._endpoints.rotate(-1)
        raise Refused("no endpoint is known")


def _row(kv: kv_pb2.KeyValue) -> KeyRow:
    return KeyRow(kv.key, kv.mod_revision, kv.create_revision, kv.version, kv.lease, kv.value)
