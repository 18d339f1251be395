"""Which table a call of the etcd API means, and the header of its answer."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final

from proto import errors

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from coordinator.api.call import Call
    from coordinator.api.headers import EtcdHeaders
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.shards.vigil import LeaderVigil
    from proto.catalog import TableEntry
    from proto.internal import frames_pb2 as frames

TABLE_KEY: Final = "table"
LISTENER_KEY: Final = "boathouse-listener"
"""By which of a table's own listeners a client has come: config.process.listeners.ClientListener.name."""
HAS_LEADER_KEY: Final = "hasleader"
DEFAULT_TABLE: Final = "default"
"""What a client means that says nothing: an etcd client knows no tables."""


class EtcdTables:
    """Which table an etcd call means, and the header that its answer gets."""

    def __init__(self, calls: TableCalls, headers: EtcdHeaders, vigil: LeaderVigil) -> None:
        self._calls = calls
        self._vigil = vigil
        self._headers = headers

    def step_deadline(self, call: Call) -> float:
        """Of what is looked up before a call begins: one that may last must not wait for ever for that."""
        return call.deadline if call.deadline < math.inf else self._calls.step_deadline(call.deadline)

    async def find(self, call: Call) -> TableEntry:
        """The table the call's metadata names, or the default one.

        Raises TableNotFound, and NoLeader for a call that insists on a leader while none is known."""
        table = await self._calls.find_table(
            call.metadata.get(TABLE_KEY, DEFAULT_TABLE), self.step_deadline(call), body_bytes=len(call.body)
        )
        call.table = table.name
        if _insists_on_leader(call) and not self._calls.is_led(table):
            raise errors.NoLeader(f"shard {table.shard}")
        return table

    def while_led(self, call: Call, table: TableEntry) -> AbstractAsyncContextManager[None]:
        """What a stream does; one that insists on a leader ends by NoLeader once there has been none for too long."""
        return self._vigil.while_led(table) if _insists_on_leader(call) else contextlib.nullcontext()

    def term_shown(self, table: TableEntry, term: int) -> int:
        """The term as clients may see it: it never goes down."""
        return self._calls.term_shown(table, term)

    def header(self, table: TableEntry, *, revision: int, term: int) -> bytes:
        """Field 1 of the answer."""
        return self._headers.encode(revision=revision, term=self._calls.term_shown(table, term))

    def with_header(self, table: TableEntry, reply: frames.Reply) -> bytes:
        """The whole answer to a call that a worker answered."""
        return self.header(table, revision=reply.revision, term=reply.term) + reply.body


def _insists_on_leader(call: Call) -> bool:
    return call.metadata.get(HAS_LEADER_KEY) == "true"
