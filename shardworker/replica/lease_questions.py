"""What is asked about leases: how long one still lives, what hangs on it, which there are.

Only the leader knows it, because it counts (leases.py); nothing is changed by the answer. What looks at many leases or
keys does so beside the loop.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import Result
from shardworker.replica.leases import parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shardworker.machine.auth import Caller
    from shardworker.replica.leases import LeaseClock
    from shardworker.replica.long_reads import LongReads
    from shardworker.replica.part import Handler, ReplicaContext

LISTED_LIGHT: Final = 1_000
"""A longer list is sorted beside the loop."""


class LeaseQuestions:
    """Those that one replica answers while it leads."""

    def __init__(self, context: ReplicaContext, clock: LeaseClock, long_reads: LongReads) -> None:
        self._store = context.store
        self._machine = context.machine
        self._outgoing = context.outgoing
        self._clock = clock
        self._long_reads = long_reads

    @property
    def openers(self) -> Mapping[int, Handler]:
        """As of LeaseClock."""
        return {
            frames.LEASE_TIME_TO_LIVE: self._time_to_live,
            frames.LEASE_LEASES: self._list,
            frames.LEASES_LEFT: self._tell_left,
        }

    def _time_to_live(self, identity: bytes, request: frames.Request) -> None:
        """Raises PermissionDenied for who asks for keys and may not read all of them."""
        table = self._clock.table(request)
        asked = parsed(etcd.LeaseTimeToLiveRequest(), request.body)
        caller = self._clock.caller(request)
        if asked.keys:
            caller.check_lease_readable(asked.ID)
        lease = self._machine.leases.get(table.id, asked.ID)
        if lease is None:
            gone = etcd.LeaseTimeToLiveResponse(ID=asked.ID, TTL=-1).SerializeToString()
            self._outgoing.answer(identity, request.call, Result(table.revision, gone))
            return
        response = etcd.LeaseTimeToLiveResponse(
            ID=lease.id, TTL=self._clock.remaining_s(table.id, lease), grantedTTL=lease.ttl_s
        )
        if not asked.keys:
            self._outgoing.answer(
                identity, request.call, Result(table.revision, response.SerializeToString())
            )
            return
        self._long_reads.submit(
            identity,
            partial(self._with_keys, table.id, table.revision, response),
            partial(self._outgoing.answer, identity, request.call),
        )

    def _with_keys(self, table_id: int, revision: int, response: etcd.LeaseTimeToLiveResponse) -> Result:
        """On a thread."""
        connection = self._store.reader()
        try:
            response.keys.extend(self._machine.lease_keys(connection, table_id, response.ID))
        finally:
            self._store.close_reader(connection)
        return Result(revision, response.SerializeToString())

    def _list(self, identity: bytes, request: frames.Request) -> None:
        """The one that ends first comes first. Raises PermissionDenied for who may not read all keys of all."""
        table = self._clock.table(request)
        parsed(etcd.LeaseLeasesRequest(), request.body)
        caller = self._clock.caller(request)
        found = [
            (self._clock.ends_at(table.id, lease), lease.id)
            for lease in self._machine.leases.of_table(table.id).values()
            if lease.ttl_s
        ]
        answer = partial(self._outgoing.answer, identity, request.call)
        if caller.is_limited:
            self._long_reads.submit(
                identity, partial(self._list_for, caller, table.id, table.revision, found), answer
            )
        elif len(found) > LISTED_LIGHT:
            self._long_reads.submit(identity, partial(_listed, table.revision, found), answer)
        else:
            answer(_listed(table.revision, found))

    def _list_for(
        self, caller: Caller, table_id: int, revision: int, found: Iterable[tuple[int, int]]
    ) -> Result:
        """On a thread, since all keys of all leases are looked at."""
        connection = self._store.reader()
        try:
            for key in self._machine.attached_keys(connection, table_id):
                caller.check_read(key)
        except errors.BoathouseError as error:
            return Result(revision, b"", error)
        finally:
            self._store.close_reader(connection)
        return _listed(revision, found)

    def _tell_left(self, identity: bytes, request: frames.Request) -> None:
        """Of all leases of a table, for the cluster's own use."""
        table = self._clock.table(request)
        answer = frames.LeasesLeft()
        for lease in self._machine.leases.of_table(table.id).values():
            if lease.ttl_s:
                answer.leases.add(id=lease.id, left_s=self._clock.remaining_s(table.id, lease))
        self._outgoing.answer(identity, request.call, Result(table.revision, answer.SerializeToString()))


def _listed(revision: int, found: Iterable[tuple[int, int]]) -> Result:
    response = etcd.LeaseLeasesResponse()
    for _, lease_id in sorted(found):
        response.leases.add(ID=lease_id)
    return Result(revision, response.SerializeToString())
