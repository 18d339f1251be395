"""Which table a call of the etcd API means, and the header of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto import errors

if TYPE_CHECKING:
    from coordinator.api.call import Call
    from coordinator.api.headers import EtcdHeaders
    from coordinator.catalog.cache import Table
    from coordinator.shards.table_calls import Forward
    from proto.internal import frames_pb2 as frames

TABLE_KEY: Final = "table"
HAS_LEADER_KEY: Final = "hasleader"
DEFAULT_TABLE: Final = "default"
"""What a client means that says nothing: an etcd client knows no tables."""


class EtcdTables:
    """Which table an etcd call means, and the header that its answer gets."""

    def __init__(self, forward: Forward, headers: EtcdHeaders) -> None:
        self._forward = forward
        self._headers = headers

    async def find(self, call: Call) -> Table:
        """The table the call's metadata names, or the default one.

        Raises TableNotFound, and NoLeader for a call that insists on a leader while none is known."""
        table = await self._forward.find_table(call.metadata.get(TABLE_KEY, DEFAULT_TABLE), call.deadline)
        if call.metadata.get(HAS_LEADER_KEY) == "true" and not self._forward.leader_believed(table):
            raise errors.NoLeader(f"shard {table.shard}")
        return table

    def term_shown(self, table: Table, term: int) -> int:
        """The term as clients may see it: it never goes down."""
        return self._forward.term_shown(table, term)

    def header(self, table: Table, *, revision: int, term: int) -> bytes:
        """Field 1 of the answer."""
        return self._headers.encode(revision=revision, term=self._forward.term_shown(table, term))

    def with_header(self, table: Table, reply: frames.Reply) -> bytes:
        """The whole answer to a call that a worker answered."""
        return self.header(table, revision=reply.revision, term=reply.term) + reply.body
