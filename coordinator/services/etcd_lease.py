"""etcdserverpb.Lease."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from coordinator.services.decoding import decode
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.services.etcd_tables import EtcdTables
    from proto.catalog import TableEntry

KEEP_ALIVES_MAX: Final = 64
"""Of one stream, on their way at a time: all that have come since the last ones were answered. A client that keeps
thousands of leases alive sends them all at once."""


class EtcdLease:
    """LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases."""

    def __init__(
        self, calls: TableCalls, tables: EtcdTables, authenticator: Authenticator, *, ttl_s_min: int
    ) -> None:
        """ttl_s_min: a lease that is asked to live for less lives so long; see config.RaftConfig."""
        self._calls = calls
        self._tables = tables
        self._authenticator = authenticator
        self._ttl_s_min = ttl_s_min

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/etcdserverpb.Lease/LeaseGrant": self.grant,
            "/etcdserverpb.Lease/LeaseRevoke": self.revoke,
            "/etcdserverpb.Lease/LeaseKeepAlive": self.keep_alive,
            "/etcdserverpb.Lease/LeaseTimeToLive": self.time_to_live,
            "/etcdserverpb.Lease/LeaseLeases": self.leases,
        }

    async def grant(self, call: Call) -> bytes:
        """A new lease, under the client's id or one that the shard picks. Raises LeaseTTLTooLarge, LeaseExists."""
        request = decode(etcd.LeaseGrantRequest.FromString, call.body)
        request.TTL = max(request.TTL, self._ttl_s_min)
        return await self._write(frames.LEASE_GRANT, call, request.SerializeToString())

    async def revoke(self, call: Call) -> bytes:
        """Ends a lease and deletes its keys. Raises LeaseNotFound."""
        decode(etcd.LeaseRevokeRequest.FromString, call.body)
        return await self._write(frames.LEASE_REVOKE, call, call.body)

    async def time_to_live(self, call: Call) -> bytes:
        """What is left of a lease; -1 if there is none. Raises NoLeader."""
        decode(etcd.LeaseTimeToLiveRequest.FromString, call.body)
        table = await self._tables.find(call)
        return await self._ask_leader(call, table, frames.LEASE_TIME_TO_LIVE, call.body, call.deadline)

    async def leases(self, call: Call) -> bytes:
        """All leases of the table, the one that ends first coming first. Raises NoLeader."""
        decode(etcd.LeaseLeasesRequest.FromString, call.body)
        table = await self._tables.find(call)
        return await self._ask_leader(call, table, frames.LEASE_LEASES, call.body, call.deadline)

    async def keep_alive(self, call: Call) -> None:
        """One answer for each request, in order, until the client has no more of them. Raises NoLeader."""
        table = await self._tables.find(call)
        async with self._tables.while_led(call, table):
            await self._answer_all(call, table)

    async def _answer_all(self, call: Call, table: TableEntry) -> None:
        while messages := await call.take_messages(KEEP_ALIVES_MAX):
            if len(messages) == 1:
                await call.send(await self._renew(call, table, messages[0]))
            else:
                await self._answer_together(call, table, messages)

    async def _answer_together(self, call: Call, table: TableEntry, messages: Sequence[bytes]) -> None:
        outcomes = await asyncio.gather(
            *[self._renew(call, table, message) for message in messages], return_exceptions=True
        )
        answers: list[bytes] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                if answers:
                    await call.send_all(answers)
                raise outcome
            answers.append(outcome)
        await call.send_all(answers)

    async def _renew(self, call: Call, table: TableEntry, message: bytes) -> bytes:
        decode(etcd.LeaseKeepAliveRequest.FromString, message)
        deadline = self._calls.step_deadline(call.deadline)
        return await self._ask_leader(call, table, frames.LEASE_KEEP_ALIVE, message, deadline)

    async def _ask_leader(
        self, call: Call, table: TableEntry, method: frames.Method.ValueType, body: bytes, deadline: float
    ) -> bytes:
        """The answer of a leader that has proved that it leads. Raises NoLeader if none is known at the deadline."""
        try:
            asked = self._authenticator.asked(call, table, method, body=body, deadline=deadline)
            table, reply = await self._calls.read(asked, linearizable=True)
        except errors.ReadTimedOut:
            if self._calls.leader_believed(table) is None:
                raise errors.NoLeader(f"shard {table.shard}") from None
            raise
        return self._tables.with_header(table, reply)

    async def _write(self, method: frames.Method.ValueType, call: Call, body: bytes) -> bytes:
        table = await self._tables.find(call)
        table, reply = await self._calls.write(self._authenticator.asked(call, table, method, body=body))
        return self._tables.with_header(table, reply)
