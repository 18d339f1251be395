"""The door of a replica: which room serves a request, and when it is refused instead.

What a request is, COMMANDS says (proto/methods.py). Writes go to the proposals, reads to the reads, and everything else
to the part that names the method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access, access_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardworker.replica.disk_space import DiskSpace
    from shardworker.replica.giving_way import Demand
    from shardworker.replica.history_sweep import HistorySweep
    from shardworker.replica.leadership import Leadership
    from shardworker.replica.levels import Levels
    from shardworker.replica.logins import Logins
    from shardworker.replica.outgoing import Outgoing
    from shardworker.replica.part import Handler, Parts
    from shardworker.replica.proposals import Proposals
    from shardworker.replica.quotas import Quotas
    from shardworker.replica.reads import Reads


_OF_CLIENTS: Final = frozenset({Access.WRITE, Access.READ, Access.PROVEN_LEADER})
_INTERNAL: Final = frozenset(
    method for method, command in COMMANDS.items() if command.access is Access.INTERNAL
)


def is_for_clients(batch: frames.CommandBatch) -> bool:
    """Whether any of these commands is not the shard's own."""
    return any(command.method not in _INTERNAL for command in batch.commands)


class Admission:
    """Takes requests for one replica."""

    def __init__(
        self,
        *,
        outgoing: Outgoing,
        leadership: Leadership,
        disk_space: DiskSpace,
        proposals: Proposals,
        reads: Reads,
        sweep: HistorySweep,
        levels: Levels,
        logins: Logins,
        quotas: Quotas,
        parts: Parts,
        status: Handler,
        demand: Demand,
    ) -> None:
        """status serves REPLICA_STATUS, which is answered whatever is wrong: it says what."""
        self._outgoing = outgoing
        self._leadership = leadership
        self._disk_space = disk_space
        self._proposals = proposals
        self._reads = reads
        self._sweep = sweep
        self._levels = levels
        self._logins = logins
        self._quotas = quotas
        self._parts = parts
        self._demand = demand
        self._handlers: dict[int, Handler] = {frames.REPLICA_STATUS: status}
        for part in parts:
            for method, handler in part.methods().items():
                assert method not in self._handlers, f"method {method} is served twice"
                self._handlers[method] = handler
        beside = {n for n, command in COMMANDS.items() if command.access in (Access.LEADER, Access.REPLICA)}
        assert beside == set(self._handlers), (
            "a method beside the tables is served by nobody, or named nowhere"
        )

    def admit(self, identity: bytes, requests: Iterable[frames.Request]) -> None:
        """Take the requests of one envelope; what is refused is answered at once."""
        fault = self._parts.fault()
        for request in requests:
            try:
                if fault is not None and request.method != frames.REPLICA_STATUS:
                    raise fault
                self._route(identity, request)
            except errors.BoathouseError as error:
                self._outgoing.refuse(identity, request.call, error)

    def _route(self, identity: bytes, request: frames.Request) -> None:
        access = access_of(request)
        if access in _OF_CLIENTS:
            self._demand.notice()
        match access:
            case None:
                raise errors.MethodNotServed(f"method {request.method}")
            case Access.WRITE:
                self._leadership.check_leads()
                self._levels.check_knows(request.method)
                self._disk_space.check_takes(request)
                self._sweep.check_takes(request)
                self._logins.take_down(request)
                self._quotas.check_takes(request)
                self._proposals.admit(identity, request)
            case Access.READ:
                if request.linearizable:
                    self._leadership.check_leads()
                self._reads.admit(identity, request)
            case Access.PROVEN_LEADER:
                self._leadership.check_leads()
                request.linearizable = True
                self._reads.admit(identity, request)
            case Access.INTERNAL:
                raise errors.MethodNotServed(f"method {request.method} is the leader's own")
            case _:
                if access is Access.LEADER:
                    self._leadership.check_leads()
                self._handlers[request.method](identity, request)
