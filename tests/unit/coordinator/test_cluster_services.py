"""What both APIs tell about members, replicas and alarms."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from config.topology import LearningTopology
from coordinator.api.local_call import LocalCall
from coordinator.services.etcd_cluster import EtcdCluster
from coordinator.services.regatta_cluster import RegattaCluster
from coordinator.shards.memberships import Memberships
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import early_pb2 as early
from proto.regatta import regatta_pb2 as regatta
from tests.stubs import stub
from tests.unit.coordinator.running import DEFAULT_TABLE_ID, in_loop, make_config, refused, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig
    from tests.unit.coordinator.running import Running


def maintenance(cluster: Running) -> Any:
    return stub(cluster.channel, etcd, "Maintenance")


def regatta_cluster(cluster: Running) -> Any:
    return stub(cluster.channel, regatta, "Cluster")


@in_loop
async def test_etcd_members_can_be_reached_where_they_say(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        members = stub(cluster.channel, etcd, "Cluster")
        answer = await members.MemberList(etcd.MemberListRequest(linearizable=True))
        nodes = cluster.cluster.nodes.values()
        assert sorted(answer.members, key=lambda member: member.ID) == list(answer.members)
        assert {(m.ID, m.name, m.clientURLs[0]) for m in answer.members} == {
            (cluster.cluster.member_id(node.id), node.name, f"http://127.0.0.1:{node.client_port}")
            for node in nodes
        }
        assert (answer.header.revision, answer.header.raft_term) == (0, 1)


@in_loop
async def test_etcd_members_are_listed_without_a_quorum_unless_asked_linearizably(tmp_path: Path) -> None:
    async with running(tmp_path, read_timeout_ms=1_000) as cluster:
        members = stub(cluster.channel, etcd, "Cluster")
        cluster.elect(1, 0, term=2)
        linearizable = members.MemberList(etcd.MemberListRequest(linearizable=True))
        assert len((await members.MemberList(etcd.MemberListRequest())).members) == 3
        assert await refused(linearizable) == ("UNAVAILABLE", "etcdserver: request timed out")


@in_loop
async def test_what_is_wrong_with_an_update_is_told_in_etcds_order(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        members = stub(cluster.channel, etcd, "Cluster")
        one, other = (await members.MemberList(etcd.MemberListRequest())).members[:2]
        for member_id, urls, wrong in (
            (77, ["x"], "member not found"),
            (77, list(one.peerURLs), "member not found"),
            (one.ID, [*other.peerURLs, "x"], "Peer URLs already exists"),
            (one.ID, ["x"], "given member URLs are invalid"),
        ):
            request = etcd.MemberUpdateRequest(ID=member_id, peerURLs=urls)
            _, text = await refused(members.MemberUpdate(request))
            assert text == f"etcdserver: {wrong}"


@in_loop
async def test_that_nobody_can_be_spared_comes_before_whether_there_is_such_a_member(tmp_path: Path) -> None:
    def member(number: int, name: str) -> Any:
        return SimpleNamespace(node=number, member_id=number, name=name, is_learner=False)

    async def find(_call: Any) -> None:
        return None

    found = [member(1, "n1"), member(2, "")]
    nothing: Any = None
    memberships: Any = SimpleNamespace(members=lambda: found)
    tables: Any = SimpleNamespace(find=find)
    config = make_config(tmp_path, nodes=1, shards=1)
    services = EtcdCluster(config, config.node("n1"), nothing, tables, nothing, memberships, nothing)

    async def remove(member_id: int) -> None:
        body = etcd.MemberRemoveRequest(ID=member_id).SerializeToString()
        await services.member_remove(LocalCall((body,), metadata={}, deadline=0.0, peer="test"))

    with pytest.raises(errors.NotEnoughStarted):
        await remove(77)
    found[1].name = "n2"
    with pytest.raises(errors.MemberNotFound):
        await remove(77)


@in_loop
async def test_etcd_status_is_the_local_replicas(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        local = cluster.workers[1, 1]
        local.status.commit_index, local.status.applied_index = 9, 8
        answer = await maintenance(cluster).Status(etcd.StatusRequest())
        assert answer.version == "3.5.21"
        assert (answer.dbSize, answer.dbSizeInUse) == (8192, 4096)
        assert (answer.raftIndex, answer.raftAppliedIndex, answer.raftTerm) == (9, 8, 1)
        assert answer.leader == cluster.cluster.member_id("n2")
        assert answer.header.member_id == cluster.cluster.member_id("n1")
        assert answer.header.revision == 1
        assert not answer.errors
        assert not answer.isLearner


@in_loop
async def test_etcd_status_needs_no_leader_and_says_what_is_wrong(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.elect(1, 0, term=2)
        cluster.workers[1, 1].status.no_space = True
        cluster.workers[1, 1].status.learners.append(1)
        answer = await maintenance(cluster).Status(etcd.StatusRequest())
        member = cluster.cluster.member_id("n1")
        assert list(answer.errors) == ["etcdserver: no leader", f"memberID:{member} alarm:NOSPACE "]
        assert answer.leader == 0
        assert answer.isLearner


@in_loop
async def test_etcd_status_comes_from_a_neighbour_while_the_local_replica_is_down(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.workers[1, 1].stop()
        cluster.workers[1, 2].status.database_bytes = 5
        cluster.elect(1, 2, term=2)
        await wait_until_async(
            lambda: cluster.coordinator.leader_believed(1) == 2, timeout_s=5, what="the news"
        )
        assert (await maintenance(cluster).Status(etcd.StatusRequest())).dbSize == 5


@in_loop
async def test_etcd_alarms_are_the_replicas_full_disks(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        alarm = maintenance(cluster).Alarm
        assert not (await alarm(etcd.AlarmRequest())).alarms
        cluster.workers[1, 3].status.no_space = True
        answer = await alarm(etcd.AlarmRequest())
        assert [(a.memberID, a.alarm) for a in answer.alarms] == [
            (cluster.cluster.member_id("n3"), etcd.NOSPACE)
        ]
        assert answer.header.revision == 1
        assert not (await alarm(etcd.AlarmRequest(alarm=etcd.CORRUPT))).alarms


def changes(cluster: Running) -> list[frames.AlarmChange]:
    requests = cluster.workers[1, 1].requests(frames.ETCD_ALARM)
    return [frames.AlarmChange.FromString(request.body) for request in requests]


@in_loop
async def test_alarms_are_raised_and_cleared_through_the_log(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        alarm = maintenance(cluster).Alarm
        member = cluster.cluster.member_id("n2")
        activate, deactivate = etcd.AlarmRequest.ACTIVATE, etcd.AlarmRequest.DEACTIVATE
        await alarm(etcd.AlarmRequest(action=activate, memberID=7, alarm=etcd.CORRUPT))
        await alarm(etcd.AlarmRequest(action=deactivate, memberID=member, alarm=etcd.NOSPACE))
        assert changes(cluster) == [
            frames.AlarmChange(alarm=frames.TableAlarm(member=7, alarm=etcd.CORRUPT), activate=True),
            frames.AlarmChange(alarm=frames.TableAlarm(member=member, alarm=etcd.NOSPACE), holds_table=True),
        ]


@in_loop
async def test_the_alarm_none_is_no_alarm(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        alarm = maintenance(cluster).Alarm
        for action in (etcd.AlarmRequest.ACTIVATE, etcd.AlarmRequest.DEACTIVATE):
            assert not (await alarm(etcd.AlarmRequest(action=action, memberID=7))).alarms
        assert changes(cluster) == []
        for odd in (etcd.AlarmRequest(alarm=9), etcd.AlarmRequest(action=9)):  # type: ignore[arg-type]
            assert (await refused(alarm(odd)))[0] == "INVALID_ARGUMENT"


@in_loop
async def test_a_user_who_is_not_root_raises_and_clears_not_even_the_alarm_none(tmp_path: Path) -> None:
    def answer(request: frames.Request) -> frames.Reply | errors.BoathouseError:
        if frames.RightsRequest.FromString(request.body).need == frames.RightsRequest.ROOT:
            return errors.PermissionDenied()
        rights = frames.Rights(auth_version=3, user="u")
        return frames.Reply(term=1, leader=1, body=rights.SerializeToString())

    async with running(tmp_path) as cluster:
        for worker in cluster.workers.values():
            worker.script[frames.AUTH_RIGHTS] = answer
        alarm = maintenance(cluster).Alarm
        assert not (await alarm(etcd.AlarmRequest())).alarms
        for action in (etcd.AlarmRequest.ACTIVATE, etcd.AlarmRequest.DEACTIVATE):
            denied = await refused(alarm(etcd.AlarmRequest(action=action)))
            assert denied == ("PERMISSION_DENIED", "etcdserver: permission denied")


@in_loop
async def test_a_full_table_is_full_on_all_its_members(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        raised = frames.TableAlarm(member=7, alarm=etcd.CORRUPT)
        for worker in cluster.workers.values():
            worker.status.tables.add(id=DEFAULT_TABLE_ID, full=True, alarms=[raised])
        answer = await maintenance(cluster).Alarm(etcd.AlarmRequest())
        members = sorted(cluster.cluster.member_id(name) for name in ("n1", "n2", "n3"))
        expected = [(7, etcd.CORRUPT), *((member, etcd.NOSPACE) for member in members)]
        assert [(one.memberID, one.alarm) for one in answer.alarms] == expected
        status = await maintenance(cluster).Status(etcd.StatusRequest())
        assert status.errors[0] == "memberID:7 alarm:CORRUPT "
        assert len(status.errors) == 4


@in_loop
async def test_a_silent_replica_holds_up_no_alarm_listing(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.workers[1, 2].silent = True
        cluster.workers[1, 3].stop()
        assert not (await maintenance(cluster).Alarm(etcd.AlarmRequest(), timeout=5)).alarms


@pytest.mark.parametrize("metadata", [(), (("client-api-version", "v0.4"),)], ids=["unknown", "current"])
def test_regatta_members_in_the_form_that_the_caller_reads(
    tmp_path: Path, metadata: tuple[tuple[str, str], ...]
) -> None:
    @in_loop
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            answer = await regatta_cluster(cluster).MemberList(regatta.MemberListRequest(), metadata=metadata)
            assert answer.cluster == ("test" if metadata else "")
            node = cluster.cluster.node("n2")
            member = answer.members[1]
            assert (member.id, member.name) == ("2", "n2")
            assert list(member.peerURLs) == [f"127.0.0.1:{node.peer_port}"]
            assert list(member.clientURLs) == [f"http://127.0.0.1:{node.client_port}"]

    scenario()


@in_loop
async def test_regatta_members_for_a_caller_of_the_early_form(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        listing = cluster.channel.unary_unary(
            "/regatta.v1.Cluster/MemberList",
            request_serializer=regatta.MemberListRequest.SerializeToString,
            response_deserializer=early.MemberListResponse.FromString,
        )
        answer = await listing(regatta.MemberListRequest(linearizable=True))
        assert answer.header.replica_id == 1
        assert len(answer.members) == 3


async def _regatta_members(memberships: Memberships, config: ClusterConfig) -> list[tuple[str, ...]]:
    nothing: Any = None
    call: Any = SimpleNamespace(body=b"", metadata={})
    service = RegattaCluster(nothing, nothing, config, memberships, config.node("n1"))
    told = regatta.MemberListResponse.FromString(await service.member_list(call))
    return [(one.id, one.name, *one.peerURLs, *one.clientURLs) for one in told.members]


@in_loop
async def test_regatta_members_are_those_that_there_are_by_now(tmp_path: Path) -> None:
    config = make_config(tmp_path, nodes=3, shards=1)
    memberships = Memberships(config, LearningTopology(config))
    assert [one[:2] for one in await _regatta_members(memberships, config)] == [
        ("1", "n1"), ("2", "n2"), ("3", "n3"),
    ]  # fmt: skip
    n4 = frames.NodeRecord(
        member_id=77, name="n4", peer_urls=["http://host4:7500"], client_urls=["https://host4:2379"]
    )
    directory = [frames.MemberRecord(node=4, record=n4.SerializeToString())]
    for node in (1, 3):
        record = frames.NodeRecord(member_id=node, name=f"n{node}", peer_urls=[f"http://host{node}:7500"])
        directory.append(frames.MemberRecord(node=node, record=record.SerializeToString()))
    membership = frames.Membership(voters=[1, 3, 4], directory=directory)
    memberships.hear(ShardId(1), frames.ReplicaState(applied_index=9, membership=membership))
    assert await _regatta_members(memberships, config) == [
        ("1", "n1", "host1:7500"), ("3", "n3", "host3:7500"), ("4", "n4", "host4:7500", "https://host4:2379"),
    ]  # fmt: skip


@in_loop
async def test_regatta_status_lists_every_table(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2, leader=3) as cluster:
        cluster.workers[2, 1].status.applied_index = 6
        answer = await regatta_cluster(cluster).Status(regatta.StatusRequest())
        assert (answer.id, answer.version) == ("1", "0.5.2")
        assert answer.info.startswith("boathouse ")
        assert list(answer.tables) == ["default"]
        table = answer.tables["default"]
        assert (table.leader, table.raftTerm, table.raftIndex, table.dbSize) == ("3", 1, 6, 8192)
        assert not answer.errors
        assert not answer.HasField("config")
        configured = await regatta_cluster(cluster).Status(regatta.StatusRequest(config=True))
        assert configured.config["cluster"] == "test"
        assert configured.config["nodes.n1.client_port"] == cluster.cluster.node("n1").client_port


@in_loop
async def test_regatta_status_puts_a_tables_trouble_into_its_errors(tmp_path: Path) -> None:
    async with running(tmp_path, nodes=1, shards=2) as cluster:
        cluster.workers[2, 1].script[frames.REPLICA_STATUS] = lambda _: None
        answer = await regatta_cluster(cluster).Status(regatta.StatusRequest())
        assert not answer.tables
        assert list(answer.errors) == ["default: no replica of shard 2 answers"]


@in_loop
async def test_leadership_moves_to_the_member_that_is_named(tmp_path: Path) -> None:
    async with running(tmp_path, leader=1) as cluster:
        move = maintenance(cluster).MoveLeader
        target = cluster.cluster.member_id("n3")
        cluster.workers[1, 1].script[frames.TRANSFER_LEADER] = lambda _: frames.Reply()
        assert (await move(etcd.MoveLeaderRequest(targetID=target))) == etcd.MoveLeaderResponse()
        (request,) = cluster.workers[1, 1].requests(frames.TRANSFER_LEADER)
        asked = frames.TransferLeader.FromString(request.body)
        assert (asked.target, asked.wait) == (3, True)


@in_loop
async def test_leadership_moves_to_nobody_unknown_and_from_nobody_else(tmp_path: Path) -> None:
    async with running(tmp_path, leader=1) as cluster:
        move = maintenance(cluster).MoveLeader
        unknown = await refused(move(etcd.MoveLeaderRequest(targetID=1)))
        assert unknown == ("FAILED_PRECONDITION", "etcdserver: bad leader transferee")
        cluster.workers[1, 1].script[frames.TRANSFER_LEADER] = lambda _: errors.NotLeader()
        here = etcd.MoveLeaderRequest(targetID=cluster.cluster.member_id("n1"))
        assert await refused(move(here)) == ("FAILED_PRECONDITION", "etcdserver: not leader")
    async with running(tmp_path, leader=2) as cluster:
        move = maintenance(cluster).MoveLeader
        assert await refused(move(here)) == ("FAILED_PRECONDITION", "etcdserver: not leader")


@in_loop
async def test_there_is_no_version_to_go_back_to(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        downgrade = maintenance(cluster).Downgrade
        asked = etcd.DowngradeRequest
        for action in (asked.VALIDATE, asked.ENABLE):
            for version in ("old", f"{'9' * 5_000}.4", f"3.{'9' * 20}"):
                assert await refused(downgrade(asked(action=action, version=version))) == (
                    "INVALID_ARGUMENT",
                    "etcdserver: wrong downgrade target version format",
                )
            for version in ("3.5", "3.6.1-rc.1", *(("3.4", "3.4.0") if action == asked.ENABLE else ())):
                assert await refused(downgrade(asked(action=action, version=version))) == (
                    "INVALID_ARGUMENT",
                    "etcdserver: invalid downgrade target version",
                )
        for version in ("3.4", "03.4.7-rc.1"):
            validated = await downgrade(asked(action=asked.VALIDATE, version=version))
            assert (validated.version, validated.header.revision) == ("3.5.0", 1)
        assert await refused(downgrade(asked(action=asked.CANCEL))) == (
            "FAILED_PRECONDITION",
            "etcdserver: no inflight downgrade job",
        )
        unknown = await refused(downgrade(asked(action=9)))  # type: ignore[arg-type]
        assert unknown == ("UNKNOWN", "etcdserver: unknown method")


@in_loop
async def test_nothing_is_said_of_a_downgrade_without_a_leader(tmp_path: Path) -> None:
    async with running(tmp_path, read_timeout_ms=1_000) as cluster:
        downgrade = maintenance(cluster).Downgrade
        asked = etcd.DowngradeRequest
        cluster.elect(1, 0, term=2)
        for request in (asked(action=asked.VALIDATE, version="3.4"), asked(action=asked.CANCEL)):
            assert await refused(downgrade(request)) == ("UNAVAILABLE", "etcdserver: request timed out")


@in_loop
async def test_a_snapshot_comes_in_blobs_with_its_digest_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        parts = [
            frames.SnapshotPart(),
            frames.SnapshotPart(total_bytes=100_000, data=b"a" * 70_000),
            frames.SnapshotPart(total_bytes=100_000, data=b"b" * 30_000),
        ]
        replies = iter(
            frames.Reply(body=part.SerializeToString(), cursor=number)
            for part, number in zip(parts, (5, 5, 0), strict=True)
        )
        worker = cluster.workers[1, 1]
        for method in (frames.ETCD_SNAPSHOT, frames.CURSOR_NEXT):
            worker.script[method] = lambda _: next(replies)
        heard = [answer async for answer in maintenance(cluster).Snapshot(etcd.SnapshotRequest())]
        *blobs, digest = heard
        data = b"".join(answer.blob for answer in blobs)
        assert data == b"a" * 70_000 + b"b" * 30_000
        assert digest == etcd.SnapshotResponse(blob=hashlib.sha256(data).digest())
        assert [answer.remaining_bytes for answer in blobs] == [67_232, 34_464, 30_000, 0]


@in_loop
async def test_hashes_come_from_the_nearest_replica(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        body = etcd.HashKVResponse(hash=7, compact_revision=-1).SerializeToString()
        worker = cluster.workers[1, 1]
        worker.script[frames.ETCD_HASH_KV] = lambda _: frames.Reply(revision=3, cursor=5)
        worker.script[frames.CURSOR_NEXT] = lambda _: frames.Reply(revision=3, body=body)
        answer = await maintenance(cluster).HashKV(etcd.HashKVRequest(revision=2))
        assert (answer.hash, answer.compact_revision, answer.header.revision) == (7, -1, 3)
        (asked,) = worker.requests(frames.ETCD_HASH_KV)
        assert etcd.HashKVRequest.FromString(asked.body).revision == 2
        assert (await maintenance(cluster).Hash(etcd.HashRequest())).hash == 7


@in_loop
async def test_the_members_own_replica_is_defragmented(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        cluster.workers[1, 1].script[frames.DEFRAGMENT] = lambda _: frames.Reply()
        assert await maintenance(cluster).Defragment(etcd.DefragmentRequest()) == etcd.DefragmentResponse()
