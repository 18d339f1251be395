"""v3electionpb.Election: https://etcd.io/docs/v3.5/dev-guide/api_concurrency_reference_v3/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.services.contention import (
    SESSION_TTL_S,
    Leavers,
    created_at,
    first_under,
    get,
    key_of,
    leave_unless_first,
    put,
    wait_for_predecessors,
)
from coordinator.services.decoding import decode
from coordinator.services.etcd_calls import prefix_end
from proto import errors
from proto.etcd import election_pb2 as election
from proto.etcd import kv_pb2 as kv
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    import asyncio

    from coordinator.api.call import Call, Handler
    from coordinator.services.etcd_calls import EtcdCalls


class EtcdElection:
    """Campaign, Proclaim, Leader, Observe, Resign."""

    def __init__(self, calls: EtcdCalls, loop: asyncio.AbstractEventLoop) -> None:
        self._calls = calls
        self._leavers = Leavers(loop)

    @property
    def handlers(self) -> dict[str, Handler]:
        """What this serves, by path."""
        return {
            "/v3electionpb.Election/Campaign": self.campaign,
            "/v3electionpb.Election/Proclaim": self.proclaim,
            "/v3electionpb.Election/Leader": self.leader,
            "/v3electionpb.Election/Observe": self.observe,
            "/v3electionpb.Election/Resign": self.resign,
        }

    async def campaign(self, call: Call) -> bytes:
        """Waits until the candidate leads. One who campaigns again under his lease changes his value.

        Raises NotElectionLeader if the place in line of a call that is repeated is gone."""
        request = decode(election.CampaignRequest.FromString, call.body)
        lease = request.lease or await self._calls.grant(call, step="grant", ttl_s=SESSION_TTL_S)
        prefix = request.name + b"/"
        key = key_of(prefix, lease)
        entered = await self._calls.txn(
            call,
            etcd.TxnRequest(
                compare=[created_at(key, 0)],
                success=[put(key, request.value, lease)],
                failure=[get(etcd.RangeRequest(key=key))],
            ),
            step="enter",
        )
        leader = election.LeaderKey(name=request.name, key=key, rev=entered.header.revision, lease=lease)
        try:
            if not entered.succeeded:
                standing = entered.responses[0].response_range.kvs[0]
                leader.rev = standing.create_revision
                if standing.value != request.value:
                    await self._put(call, leader, request.value)
            await wait_for_predecessors(self._calls, call, prefix, leader.rev)
        except BaseException:
            leave = _resignation(leader)
            if self._calls.may_be_repeated(call):
                leave = leave_unless_first(prefix, leader.rev, etcd.RequestOp(request_txn=leave))
            self._leavers.leave(self._calls.txn(call, leave, step="leave", deadline=self._leavers.deadline()))
            raise
        if self._calls.may_be_repeated(call):
            own = await self._calls.range(call, etcd.RangeRequest(key=key))
            if not own.kvs or own.kvs[0].create_revision != leader.rev:
                raise errors.NotElectionLeader
        return election.CampaignResponse(header=entered.header, leader=leader).SerializeToString()

    async def proclaim(self, call: Call) -> bytes:
        """A leader's new value, under the lease that he names; under a new one if he names none, as his campaign would
        be. Raises NotElectionLeader if he leads no longer, LeaderKeyMissing."""
        request = decode(election.ProclaimRequest.FromString, call.body)
        if not request.HasField("leader"):
            raise errors.LeaderKeyMissing
        leader = request.leader
        leader.lease = leader.lease or await self._calls.grant(call, step="grant", ttl_s=SESSION_TTL_S)
        header = await self._put(call, leader, request.value)
        return election.ProclaimResponse(header=header).SerializeToString()

    async def leader(self, call: Call) -> bytes:
        """Who leads. Raises NoElectionLeader if nobody does."""
        request = decode(election.LeaderRequest.FromString, call.body)
        found = await self._calls.range(call, first_under(request.name + b"/"))
        if not found.kvs:
            raise errors.NoElectionLeader
        return election.LeaderResponse(header=found.header, kv=found.kvs[0]).SerializeToString()

    async def observe(self, call: Call) -> None:
        """Sends who leads, each new value of his, and then whoever leads next."""
        request = decode(election.LeaderRequest.FromString, call.body)
        prefix = request.name + b"/"
        while True:
            found = await self._calls.range(call, first_under(prefix))
            current = election.LeaderResponse(header=found.header)
            if found.kvs:
                current.kv.CopyFrom(found.kvs[0])
            elif not await self._wait_for_candidate(call, prefix, current):
                continue
            await call.send(current.SerializeToString())
            await self._follow(call, current)

    async def resign(self, call: Call) -> bytes:
        """Leads no longer; who did not lead is told nothing else. Raises LeaderKeyMissing."""
        request = decode(election.ResignRequest.FromString, call.body)
        if not request.HasField("leader"):
            raise errors.LeaderKeyMissing
        done = await self._calls.txn(call, _resignation(request.leader), step="resign")
        return election.ResignResponse(header=done.header).SerializeToString()

    async def _put(self, call: Call, leader: election.LeaderKey, value: bytes) -> etcd.ResponseHeader:
        done = await self._calls.txn(
            call,
            etcd.TxnRequest(
                compare=[created_at(leader.key, leader.rev)],
                success=[put(leader.key, value, leader.lease)],
            ),
            step="proclaim",
        )
        if not done.succeeded:
            raise errors.NotElectionLeader
        return done.header

    async def _wait_for_candidate(self, call: Call, prefix: bytes, found: election.LeaderResponse) -> bool:
        """Fills in the first key that appears after what was found, and the revision at which it did: what the answer's
        header shows may be later, and the key gone by then. False if somebody has to look again."""
        request = etcd.WatchCreateRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            start_revision=found.header.revision + 1,
            filters=[etcd.WatchCreateRequest.NODELETE],
        )
        async with self._calls.watch(call, request) as responses:
            async for response in responses:
                for event in response.events:
                    found.header.CopyFrom(response.header)
                    found.header.revision = event.kv.mod_revision
                    found.kv.CopyFrom(event.kv)
                    return True
        return False

    async def _follow(self, call: Call, current: election.LeaderResponse) -> None:
        """Sends the leader's new values until his key is gone, or somebody has to look again."""
        request = etcd.WatchCreateRequest(key=current.kv.key, start_revision=current.header.revision + 1)
        async with self._calls.watch(call, request) as responses:
            async for response in responses:
                for event in response.events:
                    if event.type == kv.Event.DELETE:
                        return
                    value = election.LeaderResponse(header=response.header, kv=event.kv)
                    await call.send(value.SerializeToString())


def _resignation(leader: election.LeaderKey) -> etcd.TxnRequest:
    delete = etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest(key=leader.key))
    return etcd.TxnRequest(compare=[created_at(leader.key, leader.rev)], success=[delete])
