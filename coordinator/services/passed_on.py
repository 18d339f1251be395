"""What a follower cluster passes on, before it is done: it may be meant for another cluster.

One that was made anew answers under the name, at the endpoints and for the tables of the one before. A copy would never
come to have what was written there, and what it has was never there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.replication.token_key import MEANT_KEY
from proto.methods import METHODS, Access

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from coordinator.api.call import Call, Handler
    from coordinator.catalog.identities import Meant

_PASSED_ON: Final = frozenset({Access.WRITE, Access.PROVEN_LEADER})
"""Reads are answered by copies."""


def for_meant_cluster(path: str, handler: Handler, meant: Meant) -> Handler:
    """The handler of this path, which is not for calls to another cluster."""
    if METHODS[path].access not in _PASSED_ON:
        return handler

    def checked(call: Call) -> Awaitable[bytes | None]:
        identity = call.metadata.get(MEANT_KEY)
        # Most calls come from no cluster: they wait for nothing here.
        return handler(call) if identity is None else _checked(call, handler, meant, identity)

    return checked  # type: ignore[return-value]  # it answers as the handler does


async def _checked(call: Call, handler: Handler, meant: Meant, identity: str) -> bytes | None:
    await meant.check(identity)
    return await handler(call)
