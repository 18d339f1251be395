"""Writes of copied tables on their way to the leader cluster: a coordinator over fake workers."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import grpc.aio
import pytest

from config.access import FollowsConfig
from coordinator.api.credentials import NOBODY, Credentials
from coordinator.catalog.source import LAGS_S
from coordinator.catalog.table_calls import Asked, TableCalls
from coordinator.replication.channels import LeaderChannels
from coordinator.replication.forward import PASSED_ON_MAX, UNKNOWN_S, Forwarder
from coordinator.replication.token_key import MEANT_KEY, PASSED_ON_KEY, VOUCHED_KEY
from coordinator.shards.request_ids import RequestIds
from coordinator.shards.shard_call import LEADER
from proto import errors
from proto.catalog import REGATTA, TableEntry
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from tests.regatta_stand_in import StandIn, Table
from tests.unit.coordinator.running import in_loop, running
from tests.waiting import free_ports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from coordinator.replication.leading import LeadWatch
    from coordinator.shards.driver import Driver
    from coordinator.shards.shard_call import ShardCall

COPY = TableEntry("default", 20_001, ShardId(1), origin=10_001)
PUT = etcd.PutRequest(key=b"a").SerializeToString()


async def nobody() -> str:
    """The identity of a leader cluster that has not said which it is."""
    return ""


class Copies:
    """The shards of the follower cluster: each question finds the copy one revision further on."""

    def __init__(self, revision: int, *, error: errors.BoathouseError | None = None) -> None:
        self.revision = revision
        self._error = error

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def ask(self, call: ShardCall) -> frames.Reply:
        if self._error is not None:
            raise self._error
        self.revision += 1
        return frames.Reply(revision=self.revision - 1)


def forwarder(copies: Copies, *endpoints: str) -> Forwarder:
    follows = FollowsConfig(cluster="harbour", endpoints=list(endpoints))
    channels = LeaderChannels(follows, asyncio.get_running_loop().time)
    return Forwarder(str(follows), channels, cast("Driver", copies), cast("LeadWatch", Lead()), nobody)


class Lead:
    """Which cluster leads: the other one, as often as is said here, and then this one."""

    def __init__(self, asked: int = 1_000_000) -> None:
        self.asked = asked

    async def passes_on(self, _deadline: float) -> bool:
        self.asked -= 1
        return self.asked >= 0


async def put(one: Forwarder, time_s: float = 5.0, client_id: str | None = None) -> frames.Reply:
    deadline = asyncio.get_running_loop().time() + time_s
    try:
        reply = await one.write(Asked(COPY, frames.ETCD_PUT, PUT, deadline, NOBODY, client_id))
        assert reply is not None
        return reply
    finally:
        await one.close()


@in_loop
async def test_a_write_goes_to_a_coordinator_that_is_there_and_waits_for_the_copy(tmp_path: Path) -> None:
    async with running(tmp_path) as leader:
        copies = Copies(0)
        dead = f"127.0.0.1:{free_ports(1)[0]}"
        reply = await put(
            forwarder(copies, dead, leader.cluster.node("n1").client_endpoint), client_id="mine"
        )
        assert reply.revision == 2
        assert copies.revision == 3  # it was asked until it had the revision
        assert etcd.PutResponse.FromString(reply.body) == etcd.PutResponse()
        written = [
            request for worker in leader.workers.values() for request in worker.requests(frames.ETCD_PUT)
        ]
        assert len(written) == 1


class Heard:
    """replication.channels.LeaderChannels to a leader cluster that applies everything, and remembers what came with
    it."""

    def __init__(self) -> None:
        self.metadata: dict[str, str | bytes] = {}

    @contextmanager
    def calling(self) -> Iterator[tuple[Heard, tuple[()]]]:
        yield self, ()

    def unary_unary(self, _path: str) -> Callable[..., Awaitable[bytes]]:
        return self._answer

    async def _answer(self, _body: bytes, **call: Any) -> bytes:
        self.metadata = dict(call["metadata"])
        return etcd.PutResponse(header=etcd.ResponseHeader(revision=2)).SerializeToString()

    async def close(self) -> None:
        """There is nothing to end."""


class Lagging(Copies):
    """One whose nearest replica stays where it is, in a time that passes at once."""

    waited_s = 0.0

    def time(self) -> float:
        return super().time() + self.waited_s

    async def ask(self, call: ShardCall) -> frames.Reply:
        if call.target is LEADER and self.revision > 1:
            return frames.Reply(revision=self.revision)
        self.waited_s += frames.ChangesRequest.FromString(call.body).wait_ms / 1000
        return frames.Reply(revision=1)


@in_loop
async def test_a_replica_that_lags_holds_up_no_write() -> None:
    channels, lead = cast("LeaderChannels", Heard()), cast("LeadWatch", Lead())
    copies = Lagging(2)
    reply = await put(Forwarder("harbour", channels, cast("Driver", copies), lead, nobody))
    assert reply.revision == 2
    assert copies.waited_s == pytest.approx(LAGS_S, abs=0.1)
    with pytest.raises(errors.TimedOut, match="written at revision 2"):
        await put(Forwarder("harbour", channels, cast("Driver", Lagging(1)), lead, nobody))


@in_loop
async def test_what_was_written_through_a_node_is_shown_to_who_reads_there() -> None:
    """Though its replica may lag: a read that may be stale waits for that revision."""
    anything: Any = SimpleNamespace(tables={})
    channels, lead = cast("LeaderChannels", Heard()), cast("LeadWatch", Lead())
    copies = cast("Driver", Copies(9))
    one = Forwarder("harbour", channels, copies, lead, nobody)
    calls = TableCalls(copies, anything, RequestIds(bytes(8)), anything, step_timeout_s=1.0, forwarder=one)
    await calls.write(Asked(COPY, frames.ETCD_PUT, PUT, copies.time() + 5, NOBODY))
    assert calls.shown(COPY) == 2


@in_loop
async def test_that_a_write_is_nobodys_is_told() -> None:
    """Or the leader cluster would take it for that of whom the follower cluster's certificate names."""
    heard = Heard()
    copies, channels = cast("Driver", Copies(9)), cast("LeaderChannels", heard)
    await put(Forwarder("harbour", channels, copies, cast("LeadWatch", Lead()), nobody))
    assert heard.metadata[PASSED_ON_KEY] == "1"
    assert VOUCHED_KEY not in heard.metadata, "earlier versions refuse one that names nobody"


