"""From a table and a request body to the reply of the right replica."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coordinator.shards import request_ids
from coordinator.shards.dispatch import LEADER, NEAREST
from proto import errors
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from coordinator.catalog.cache import Catalog, Table
    from coordinator.shards.dispatch import Call, Dispatch
    from coordinator.shards.request_ids import RequestIds


class Forward:
    """What the KV services of both APIs do once a request is found well-formed."""

    def __init__(self, dispatch: Dispatch, catalog: Catalog, ids: RequestIds) -> None:
        self._dispatch = dispatch
        self._catalog = catalog
        self._ids = ids
        self._tables = catalog.tables

    async def find_table(self, name: str, deadline: float) -> Table:
        """The table of that name. Raises TableNotFound."""
        return self._tables.get(name) or await self._catalog.find(name, deadline)

    def term_shown(self, table: Table, term: int) -> int:
        """The term that a header of this table shows."""
        return self._dispatch.routes(table.shard).term_shown(term)

    def leader_believed(self, table: Table) -> int:
        """Node id of the leader of the table's shard as last heard, 0 = none."""
        return self._dispatch.routes(table.shard).leader_believed

    async def read(
        self,
        table: Table,
        method: frames.Method.ValueType,
        body: bytes,
        deadline: float,
        *,
        linearizable: bool,
    ) -> frames.Reply:
        """Linearizable: through the leader. Otherwise: from the local replica if there is one, perhaps stale."""
        call = await self.open(table, method, body, deadline, linearizable=linearizable)
        return call.future.result()

    async def open(
        self,
        table: Table,
        method: frames.Method.ValueType,
        body: bytes,
        deadline: float,
        *,
        linearizable: bool,
    ) -> Call:
        """As read, but gives the finished call: who answered matters to a cursor."""
        call = self._dispatch.submit(
            table.shard,
            LEADER if linearizable else NEAREST,
            method,
            table.id,
            body,
            deadline=deadline,
            linearizable=linearizable,
        )
        try:
            await call.future
        except errors.TableNotFound:
            # Either nobody made the table in its shard yet, or a replica that lags has not heard of it.
            table = await self._catalog.mend(table, deadline)
            call = self._dispatch.submit(
                table.shard, LEADER, method, table.id, body, deadline=deadline, linearizable=True
            )
            await call.future
        return call

    async def write(
        self,
        table: Table,
        method: frames.Method.ValueType,
        body: bytes,
        deadline: float,
        client_id: str | None,
    ) -> frames.Reply:
        """Applied exactly once, however often it is sent. client_id: the client's own name for this write.

        Raises TimedOut if the outcome is unknown at the deadline."""
        if table.is_reserved:
            raise errors.InvalidRequest(f"table {table.name} is read-only")
        if client_id is None:
            request_id = self._ids.draw()
        else:
            request_id = request_ids.from_client(client_id.encode(), table.id)
        try:
            return await self._dispatch.submit(
                table.shard, LEADER, method, table.id, body, deadline=deadline, request_id=request_id
            ).future
        except errors.TableNotFound:
            # The refusal may be remembered under the request id. The next id follows from it, so that a client
            # which repeats its own id comes to the same two.
            table = await self._catalog.mend(table, deadline)
            request_id = request_ids.following(request_id)
            return await self._dispatch.submit(
                table.shard, LEADER, method, table.id, body, deadline=deadline, request_id=request_id
            ).future

    async def next_part(self, opened: Call, table: Table, *, cursor: int, timeout_s: float) -> frames.Reply:
        """The next part of an iteration. Raises CursorNotFound if its replica or the cursor is gone."""
        return await self._cursor_call(opened, table, frames.CURSOR_NEXT, cursor, timeout_s).future

    def close_cursor(self, opened: Call, table: Table, *, cursor: int, timeout_s: float) -> None:
        """Tell the replica that nobody will read on. Its answer is of no interest."""
        try:
            call = self._cursor_call(opened, table, frames.CURSOR_CLOSE, cursor, timeout_s)
        except errors.BoathouseError:
            return  # idle cursors end by themselves
        call.future.add_done_callback(lambda future: future.cancelled() or future.exception())

    def _cursor_call(
        self, opened: Call, table: Table, method: frames.Method.ValueType, cursor: int, timeout_s: float
    ) -> Call:
        deadline = asyncio.get_running_loop().time() + timeout_s
        return self._dispatch.submit(
            table.shard, opened.node, method, table.id, b"", deadline=deadline, cursor=cursor
        )
