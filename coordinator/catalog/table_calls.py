"""From what is asked of a table to the reply of the right replica."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from coordinator.api.credentials import SYSTEM
from coordinator.shards import request_ids
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from coordinator.shards.streams import PinnedStream
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access

if TYPE_CHECKING:
    from coordinator.api.credentials import Credentials
    from coordinator.catalog.cache import Catalog
    from coordinator.shards.bounds import Bounds
    from coordinator.shards.driver import Driver
    from coordinator.shards.request_ids import RequestIds
    from proto.catalog import TableEntry
    from proto.ids import NodeId


TAKEN_OVER_PAUSE_S: Final = 0.2
"""Between tries to write to a table that its shard takes for a copy still."""


class Asked(NamedTuple):
    """A well-formed request, on its way to a table."""

    table: TableEntry
    method: frames.Method.ValueType
    body: bytes
    deadline: float
    who: Credentials
    """What its client has shown, for what he may do."""
    client_id: str | None = None
    """The client's own name for it, if it is a write."""
    peer: str = ""
    """The client's address, since the streams of one host are counted; empty for calls of our own."""


class Answer(NamedTuple):
    """What came back, and from which table: a name may have got another one while the call was under way."""

    table: TableEntry
    reply: frames.Reply


class Forwarder(Protocol):
    """The leader cluster, for what of tables that are copied from it only that cluster can do."""

    async def write(self, asked: Asked) -> frames.Reply | None:
        """As TableCalls.write(), the copy here being as far when it returns. None: the table is no copy any more, or
        will not be one in a moment, and is written to here."""

    async def ask(self, asked: Asked) -> frames.Reply | None:
        """As TableCalls.read(), of what only a leader knows that takes writes. None: that is answered here."""


