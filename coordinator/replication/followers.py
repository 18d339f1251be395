"""Clusters that have followed this one, and are to be forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from coordinator.replication.copies import WRITE_S
from coordinator.replication.leader import reason_of
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proto.catalog import TableEntry

ASKED_MAX: Final = 16
"""Tables at once: those of a shard without a leader must not hold up all the others."""


class Shards(Protocol):
    """Who is asked: OwnCalls."""

    async def ask(
        self, access: Access, method: frames.Method.ValueType, table: TableEntry, body: bytes, time_s: float
    ) -> frames.Reply: ...


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What came of it. By names of tables."""

    tables: list[str]
    """For which nothing is kept any more."""
    failed: Mapping[str, str]
    """Why it is not known of these."""


async def forget(shards: Shards, entries: Iterable[TableEntry], follower: str) -> Forgotten:
    """Keep nothing for that cluster any more, of as many of these tables as can be."""
    slots = asyncio.Semaphore(ASKED_MAX)
    tables: list[str] = []
    failed: dict[str, str] = {}

    async def forget_in(entry: TableEntry) -> None:
        body = frames.FollowerPosition(table_id=entry.id, follower=follower, gone=True).SerializeToString()
        try:
            async with slots:
                await shards.ask(Access.WRITE, frames.FOLLOWER_POSITION, entry, body, WRITE_S)
        except (errors.InvalidRequest, errors.TableNotFound):
            return  # it did not follow this one, or that was deleted just now
        except errors.BoathouseError as error:
            failed[entry.name] = reason_of(error)
        else:
            tables.append(entry.name)

    await asyncio.gather(*map(forget_in, entries))
    return Forgotten(sorted(tables), failed)
