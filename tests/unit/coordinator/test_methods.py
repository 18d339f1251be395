"""Which methods the port serves, and what it answers for those that it does not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.apis import api_services
from coordinator.server import CALLS_END_S
from proto.etcd import election_pb2 as election
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import METHODS, Kind
from proto.regatta import replication_pb2 as replication
from tests.unit.coordinator.running import in_loop, refused, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def test_all_services_of_both_apis_are_known() -> None:
    assert api_services() == {
        *(f"etcdserverpb.{name}" for name in ("KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth")),
        "v3lockpb.Lock",
        "v3electionpb.Election",
        *(f"regatta.v1.{name}" for name in ("KV", "Cluster", "Tables")),
        "maintenance.v1.Maintenance",
        "boathouse.v1.Restore",
        "boathouse.v1.Moves",
        *(f"replication.v1.{name}" for name in ("Log", "Metadata", "Snapshot")),
    }


@in_loop
async def test_every_method_of_the_table_is_served_and_no_other(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        assert cluster.coordinator.served == METHODS.keys()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etcdserverpb.Lease/Nope", "unknown method Nope for service etcdserverpb.Lease"),
        ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("/maintenance.v1.Maintenance/Nope", "unknown method Nope for service maintenance.v1.Maintenance"),
        ("/nope.KV/Range", "unknown service nope.KV"),
    ],
)
def test_a_method_that_is_not_built_says_so(tmp_path: Path, path: str, text: str) -> None:
    @in_loop
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            assert await refused(cluster.raw(path)(b"")) == ("UNIMPLEMENTED", text)

    scenario()


def test_what_lasts_is_known_to() -> None:
    """A new method that goes on until somebody does something would hold up each restart of a coordinator."""
    lasting = {path.rpartition("/")[2] for path, method in METHODS.items() if method.lasts}
    assert lasting == {
        *("Watch", "LeaseKeepAlive", "Lock", "Campaign", "Observe", "Replicate"),
        "ServerReflectionInfo",
    }
    assert all(method.lasts for method in METHODS.values() if method.kind is Kind.BIDI_STREAM)


@in_loop
async def test_calls_that_last_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        observe = cluster.channel.unary_stream("/v3electionpb.Election/Observe", None, None)
        observing = observe(election.LeaderRequest(name=b"one").SerializeToString())
        follow = cluster.channel.unary_stream("/replication.v1.Log/Replicate", None, None)
        following = follow(replication.ReplicateRequest(table=b"default", leader_index=1).SerializeToString())
        front = cluster.coordinator._front
        await wait_until_async(lambda: len(front.under_way()) == 2, timeout_s=5, what="both calls")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await cluster.coordinator.stop()
        assert loop.time() - began_s < CALLS_END_S / 2
        assert (await refused(observing.read()))[0] == "UNAVAILABLE"
        assert (await refused(following.read()))[0] == "UNAVAILABLE"


async def never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@in_loop
async def test_a_stream_that_is_not_built_is_refused_before_its_first_message(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        keep_alive = cluster.channel.stream_stream("/etcdserverpb.Lease/Nothing", bytes, bytes)(never())
        async with asyncio.timeout(5):
            assert (await refused(keep_alive.read()))[0] == "UNIMPLEMENTED"


@in_loop
async def test_a_bug_of_ours_is_an_internal_error_not_a_riddle(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        # REPLICA_STATUS answered with bytes that are none.
        cluster.workers[1, 1].script[frames.REPLICA_STATUS] = lambda _: frames.Reply(body=b"\xff")
        status = cluster.raw("/etcdserverpb.Maintenance/Status")
        assert await refused(status(etcd.StatusRequest().SerializeToString())) == (
            "INTERNAL",
            "boathouse: internal error: DecodeError",
        )
