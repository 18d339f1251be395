"""Which cluster takes the writes of replicated tables, as the catalog has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.catalog.rows import Rows, if_changed_at, put
from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from coordinator.shards.own_calls import OwnCalls


class LeadRow:
    """See the module."""

    def __init__(self, calls: OwnCalls) -> None:
        self._rows = Rows(calls)

    async def read(self) -> tuple[catalog.Lead, int]:
        """What it says, and when it was last changed (0 = never), by a linearizable read. Raises what that may, and
        InvariantBroken if it can't be read."""
        _, found = await self._rows.range(catalog.LEAD, b"", linearizable=True)
        for row in found.kvs:
            try:
                return catalog.parse_lead(row.value), row.mod_revision
            except catalog.UnreadableRow as error:
                raise errors.InvariantBroken(
                    f"the catalog's row of who leads can't be read: {error}"
                ) from None
        return catalog.Lead(), 0

    async def write(self, lead: catalog.Lead, *, seen: int) -> bool:
        """Whether the row was written, it having been last changed at this revision."""
        txn = etcd.TxnRequest()
        if_changed_at(txn, catalog.LEAD, seen)
        put(txn, catalog.LEAD, catalog.encode_lead(lead))
        return await self._rows.commit(txn)
