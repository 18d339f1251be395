"""What a shard hears of who asks, and what is asked again when it says that it must be proved anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.api.credentials import Credentials
from coordinator.catalog.table_calls import Asked
from coordinator.shards.request_ids import following, from_client
from proto import errors
from proto.catalog import TableEntry
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta
from proto.tokens import presented
from tests.stubs import stub
from tests.unit.coordinator.running import DEFAULT_TABLE_ID, Running, in_loop, refused, running
from tests.unit.coordinator.test_etcd_pages import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

OURS = (1, 1)
TOKEN = (("token", "abc.7"),)


def in_turn(
    *answers: frames.Reply | errors.BoathouseError,
) -> Callable[[frames.Request], frames.Reply | errors.BoathouseError]:
    left = list(answers)
    return lambda _request: left.pop(0) if len(left) > 1 else left[0]


@in_loop
async def test_what_a_client_shows_goes_to_the_shard(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        worker = cluster.workers[OURS]
        await cluster.etcd.Put(etcd.PutRequest(key=b"k"), metadata=TOKEN)
        await cluster.etcd.Range(etcd.RangeRequest(key=b"k"), metadata=TOKEN)
        await cluster.regatta.Put(regatta.PutRequest(table=b"default", key=b"k"), metadata=TOKEN)
        await cluster.regatta.Range(regatta.RangeRequest(table=b"default", key=b"k"), metadata=TOKEN)
        for method in (frames.ETCD_PUT, frames.ETCD_RANGE, frames.REGATTA_PUT, frames.REGATTA_RANGE):
            assert [request.token for request in worker.requests(method)][-1] == presented("abc.7"), method
        await cluster.etcd.Range(etcd.RangeRequest(key=b"k"))
        nobodys = worker.requests(frames.ETCD_RANGE)[-1]
        assert (nobodys.token, nobodys.user, nobodys.system) == (b"", "", False)


@in_loop
async def test_a_token_that_the_nearest_replica_does_not_know_is_shown_to_the_leader(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        cluster.workers[OURS].script[frames.ETCD_RANGE] = lambda _: errors.InvalidAuthToken()
        request = etcd.RangeRequest(key=b"k", serializable=True)
        await cluster.etcd.Range(request, metadata=TOKEN)
        asked = cluster.workers[1, 2].requests(frames.ETCD_RANGE)[-1]
        assert (asked.token, asked.linearizable) == (presented("abc.7"), True)
        cluster.workers[1, 2].script[frames.ETCD_RANGE] = lambda _: errors.InvalidAuthToken()
        told = await refused(cluster.etcd.Range(request, metadata=TOKEN))
        assert told == ("UNAUTHENTICATED", "etcdserver: invalid auth token")


async def _write(cluster: Running, who: Credentials, client_id: str | None = None) -> None:
    table = TableEntry("default", DEFAULT_TABLE_ID, ShardId(1))
    calls, driver = cluster.coordinator._backend.calls, cluster.coordinator._backend.driver
    await calls.write(Asked(table, frames.ETCD_PUT, b"", driver.time() + 5, who, client_id))


@in_loop
async def test_a_write_that_met_a_change_of_users_is_looked_at_once_more(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        worker = cluster.workers[OURS]
        who = Credentials(token=presented("abc.7"))
        worker.script[frames.ETCD_PUT] = in_turn(errors.AuthOldRevision(), frames.Reply(revision=2))
        await _write(cluster, who, "mine")
        first, second = (request.request_id for request in worker.requests(frames.ETCD_PUT))
        # The refusal is remembered under the first: whoever repeats "mine" comes to the same two.
        assert (first, second) == (from_client(b"mine", DEFAULT_TABLE_ID), following(first))
        worker.script[frames.ETCD_PUT] = lambda _: errors.AuthOldRevision()
        with pytest.raises(errors.AuthOldRevision):
            await _write(cluster, who)


@in_loop
async def test_a_proof_that_is_bound_to_a_revision_is_not_shown_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        worker = cluster.workers[OURS]
        worker.script[frames.ETCD_PUT] = lambda _: errors.AuthOldRevision()
        with pytest.raises(errors.AuthOldRevision):
            await _write(cluster, Credentials(user="u", auth_revision=3))
        assert len(worker.requests(frames.ETCD_PUT)) == 1
        worker.script[frames.AUTH_RIGHTS] = lambda _: errors.UserEmpty()
        status = cluster.raw("/etcdserverpb.Maintenance/Status")
        assert await refused(status(b"")) == ("INVALID_ARGUMENT", "etcdserver: user name is empty")


@in_loop
async def test_health_is_asked_by_the_system(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        worker = cluster.workers[OURS]
        cluster.forget_requests()
        assert (await ask(f"http://{cluster.cluster.node('n1').http_endpoint}/health"))[0] == 200
        for method in (frames.ETCD_RANGE, frames.AUTH_RIGHTS):
            asked = worker.requests(method)
            assert asked
            assert all(request.system for request in asked)


@in_loop
async def test_a_password_is_the_same_write_when_it_is_repeated_under_the_clients_id(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        worker, auth = cluster.workers[OURS], stub(cluster.channel, etcd, "Auth")
        named = (("boathouse-request-id", "a name of my own"),)

        async def hashes(*users: str, metadata: Sequence[tuple[str, str]]) -> list[str]:
            begun = len(worker.seen)
            for user in users:
                await auth.UserAdd(etcd.AuthUserAddRequest(name=user, password="p"), metadata=metadata)
                change = etcd.AuthUserChangePasswordRequest(name=user, password="p")
                await auth.UserChangePassword(change, metadata=metadata)
            return [
                etcd.AuthUserChangePasswordRequest.FromString(request.body).hashedPassword
                for request in worker.seen[begun:]
                if request.method == frames.AUTH_USER_CHANGE_PASSWORD
            ]

        one, other = await hashes("one", "other", metadata=named)
        assert [one, other] == await hashes("one", "other", metadata=named)
        assert one != other
        assert len({one, *await hashes("one", "one", metadata=())}) == 3
