"""What of copied tables a follower cluster passes on to its leader cluster: writes, and all that concerns leases, which
live where the leader is.

A write is answered once the copy has it, so whoever writes here reads here what he has written: the replica that the
answering node reads from, or, if that lags, the leader of the copy's shard; then a read waits for that replica. It
carries a request id, and so goes to the next coordinator after a failure without being applied twice. Of a cluster that
speaks no replication but Regatta's, which knows no request ids, no other server is asked once one may have made it.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from coordinator.api import outcomes
from coordinator.catalog.source import LAGS_S
from coordinator.replication.token_key import MEANT_KEY, PASSED_ON_KEY, VOUCHED_KEY
from coordinator.shards.changes import ask_for_changes
from coordinator.shards.request_ids import METADATA_KEY
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto import errors
from proto.catalog import REGATTA
from proto.codes import Code
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import METHODS, Access, ApiName, Kind
from proto.regatta import regatta_pb2 as regatta

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from coordinator.catalog.table_calls import Asked
    from coordinator.replication.channels import LeaderChannels
    from coordinator.replication.leading import LeadWatch
    from coordinator.shards.driver import Driver
    from proto.catalog import TableEntry

PAUSE_S: Final = 0.1
"""Before the next coordinator is asked."""

LOOK_S: Final = 0.02
"""Between looks at how far a copy has come that tells nobody."""

UNKNOWN_S: Final = 1.0
"""Before somebody is asked again who the leader cluster is; one of an earlier version says nothing of that."""

PASSED_ON_MAX: Final = 8
"""Clusters that a call may have come through: a chain of followers is shorter, and a circle has no end."""

_TOO_BUSY: Final = (errors.QueueFull, errors.TooManyCursors, errors.ShardBusy)
"""The write was not made, and nothing is amiss with the coordinator that says so. Its client may come again."""

_NEVER_SENT: Final = "failed to connect to all addresses"
"""What gRPC says of a call that has not left."""

Metadata = tuple[tuple[str, str | bytes], ...]

_Response = (
    etcd.PutResponse
    | etcd.DeleteRangeResponse
    | etcd.TxnResponse
    | etcd.CompactionResponse
    | etcd.LeaseGrantResponse
    | etcd.LeaseRevokeResponse
    | etcd.LeaseKeepAliveResponse
    | etcd.LeaseTimeToLiveResponse
    | etcd.LeaseLeasesResponse
    | regatta.PutResponse
    | regatta.DeleteRangeResponse
    | regatta.TxnResponse
)

_FORWARDED: Final[Mapping[int, tuple[str, Callable[[bytes], _Response]]]] = {
    frames.ETCD_PUT: ("/etcdserverpb.KV/Put", etcd.PutResponse.FromString),
    frames.ETCD_DELETE_RANGE: ("/etcdserverpb.KV/DeleteRange", etcd.DeleteRangeResponse.FromString),
    frames.ETCD_TXN: ("/etcdserverpb.KV/Txn", etcd.TxnResponse.FromString),
    frames.ETCD_COMPACT: ("/etcdserverpb.KV/Compact", etcd.CompactionResponse.FromString),
    frames.LEASE_GRANT: ("/etcdserverpb.Lease/LeaseGrant", etcd.LeaseGrantResponse.FromString),
    frames.LEASE_REVOKE: ("/etcdserverpb.Lease/LeaseRevoke", etcd.LeaseRevokeResponse.FromString),
    frames.REGATTA_PUT: ("/regatta.v1.KV/Put", regatta.PutResponse.FromString),
    frames.REGATTA_DELETE_RANGE: ("/regatta.v1.KV/DeleteRange", regatta.DeleteRangeResponse.FromString),
    frames.REGATTA_TXN: ("/regatta.v1.KV/Txn", regatta.TxnResponse.FromString),
}
"""By the command that would carry it here: the path to call there, and how its answer is read."""

_ASKED: Final[Mapping[int, tuple[str, Callable[[bytes], _Response]]]] = {
    frames.LEASE_KEEP_ALIVE: ("/etcdserverpb.Lease/LeaseKeepAlive", etcd.LeaseKeepAliveResponse.FromString),
    frames.LEASE_TIME_TO_LIVE: (
        "/etcdserverpb.Lease/LeaseTimeToLive",
        etcd.LeaseTimeToLiveResponse.FromString,
    ),
    frames.LEASE_LEASES: ("/etcdserverpb.Lease/LeaseLeases", etcd.LeaseLeasesResponse.FromString),
}
"""Likewise what a leader of a shard would answer beside its log."""


class Forwarder:
    """close() it in the end."""

    def __init__(
        self,
        leader: str,
        channels: LeaderChannels,
        driver: Driver,
        lead: LeadWatch,
        identity: Callable[[], Awaitable[str]],
    ) -> None:
        """leader: the leader cluster, in words; channels to it, which are closed in the end; driver reaches the
        copies; lead: says whether it leads still; identity: that of the cluster whose tables are copied, "" if that
        is not known."""
        self._leader = leader
        self._find_identity = identity
        self._identity, self._ask_at = "", 0.0
        self._lead = lead
        self._channels = channels
        self._driver = driver

    async def close(self) -> None:
        """End all calls."""
        await self._channels.close()

    async def write(self, asked: Asked) -> frames.Reply | None:
        """What the leader cluster answered, once the copy is as far; None if this cluster takes its writes itself, and
        this one is not made. Raises TableReplicated for what is not passed on, what the leader cluster refused it with,
        and TimedOut if the outcome is unknown at the deadline, or known and not here yet."""
        table, deadline = asked.table, asked.deadline
        if not await self._lead.passes_on(deadline):
            return None
        forwarded = _FORWARDED.get(asked.method)
        if forwarded is None:
            raise errors.TableReplicated(f"write to {self._leader}")
        path, parse = forwarded
        self._check_spoken(table, path)
        metadata: Metadata = (
            ("table", table.name),
            (METADATA_KEY, asked.client_id or secrets.token_hex(16)),
            *await self._meant(),
            *await self._vouched(asked),
        )
        answer = await self._call(path, asked, metadata, is_write=True)
        if answer is None:
            return None
        reply = _reply(parse(answer))
        revision = reply.revision
        try:
            if table.origin == REGATTA:
                reply.revision = await self._wait_for_index(table, revision, deadline)
            else:
                await self._wait_until_here(table, revision, deadline)
        except errors.BoathouseError as error:
            # It is written, whatever happened since: no word that says otherwise may leave here.
            raise errors.TimedOut(
                f"written at revision {revision}, and not replicated yet: {error.detail}"
            ) from None
        return reply

    async def ask(self, asked: Asked) -> frames.Reply | None:
        """What the leader cluster's leader answers beside its log; None if that is for this cluster to answer. Raises
        what it refused it with, and TimedOut."""
        passed_on = _ASKED.get(asked.method)
        if passed_on is None or not await self._lead.passes_on(asked.deadline):
            return None
        path, parse = passed_on
        self._check_spoken(asked.table, path)
        metadata: Metadata = (
            ("table", asked.table.name),
            *await self._meant(),
            *await self._vouched(asked),
        )
        answer = await self._call(path, asked, metadata)
        return None if answer is None else _reply(parse(answer))

    def _check_spoken(self, table: TableEntry, path: str) -> None:
        """Raises TableReplicated for what a cluster that speaks no replication but Regatta's does not serve."""
        if table.origin == REGATTA and METHODS[path].api is not ApiName.REGATTA:
            raise errors.TableReplicated(f"write to {self._leader}, which speaks Regatta's API alone")

    async def _meant(self) -> Metadata:
        """For which cluster it is: another one that answers there refuses it. Raises what a linearizable read may."""
        now = self._driver.time()
        if not self._identity and now >= self._ask_at:
            self._identity = await self._find_identity()
            self._ask_at = now + UNKNOWN_S
        return ((MEANT_KEY, self._identity),) if self._identity else ()

    async def _vouched(self, asked: Asked) -> Metadata:
        """Whose write it is, as this cluster has found: the leader cluster believes it because of this cluster's token.
        It is told that the write was passed on if it is nobody's, too: or it would take it for that of whoever this
        cluster's own certificate names. Raises what an unknown token does, and TableReplicated."""
        table, who = asked.table, asked.who
        if who.passed_on >= PASSED_ON_MAX:
            raise errors.TableReplicated(
                f"write to {self._leader}: it came through {who.passed_on} clusters that follow each other in a circle"
            )
        passed_on = (PASSED_ON_KEY, str(who.passed_on + 1))
        if who.is_nobody:
            return (passed_on,)
        body = frames.RightsRequest(need=frames.RightsRequest.USER).SerializeToString()
        call = ShardCall(
            table.shard,
            LEADER,
            Access.READ,
            frames.AUTH_RIGHTS,
            table.id,
            body,
            deadline=asked.deadline,
            linearizable=True,
            who=who,
        )
        rights = frames.Rights.FromString((await self._driver.ask(call)).body)
        return ((VOUCHED_KEY, rights.user.encode()), passed_on) if rights.user else (passed_on,)

    async def _call(
        self, path: str, asked: Asked, metadata: Metadata, *, is_write: bool = False
    ) -> bytes | None:
        table = outcomes.REGATTA if METHODS[path].api is ApiName.REGATTA else outcomes.ETCD
        in_doubt = False
        while True:
            left_s = asked.deadline - self._driver.time()
            if left_s <= 0:
                raise errors.TimedOut(f"{self._leader} did not answer in time")
            try:
                with self._channels.calling() as (channel, shown):
                    answer = await _answer(channel, path, asked.body, (*metadata, *shown), left_s)
            except grpc.aio.AioRpcError as error:
                code, details = Code[error.code().name], error.details() or ""
                refusal = outcomes.from_status(table, code, details)
                if isinstance(refusal, errors.OtherCluster):
                    # Perhaps another one is followed by now. That is asked before anything else is written.
                    self._identity, self._ask_at = "", 0.0
                if code is Code.UNAVAILABLE and not isinstance(refusal, _TOO_BUSY):
                    in_doubt |= is_write and not _is_definite(refusal, details)
                    self._channels.failed(channel)
                    if in_doubt and asked.table.origin == REGATTA:
                        # No request has a name there: made again, it could undo what others have written since.
                        raise errors.TimedOut(f"{self._leader} may have made it: {details}") from None
                    await asyncio.sleep(min(PAUSE_S, left_s))
                    continue
                if isinstance(refusal, errors.TableReplicated) and left_s > PAUSE_S:
                    # It leads no longer, and perhaps this cluster does, now or in a moment.
                    await asyncio.sleep(PAUSE_S)
                    if await self._lead.passes_on(asked.deadline):
                        continue
                    if not in_doubt:
                        return None
                if in_doubt:
                    # Made there it came here with the table, whose shard knows nothing of the request.
                    raise errors.TimedOut(f"{self._leader} may have made it, and then: {details}") from None
                raise refusal or errors.TimedOut(f"{self._leader}: {code.name}: {details}") from None
            return answer

    async def _wait_until_here(self, table: TableEntry, revision: int, deadline: float) -> None:
        """The nearest replica may lag far behind, as with a full disk, and the copy be here nevertheless."""
        lags_at = self._driver.time() + LAGS_S
        while True:
            now = self._driver.time()
            target, until = (NEAREST, min(lags_at, deadline)) if now < lags_at else (LEADER, deadline)
            wait_ms = max(1, int(1000 * (until - now)))
            request = frames.ChangesRequest(from_revision=revision, wait_ms=wait_ms)
            reply, _ = await ask_for_changes(self._driver, table, request, target=target, deadline=deadline)
            if reply.revision >= revision:
                return
            if now >= deadline:
                raise errors.ReadTimedOut("the copy is behind")

    async def _wait_for_index(self, table: TableEntry, index: int, deadline: float) -> int:
        """As _wait_until_here(), for an index of the log of a cluster that knows no revisions of ours. The revision
        at which the copy has come so far, or a later one."""
        lags_at = self._driver.time() + LAGS_S
        while (now := self._driver.time()) < deadline:
            lags = now >= lags_at
            target, until = (LEADER, deadline) if lags else (NEAREST, min(lags_at, deadline))
            method, shard = frames.TABLE_STATUS, table.shard
            call = ShardCall(
                shard, target, Access.READ, method, table.id, b"", deadline=until, linearizable=lags
            )
            status = frames.TableStatus.FromString((await self._driver.ask(call)).body)
            if status.leader_index >= index:
                return status.revision
            await asyncio.sleep(LOOK_S)
        raise errors.ReadTimedOut("the copy is behind")


def _is_definite(refusal: errors.BoathouseError | None, details: str) -> bool:
    """Whether a write that failed so was certainly not made."""
    return details.startswith(_NEVER_SENT) if refusal is None else refusal.definite


async def _answer(
    channel: Any,
    path: str,
    body: bytes,
    metadata: Metadata,
    time_s: float,
) -> bytes:
    """The one answer to a request, though its method be one of streams. Raises AioRpcError."""
    if METHODS[path].kind is Kind.UNARY:
        unary: bytes = await channel.unary_unary(path)(body, metadata=metadata, timeout=time_s)
        return unary
    call = channel.stream_stream(path)(iter((body,)), metadata=metadata, timeout=time_s)
    async for answer in call:
        streamed: bytes = answer
        return streamed
    raise errors.TimedOut(f"{path} ended without an answer")


def _reply(response: _Response) -> frames.Reply:
    """As the shard here would have answered: the header is put in front of it anew."""
    revision = response.header.revision
    response.ClearField("header")
    return frames.Reply(revision=revision, body=response.SerializeToString())
