"""Which tables there are and which of them are served, as the health service asks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from proto import errors

if TYPE_CHECKING:
    from coordinator.catalog.table_calls import TableCalls
    from proto.catalog import TableEntry


class ServingTables:
    """See coordinator.services.health.Tables."""

    def __init__(self, calls: TableCalls) -> None:
        self._calls = calls

    async def find(self, name: str) -> TableEntry | None:
        """Without a question to any shard if this coordinator has used the table before."""
        try:
            deadline = self._calls.step_deadline(math.inf)
            return await self._calls.find_table(name, deadline, body_bytes=len(name))
        except errors.TableNotFound:
            return None

    def is_led(self, table: TableEntry) -> bool:
        """As clients are told that insist on a leader."""
        return self._calls.is_led(table)
