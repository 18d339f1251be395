"""What every revision of the table changed, from the first replica that applied it: what watchers are judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proto.etcd import kv_pb2, rpc_pb2
from tests.simulation.clients import TABLE_ID

if TYPE_CHECKING:
    import apsw

    from shardworker.machine import StateMachine


class Witness:
    """From the table's beginning on."""

    def __init__(self) -> None:
        self.truth: dict[int, list[kv_pb2.Event]] = {}
        """By revision, with the pairs of the revision before."""
        self.compacted = 0
        """Of what is below, a pair before may be gone."""
        self._revision = 1
        self._live: dict[bytes, kv_pb2.KeyValue] = {}

    def applied(self, machine: StateMachine, connection: apsw.Connection) -> None:
        """Some replica has applied an entry."""
        table = machine.tables.get(TABLE_ID)
        if table is None:
            return
        self.compacted = max(self.compacted, table.floor)
        if table.revision <= self._revision:
            return
        rows: Any = connection.execute(table.sql.history[False], ((self._revision + 1) << 24,))
        for id_, key, stored, _ in rows:
            self._add(id_ >> 24, key, stored)
        for revision in range(self._revision + 1, table.revision + 1):
            for event in self.truth.get(revision, ()):
                if event.type == kv_pb2.Event.PUT:
                    self._live[event.kv.key] = event.kv
                else:
                    self._live.pop(event.kv.key, None)
        self._revision = table.revision

    def _add(self, revision: int, key: bytes, stored: bytes | None) -> None:
        before = self._before(revision, key)
        if stored is None:
            pair = kv_pb2.KeyValue(key=key, mod_revision=revision)
            event = kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=pair, prev_kv=before)
        else:
            (pair,) = rpc_pb2.RangeResponse.FromString(stored).kvs
            is_new = pair.create_revision == revision
            event = kv_pb2.Event(kv=pair, prev_kv=None if is_new else before)
        self.truth.setdefault(revision, []).append(event)

    def _before(self, revision: int, key: bytes) -> kv_pb2.KeyValue | None:
        """As of the revision before: what was live, changed by what this entry did since."""
        pair = self._live.get(key)
        for earlier in range(self._revision + 1, revision):
            for event in self.truth.get(earlier, ()):
                if event.kv.key == key:
                    pair = event.kv if event.type == kv_pb2.Event.PUT else None
        return pair