@in_loop
async def test_a_write_goes_round_in_circles_only_so_often() -> None:
    heard = Heard()
    channels, lead = cast("LeaderChannels", heard), cast("LeadWatch", Lead())
    one = Forwarder("harbour", channels, cast("Driver", Copies(9)), lead, nobody)
    deadline = asyncio.get_running_loop().time() + 5
    far = Credentials(passed_on=PASSED_ON_MAX - 1)
    assert await one.write(Asked(COPY, frames.ETCD_PUT, PUT, deadline, far)) is not None
    assert heard.metadata[PASSED_ON_KEY] == str(PASSED_ON_MAX)
    with pytest.raises(errors.TableReplicated, match="in a circle"):
        await one.write(Asked(COPY, frames.ETCD_PUT, PUT, deadline, Credentials(passed_on=PASSED_ON_MAX)))


@in_loop
async def test_a_refusal_comes_back_as_the_same_error(tmp_path: Path) -> None:
    async with running(tmp_path) as leader:
        for worker in leader.workers.values():
            worker.script[frames.ETCD_PUT] = lambda _: errors.NoSpace()
        with pytest.raises(errors.NoSpace):
            await put(forwarder(Copies(9), leader.cluster.node("n1").client_endpoint))


@in_loop
@pytest.mark.parametrize("busy", [errors.QueueFull, errors.TooManyCursors, errors.ShardBusy])
async def test_a_leader_cluster_that_is_too_busy_is_asked_once(
    tmp_path: Path, busy: type[errors.BoathouseError]
) -> None:
    """Regatta has the code for it of a coordinator that fails."""
    write = regatta.PutRequest(table=b"default", key=b"a").SerializeToString()
    async with running(tmp_path) as leader:
        for worker in leader.workers.values():
            worker.script[frames.REGATTA_PUT] = lambda _: busy()
        one = forwarder(Copies(9), leader.cluster.node("n1").client_endpoint)
        deadline = asyncio.get_running_loop().time() + 2
        with pytest.raises((errors.QueueFull, errors.TooManyCursors, errors.ShardBusy)):
            await one.write(Asked(COPY, frames.REGATTA_PUT, write, deadline, NOBODY))
        asked = [call for worker in leader.workers.values() for call in worker.requests(frames.REGATTA_PUT)]
        assert len(asked) == 1
        await one.close()


