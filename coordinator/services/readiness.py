"""/readyz/node: whether clients should be sent to this node, and the next one of a rolling update may be stopped.

It asks for nothing that the node can't help: a shard that nobody leads makes no node unready, or all of them would
leave their service for it, with the shards that serve. A node that is cut off knows no leader of any shard.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from coordinator.front.http_pages import Request, Response
from coordinator.shards.replica_status import OTHERS_TIMEOUT_S
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from config.topology import Topology
    from coordinator.front.http_pages import Page
    from coordinator.shards.driver import Driver
    from coordinator.shards.replica_status import ReplicaStatuses
    from proto.ids import NodeId, ShardId
    from proto.internal import frames_pb2 as frames

TRAILS_ENTRIES: Final = 1_000
"""As a restart has it before it goes on, and `boathouse doctor`."""


class Readiness:
    """Of one node."""

    def __init__(
        self,
        here: NodeId,
        topology: Topology,
        driver: Driver,
        statuses: ReplicaStatuses,
        knows_tables: Callable[[], bool],
    ) -> None:
        self._here = here
        self._topology = topology
        self._driver = driver
        self._statuses = statuses
        self._knows_tables = knows_tables

    @property
    def pages(self) -> dict[tuple[str, str], Page]:
        """By method and path."""
        return {("GET", "/readyz/node"): self.page}

    async def page(self, request: Request) -> Response:
        """As etcd's /readyz: "ok", or what was looked at and found. `verbose` lists it in any case."""
        found = await self._found()
        lines = [
            f"[-]{what} failed: {lacks}\n" if lacks else f"[+]{what} ok\n" for what, lacks in found.items()
        ]
        if any(found.values()):
            return Response(status=HTTPStatus.SERVICE_UNAVAILABLE, body="".join(lines).encode())
        verbose = "verbose" in parse_qs(request.query, keep_blank_values=True)
        return Response(body="".join([*(lines if verbose else ()), "ok\n"]).encode())

    async def _found(self) -> Mapping[str, str]:
        """By what was looked at, what it lacks; empty for nothing."""
        mine = list(self._topology.shards_on(self._here))
        elsewhere = [shard for shard in self._topology.shards() if shard not in mine]
        statuses, committed = await asyncio.gather(
            self._statuses.on(self._here, mine), asyncio.gather(*map(self._committed, mine))
        )
        is_led = any(status is not None and status.leader for status in statuses.values())
        is_led |= any(index is not None for index in committed)
        is_led |= any(self._driver.routes(shard).leader_believed for shard in elsewhere)
        return {
            "tables": "" if self._knows_tables() else "which tables there are has not been read yet",
            "leaders": "" if is_led else "no shard has a leader, as far as this node knows",
            **{
                f"shard-{shard}": self._lacks(statuses[shard], index)
                for shard, index in zip(mine, committed, strict=True)
            },
        }

    async def _committed(self, shard: ShardId) -> int | None:
        """Up to which entry the shard has decided, as its leader on another node says; None if no such one answers."""
        leader = self._driver.routes(shard).leader_believed
        if leader is None or leader == self._here:
            return None
        try:
            status = await self._statuses.ask(shard, leader, timeout_s=OTHERS_TIMEOUT_S)
        except errors.BoathouseError:
            return None
        return status.commit_index if status.leader == leader else None

    def _lacks(self, status: frames.ReplicaStatus | None, committed: int | None) -> str:
        if status is None:
            return "it does not answer"
        if status.fault:
            return status.fault
        if committed is not None and not status.leader:
            return "it knows no leader, though there is one"
        if self._here not in status.voters:
            return "it has no vote yet"
        behind = 0 if committed is None else committed - status.applied_index
        return f"it trails its leader by {behind:,} entries" if behind > TRAILS_ENTRIES else ""