class TableCalls:
    """What the services of both APIs do once a request is found well-formed."""

    def __init__(
        self,
        driver: Driver,
        catalog: Catalog,
        ids: RequestIds,
        bounds: Bounds,
        *,
        step_timeout_s: float,
        forwarder: Forwarder | None = None,
    ) -> None:
        """bounds hold for calls that wait for the name of their table, together with those in flight. step_timeout_s:
        see PinnedStream. forwarder: who passes writes of copied tables on, in a follower cluster."""
        self._driver = driver
        self._catalog = catalog
        self._ids = ids
        self._bounds = bounds
        self._step_timeout_s = step_timeout_s
        self._forwarder = forwarder
        self._tables = catalog.tables
        self._shown: dict[int, int] = {}
        """By table id: the newest revision that an answer through this node showed."""
        self._doubted: dict[int, asyncio.Task[None]] = {}
        """By table id: whether the table was taken back, where that is being asked."""

    async def find_table(self, name: str, deadline: float, *, body_bytes: int) -> TableEntry:
        """The table of that name, for a request of that size. Raises TableNotFound, ReadTimedOut, QueueFull."""
        table = self._tables.get(name)
        if table is not None:
            return table
        self._bounds.enter(body_bytes)
        try:
            return await self._catalog.find(name, deadline)
        finally:
            self._bounds.leave(body_bytes)

    async def _renewed(self, asked: Asked) -> Asked:
        """The same of the table of that name as it is now: its shard did not know what to do with it."""
        self._bounds.enter(len(asked.body))
        try:
            return asked._replace(table=await self._catalog.renewed(asked.table, asked.deadline))
        finally:
            self._bounds.leave(len(asked.body))

    def step_deadline(self, deadline: float) -> float:
        """When the next step of a call that may last must be done: within the time of a read, and by its deadline."""
        return min(deadline, self._driver.time() + self._step_timeout_s)

    def term_shown(self, table: TableEntry, term: int) -> int:
        """The term that a header of this table shows."""
        return self._driver.term_shown(table, term)

    def leader_believed(self, table: TableEntry) -> NodeId | None:
        """The leader of the table's shard as last heard."""
        return self._driver.routes(self._driver.shard_of(table)).leader_believed

    def is_led(self, table: TableEntry) -> bool:
        """Whether the table's shard has a leader as far as a client of this node is told."""
        return self._driver.routes(self._driver.shard_of(table)).is_led

    def nearest(self, table: TableEntry) -> NodeId | None:
        """The node whose replica answers what may be stale: this one if it has one."""
        return self._driver.routes(self._driver.shard_of(table)).nearest()

    async def read(self, asked: Asked, *, linearizable: bool) -> Answer:
        """Linearizable: through the leader. Otherwise: from the local replica if there is one, perhaps stale."""
        if asked.table.origin and self._forwarder is not None and linearizable:
            reply = await self._forwarder.ask(asked)
            if reply is not None:
                return Answer(asked.table, reply)
        answer, _ = await self._read(asked, linearizable=linearizable)
        return answer

    async def start(self, asked: Asked, *, linearizable: bool) -> PinnedStream:
        """As read, for an answer in parts; its first part is there when this returns."""
        client = _client_number(asked.peer)
        (table, reply), node = await self._read(asked, linearizable=linearizable, client=client)
        return PinnedStream(self._driver, table, node, reply, step_timeout_s=self._step_timeout_s)

    async def _read(self, asked: Asked, *, linearizable: bool, client: int = 0) -> tuple[Answer, NodeId]:
        try:
            call = _read_call(asked, linearizable=linearizable, client=client)
            if not linearizable:
                # As from a member of etcd, which has applied what it has answered: whoever has written through this
                # node reads it here.
                call.shown_revision = self.shown(asked.table)
            reply = await self._driver.ask(call)
            if reply.revision < call.shown_revision:
                self._doubt(asked.table)
        except errors.InvalidAuthToken:
            if linearizable:
                raise
            # A replica that lags may not know a new token: the leader does.
            call = _read_call(asked, linearizable=True, client=client)
            reply = await self._driver.ask(call)
        except errors.TableNotFound:
            # The name has another table now, or a replica that lags has not heard of this one: the leader has.
            asked = await self._renewed(asked)
            call = _read_call(asked, linearizable=True, client=client)
            reply = await self._driver.ask(call)
        assert call.node is not None
        return self._answer(asked.table, call, reply), call.node

    def shown(self, table: TableEntry) -> int:
        """The newest revision of the table that an answer through this node showed."""
        return self._shown.get(table.id, 0)

    async def revision(self, table: TableEntry, *, who: Credentials) -> int:
        """Where this very table stands, by a linearizable read. Raises TableNotFound, NoLeader, ReadTimedOut."""
        shown = self.shown(table)
        deadline = self.step_deadline(float("inf"))
        asked = Asked(table, frames.TABLE_STATUS, b"", deadline, who)
        found, reply = await self.read(asked, linearizable=True)
        if found.id != table.id:
            raise errors.TableNotFound(f"another table is called {table.name} now")
        if reply.revision < shown:
            # It was taken back. Reads that may be stale need not wait until it is as far again.
            self._shown[table.id] = reply.revision
        return reply.revision

    def _doubt(self, table: TableEntry) -> None:
        """Its replica has waited in vain until it is as far as was shown: it lags, or the table was taken back, and
        each such read would wait as long."""
        if table.id not in self._doubted:
            task = self._doubted[table.id] = asyncio.create_task(self._look(table))
            task.add_done_callback(lambda _: self._doubted.pop(table.id))

    async def _look(self, table: TableEntry) -> None:
        with contextlib.suppress(errors.BoathouseError):  # no leader, say: then nobody knows
            await self.revision(table, who=SYSTEM)

    async def leases_left(self, table: TableEntry) -> frames.LeasesLeft:
        """How long the table's leases live on, as their leader counts. Raises what a linearizable read may."""
        deadline = self.step_deadline(float("inf"))
        asked = Asked(table, frames.LEASES_LEFT, b"", deadline, SYSTEM)
        _, reply = await self.read(asked, linearizable=True)
        return frames.LeasesLeft.FromString(reply.body)

    async def ask_replica(
        self,
        table: TableEntry,
        node: NodeId,
        method: frames.Method.ValueType,
        body: bytes,
        deadline: float,
    ) -> frames.Reply:
        """What the replica of the table's shard on this node answers, and no other. Raises NoLeader if it is out of
        reach, and NotLeader if only the leader can answer."""
        access = COMMANDS[method].access
        return await self._driver.ask(
            ShardCall(self._driver.shard_of(table), node, access, method, table.id, body, deadline=deadline)
        )

    async def write(self, asked: Asked) -> Answer:
        """Applied exactly once, however often it is sent.

        Raises TimedOut if the outcome is unknown at the deadline."""
        table = asked.table
        if table.is_reserved:
            raise errors.InvalidRequest(f"table {table.name} is read-only")
        request_id = self._request_id(asked)
        # Who logs in does so here: tokens are not copied.
        if table.origin and self._forwarder is not None and asked.method != frames.AUTH_LOG_IN:
            reply = await self._forwarder.write(asked)
            if reply is not None:
                self._show(table, reply.revision)
                return Answer(table, reply)
            return await self._write_taken_over(asked, request_id)
        try:
            return await self._write(asked, request_id)
        except errors.TableNotFound:
            renewed = await self._renewed(asked)
            # The refusal may be remembered under the request id. The next one follows from it or from the other
            # table, so that a client which repeats its own id comes to the same two.
            if renewed.table.id == table.id:
                request_id = request_ids.following(request_id)
            else:
                request_id = self._request_id(renewed)
            return await self._write(renewed, request_id)
        except errors.AuthOldRevision:
            if asked.method == frames.AUTH_LOG_IN or not asked.who.may_be_looked_at_again:
                raise
            # Users or permissions changed while it was on its way. What is said now counts, under the next id as above.
            return await self._write(asked, request_ids.following(request_id))
        except errors.TableReplicated:
            if asked.client_id is None or self._forwarder is None:
                raise
            # Perhaps it is remembered from when the table was a copy for a moment longer, and the write was made under
            # a later id.
            return await self._write_taken_over(asked, request_ids.following(request_id))

    async def write_copy(self, asked: Asked) -> frames.Reply:
        """What concerns a copy of the leader cluster's table itself, and is not for that cluster."""
        return (await self._write(asked, self._ids.draw())).reply

    async def _write(self, asked: Asked, request_id: bytes) -> Answer:
        table, method = asked.table, asked.method
        call = ShardCall(
            table.shard,
            LEADER,
            COMMANDS[method].access,
            method,
            table.id,
            asked.body,
            deadline=asked.deadline,
            request_id=request_id,
            who=asked.who,
        )
        return self._answer(table, call, await self._driver.ask(call))

    def _answer(self, table: TableEntry, call: ShardCall, reply: frames.Reply) -> Answer:
        """With the table as it is where the call was answered: it may have moved to another shard."""
        self._show(table, reply.revision)
        if call.shard != table.shard:
            table = self._catalog.moved(table, call.shard)
        return Answer(table, reply)

    def _show(self, table: TableEntry, revision: int) -> None:
        self._shown[table.id] = max(revision, self.shown(table))

    async def _write_taken_over(self, asked: Asked, request_id: bytes) -> Answer:
        """To a table that was a copy, or is one for a moment longer; not if it turns out that it has just become one.
        Each refusal is remembered under its request id, so each try has the next one."""
        while True:
            try:
                return await self._write(asked, request_id)
            except errors.TableReplicated:
                known = self._tables.get(asked.table.name)
                has_given_way = not asked.table.origin and known is not None and known.origin
                if has_given_way or self._driver.time() + TAKEN_OVER_PAUSE_S >= asked.deadline:
                    raise
                request_id = request_ids.following(request_id)
                await asyncio.sleep(TAKEN_OVER_PAUSE_S)

    def _request_id(self, asked: Asked) -> bytes:
        if asked.client_id is None:
            return self._ids.draw()
        return request_ids.from_client(asked.client_id.encode(), asked.table.id)


def _read_call(asked: Asked, *, linearizable: bool, client: int) -> ShardCall:
    """Of a read, or of a transaction that only reads."""
    return ShardCall(
        asked.table.shard,
        LEADER if linearizable else NEAREST,
        Access.READ,
        asked.method,
        asked.table.id,
        asked.body,
        deadline=asked.deadline,
        linearizable=linearizable,
        client=client,
        who=asked.who,
    )


def _client_number(peer: str) -> int:
    """A number for frames.Request.client that is the same for the same host and, in effect, for no other: a client may
    open connections as it likes, each from a port of its own."""
    host = peer.rpartition(":")[0] or peer
    return int.from_bytes(hashlib.blake2b(host.encode(), digest_size=8).digest()) if peer else 0