@in_loop
async def test_an_unreachable_leader_cluster_leaves_the_outcome_unknown() -> None:
    with pytest.raises(errors.TimedOut, match="cluster harbour at"):
        await put(forwarder(Copies(9), f"127.0.0.1:{free_ports(1)[0]}"), time_s=0.3)


@in_loop
async def test_what_is_written_is_never_called_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as leader:
        copies = Copies(0, error=errors.TableNotFound("the copy is made anew"))
        with pytest.raises(errors.TimedOut, match="written at revision 2"):
            await put(forwarder(copies, leader.cluster.node("n1").client_endpoint))


@in_loop
async def test_what_is_not_passed_on_is_refused_with_the_address() -> None:
    one = forwarder(Copies(9), "10.0.0.1:2379")
    with pytest.raises(errors.TableReplicated, match=r"write to cluster harbour at 10\.0\.0\.1:2379"):
        await one.write(Asked(COPY, frames.REPLICATE_CHANGES, b"", 1e9, NOBODY))
    await one.close()


@in_loop
async def test_a_cluster_that_leads_itself_passes_nothing_on(tmp_path: Path) -> None:
    async with running(tmp_path) as leader:
        endpoint = leader.cluster.node("n1").client_endpoint
        for worker in leader.workers.values():
            # It has given way, and the follower cluster is about to take over.
            worker.script[frames.ETCD_PUT] = lambda _: errors.TableReplicated("write to the leader cluster")
        for asked in (0, 3):
            one = forwarder(Copies(9), endpoint)
            one._lead = cast("LeadWatch", Lead(asked))
            deadline = asyncio.get_running_loop().time() + 5
            assert await one.write(Asked(COPY, frames.ETCD_PUT, PUT, deadline, NOBODY)) is None
            await one.close()


class Scripted(Heard):
    """A leader cluster whose coordinators fail a call in these ways, one after the other."""

    def __init__(self, *refusals: tuple[grpc.StatusCode, str]) -> None:
        super().__init__()
        self._refusals = list(refusals)

    def failed(self, _channel: object) -> None:
        """The next is asked."""

    async def _answer(self, _body: bytes, **_call: Any) -> bytes:
        code, details = self._refusals.pop(0)
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, "")


