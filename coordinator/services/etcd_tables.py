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
    from coordinator.auth.table_users import TableUsers
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.shards.vigil import LeaderVigil
    from proto.catalog import TableEntry
    from proto.internal import frames_pb2 as frames

TABLE_KEY: Final = "table"
LISTENER_KEY: Final = "boathouse-listener"
"""By which of a table's own listeners a client has come: config.process.listeners.ClientListener.name."""
HAS_LEADER_KEY: Final = "hasleader"
DEFAULT_TABLE: Final = "default"
"""What a client means that says nothing, and whose user means none: an etcd client knows no tables."""


class EtcdTables:
    """Which table an etcd call means, and the header that its answer gets."""

    def __init__(
        self, calls: TableCalls, headers: EtcdHeaders, vigil: LeaderVigil, users: TableUsers
    ) -> None:
        self._calls = calls
        self._users = users
        self._vigil = vigil
        self._headers = headers

    def step_deadline(self, call: Call) -> float:
        """Of what is looked up before a call begins: one that may last must not wait for ever for that."""
        return call.deadline if call.deadline < math.inf else self._calls.step_deadline(call.deadline)

    async def find(self, call: Call, login: str = "") -> TableEntry:
        """The table the call's metadata names, as do the ports of tables, else the one that its user means, or the
        default one. login: the name of who logs in.

        Raises TableNotFound, and NoLeader for a call that insists on a leader while none is known."""
        name = call.metadata.get(TABLE_KEY)
        if name is None:
            name = self._users.table_of(call.metadata, call.identity.common_name, login) or DEFAULT_TABLE
        table = await self._calls.find_table(name, self.step_deadline(call), body_bytes=len(call.body))
        call.table = table.name
        if _insists_on_leader(call) and not self._calls.is_led(table):
            raise errors.NoLeader(f"shard {table.shard}")
        return table

    def is_meant_by_login(self, call: Call, login: str) -> bool:
        """Whether nothing but the name that its client logs in with says which table a call means."""
        return TABLE_KEY not in call.metadata and login in self._users

    def token_for(self, call: Call, table: TableEntry, token: str) -> str:
        """The token as the client of this call, a login, is told it: with the table if he named none."""
        return token if TABLE_KEY in call.metadata else self._users.token_for(table.name, token)

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
