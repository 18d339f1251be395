"""What Observe makes of a watch whose answers come late, or several at a time."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any, cast

import pytest

from coordinator.api.call import Route
from coordinator.api.local_call import LocalCall
from coordinator.services.etcd_calls import RANGE, WATCH, EtcdCalls
from coordinator.services.etcd_election import EtcdElection
from proto.etcd import election_pb2 as election
from proto.etcd import kv_pb2 as kv
from proto.etcd import rpc_pb2 as etcd
from tests.unit.coordinator.running import in_loop

if TYPE_CHECKING:
    from coordinator.api.call import Call, Handler

BEFORE = 9
PUT_A = kv.Event(kv=kv.KeyValue(key=b"E/a", value=b"1", create_revision=10, mod_revision=10))
GONE_A = kv.Event(type=kv.Event.DELETE, kv=kv.KeyValue(key=b"E/a", mod_revision=11))
PUT_B = kv.Event(kv=kv.KeyValue(key=b"E/b", value=b"2", create_revision=12, mod_revision=12))
HISTORY = (PUT_A, GONE_A, PUT_B)


class Table:
    """As KV and Watch of a table whose history happens between Observe's first look and its first watch."""

    def __init__(self, *, replayed: bool) -> None:
        """replayed: whether a watch is told of each event by itself, or of all at once. Either way its answers show
        the newest revision."""
        self._replayed = replayed
        self._happened = False

    @property
    def calls(self) -> EtcdCalls:
        return EtcdCalls({RANGE: _route(self.range), WATCH: _route(self.watch)})

    async def range(self, _call: Call) -> bytes:
        if not self._happened:
            return etcd.RangeResponse(header=etcd.ResponseHeader(revision=BEFORE)).SerializeToString()
        header = etcd.ResponseHeader(revision=PUT_B.kv.mod_revision)
        return etcd.RangeResponse(header=header, kvs=[PUT_B.kv]).SerializeToString()

    async def watch(self, call: Call) -> None:
        self._happened = True
        async for message in call.messages():
            wanted = etcd.WatchRequest.FromString(message).create_request
        await call.send(etcd.WatchResponse(created=True).SerializeToString())
        events = [event for event in HISTORY if _is_wanted(wanted, event)]
        header = etcd.ResponseHeader(revision=HISTORY[-1].kv.mod_revision)
        for part in [[event] for event in events] if self._replayed else [events]:
            await call.send(etcd.WatchResponse(header=header, events=part).SerializeToString())
        await asyncio.Event().wait()


def _route(handler: Handler) -> Route:
    """For calls within this process, which ask it for nothing else."""
    return Route(path="", method=cast("Any", None), api=cast("Any", None), handler=handler, timeout_s=None)


def _is_wanted(request: etcd.WatchCreateRequest, event: kv.Event) -> bool:
    key = event.kv.key
    named = request.key <= key < request.range_end if request.range_end else key == request.key
    filtered = event.type == kv.Event.DELETE and etcd.WatchCreateRequest.NODELETE in request.filters
    return named and event.kv.mod_revision >= request.start_revision and not filtered


@pytest.mark.parametrize("replayed", [True, False], ids=["replayed", "batched"])
@in_loop
async def test_the_end_of_a_leader_that_came_and_went_is_not_missed(replayed: bool) -> None:
    """The answer that tells of the first candidate shows a revision at which he was gone."""
    elections = EtcdElection(Table(replayed=replayed).calls, asyncio.get_running_loop())
    request = election.LeaderRequest(name=b"E").SerializeToString()
    call = LocalCall((request,), metadata={}, deadline=math.inf, peer="")
    told: list[election.LeaderResponse] = []
    async with contextlib.aclosing(call.answers(_route(elections.observe))) as answers:
        while len(told) < 2:
            told.append(election.LeaderResponse.FromString(await asyncio.wait_for(anext(answers), 5)))
    assert [(one.kv.key, one.header.revision) for one in told] == [(b"E/a", 10), (b"E/b", 12)]