BROKE_OFF = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
NOBODY_THERE = (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: refused")
LEADERLESS = (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
GAVE_WAY = (
    grpc.StatusCode.FAILED_PRECONDITION,
    "etcdserver: table is replicated from another cluster: write there",
)
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


async def failed(
    *refusals: tuple[grpc.StatusCode, str],
    asked: tuple[TableEntry, frames.Method.ValueType] = (COPY, frames.ETCD_PUT),
) -> frames.Reply | None:
    """What comes of a write that the leader cluster fails so, before this cluster leads."""
    channels, lead = cast("LeaderChannels", Scripted(*refusals)), cast("LeadWatch", Lead(1))
    one = Forwarder("harbour", channels, cast("Driver", Copies(9)), lead, nobody)
    deadline = asyncio.get_running_loop().time() + 5
    return await one.write(Asked(*asked, PUT, deadline, NOBODY))


@in_loop
async def test_what_the_leader_cluster_may_have_made_is_neither_made_again_nor_called_refused() -> None:
    assert await failed(NOBODY_THERE, LEADERLESS, GAVE_WAY) is None
    with pytest.raises(errors.QueueFull):
        await failed(NOBODY_THERE, FULL)
    for then in (GAVE_WAY, FULL):
        with pytest.raises(errors.TimedOut, match="may have made it"):
            await failed(BROKE_OFF, then)


@in_loop
async def test_what_a_cluster_may_have_made_that_knows_no_request_ids_is_not_sent_again() -> None:
    there = replace(COPY, origin=REGATTA), frames.REGATTA_PUT
    with pytest.raises(errors.TimedOut, match="may have made it: Socket closed"):
        await failed(NOBODY_THERE, BROKE_OFF, asked=there)


class TakingOver(Copies):
    """A shard whose table is a copy for one write more, and which remembers what came of each id."""

    def __init__(self) -> None:
        super().__init__(9)
        self.applied: list[bytes] = []
        self._refused: set[bytes] = set()

    async def ask(self, call: ShardCall) -> frames.Reply:
        if call.request_id in self._refused or not self._refused:
            self._refused.add(call.request_id)
            raise errors.TableReplicated("write to the leader cluster")
        if call.request_id not in self.applied:
            self.applied.append(call.request_id)
        return frames.Reply(revision=9)


@in_loop
async def test_a_write_made_while_its_table_was_taken_over_is_found_by_its_repeat() -> None:
    anything: Any = SimpleNamespace(tables={})
    shard = TakingOver()
    driver, lead = cast("Driver", shard), cast("LeadWatch", Lead(0))
    one = Forwarder("harbour", cast("LeaderChannels", Heard()), driver, lead, nobody)
    calls = TableCalls(driver, anything, RequestIds(bytes(8)), anything, step_timeout_s=1.0, forwarder=one)
    for table in (COPY, COPY, replace(COPY, origin=0)):
        await calls.write(Asked(table, frames.ETCD_PUT, PUT, shard.time() + 5, NOBODY, "mine"))
    assert len(shard.applied) == 1


@in_loop
async def test_a_named_write_to_a_table_that_has_just_given_way_is_refused_at_once() -> None:
    anything: Any = SimpleNamespace(tables={})
    shard, lead = Copies(9, error=errors.TableReplicated("write to the leader cluster")), Lead()
    driver = cast("Driver", shard)
    one = Forwarder("harbour", cast("Any", Heard()), driver, cast("LeadWatch", lead), nobody)
    calls = TableCalls(driver, anything, RequestIds(bytes(8)), anything, step_timeout_s=1.0, forwarder=one)
    led, began = replace(COPY, origin=0), shard.time()
    anything.tables["default"] = COPY  # as the catalog says by now
    with pytest.raises(errors.TableReplicated):
        await calls.write(Asked(led, frames.ETCD_PUT, PUT, began + 2, NOBODY, "mine"))
    assert shard.time() < began + 1


@in_loop
async def test_what_concerns_leases_is_asked_where_they_live(tmp_path: Path) -> None:
    async with running(tmp_path) as leader:
        one = forwarder(Copies(0), leader.cluster.node("n1").client_endpoint)
        deadline = asyncio.get_running_loop().time() + 5
        kept = etcd.LeaseKeepAliveResponse(ID=7, TTL=60).SerializeToString()
        for worker in leader.workers.values():
            worker.script[frames.LEASE_KEEP_ALIVE] = lambda _: frames.Reply(revision=4, term=1, body=kept)
        asked = etcd.LeaseKeepAliveRequest(ID=7).SerializeToString()
        try:
            reply = await one.ask(Asked(COPY, frames.LEASE_KEEP_ALIVE, asked, deadline, NOBODY))
            assert reply is not None
            assert (reply.revision, reply.body) == (4, kept)
            assert await one.ask(Asked(COPY, frames.ETCD_RANGE, b"", deadline, NOBODY)) is None
        finally:
            await one.close()


@in_loop
async def test_leases_of_a_cluster_that_leads_are_its_own(tmp_path: Path) -> None:
    one = forwarder(Copies(0), f"127.0.0.1:{free_ports(1)[0]}")
    one._lead = cast("LeadWatch", Lead(0))
    assert await one.ask(Asked(COPY, frames.LEASE_LEASES, b"", 1e9, NOBODY)) is None
    await one.close()


class Followed(Copies):
    """A copy of a table that no cluster of ours has: each look finds it one index further on."""

    async def ask(self, call: ShardCall) -> frames.Reply:
        assert call.method == frames.TABLE_STATUS
        self.revision += 1
        status = frames.TableStatus(revision=100 + self.revision, leader_index=self.revision)
        return frames.Reply(body=status.SerializeToString())


@in_loop
async def test_a_cluster_that_speaks_no_etcd_is_asked_in_regattas_words_alone() -> None:
    there = replace(COPY, origin=REGATTA)
    regatta_cluster, copies = StandIn(), Followed(0)
    regatta_cluster.tables["default"] = Table([mvcc.Command(type=mvcc.Command.DUMMY)] * 4)
    body = regatta.PutRequest(table=b"default", key=b"a", value=b"1").SerializeToString()
    deadline = asyncio.get_running_loop().time() + 5.0
    with regatta_cluster.serving() as endpoint:
        one = forwarder(copies, endpoint)
        reply = await one.write(Asked(there, frames.REGATTA_PUT, body, deadline, NOBODY))
        assert reply is not None
        assert (reply.revision, copies.revision) == (105, 5), (
            "once the copy has that index, at its own revision"
        )
        with pytest.raises(errors.TableReplicated, match="Regatta's API alone"):
            await one.write(Asked(there, frames.ETCD_PUT, PUT, deadline, NOBODY))
        with pytest.raises(errors.TableReplicated, match="Regatta's API alone"):
            await one.ask(Asked(there, frames.LEASE_KEEP_ALIVE, b"", deadline, NOBODY))
        await one.close()
    assert regatta_cluster.tables["default"].pairs == {b"a": b"1"}


@in_loop
async def test_it_says_which_cluster_is_meant() -> None:
    channels, asked = Heard(), []

    async def identity() -> str:
        asked.append("asked")
        return "" if len(asked) == 1 else "abc"

    copies = Copies(9)
    one = Forwarder(
        "harbour", cast("Any", channels), cast("Driver", copies), cast("LeadWatch", Lead()), identity
    )
    deadline = asyncio.get_running_loop().time() + 5.0

    async def meant() -> object:
        await one.write(Asked(COPY, frames.ETCD_PUT, PUT, deadline, NOBODY))
        return channels.metadata.get(MEANT_KEY)

    assert [await meant(), await meant()] == [None, None], "nobody has said so yet"
    now = copies.time()
    copies.time = lambda: now + UNKNOWN_S  # type: ignore[method-assign]
    assert [await meant(), await meant(), len(asked)] == ["abc", "abc", 2]


class Another(Heard):
    """A cluster that was made anew: what is not meant for another one it makes."""

    async def _answer(self, _body: bytes, **call: Any) -> bytes:
        if MEANT_KEY not in dict(call["metadata"]):
            return etcd.PutResponse(header=etcd.ResponseHeader(revision=2)).SerializeToString()
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(),
            "etcdserver: this is another cluster: its identity is def, and not abc",
            None,
        )


@in_loop
async def test_another_cluster_refuses_and_is_heard_at_once() -> None:
    async def identity() -> str:
        return "abc"

    one = Forwarder(
        "harbour", cast("Any", Another()), cast("Driver", Copies(9)), cast("LeadWatch", Lead()), identity
    )
    for _ in range(3):
        with pytest.raises(errors.OtherCluster, match="its identity is def, and not abc"):
            await put(one)
