"""replication.v1 as a follower cluster meets it, over a table of the real state machine behind fake workers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import cramjam
import grpc
import pytest

from config.access import ReplicationConfig
from coordinator.api.call import ANYBODY
from coordinator.api.local_call import LocalCall
from coordinator.replication.gate import Gate
from coordinator.replication.token_key import TOKEN_KEY
from coordinator.services.regatta_replication import RegattaReplication
from proto import errors
from proto.catalog import Lead, TableEntry, encode_row, row_key
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import replication_pb2 as replication
from shardworker.machine import history
from shardworker.machine.auth import TableAuth, User
from tests.unit.coordinator.running import DEFAULT_TABLE_ID, in_loop, make_config, refused, running
from tests.unit.machine.copying import contents, leader, position, snapshot_of, told
from tests.unit.machine.shard import TABLE, Shard, delete, put, txn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from tests.unit.coordinator.running import Running

BOATHOUSE = replication.Boathouse(version=1, table_id=DEFAULT_TABLE_ID)


@contextlib.asynccontextmanager
async def serving(
    folder: Path, shard: Shard, tokens: Path | None = None, *, leader: int = 1
) -> AsyncIterator[Running]:
    """A coordinator whose table `default` is the table of this machine. tokens: of followers. leader: the node whose
    replica leads."""

    def status(request: frames.Request) -> frames.Reply | None:
        revision, checksum, _ = position(shard, TABLE)
        version = shard.machine.auth.of(TABLE).version
        found = frames.TableStatus(
            id=request.table_id,
            name="default",
            history=-1,
            revision=revision,
            checksum=checksum,
            auth_version=version,
        )
        return frames.Reply(revision=revision, term=1, leader=leader, body=found.SerializeToString())

    def changes(request: frames.Request) -> frames.Reply | None:
        asked = frames.ChangesRequest.FromString(request.body)
        revision = position(shard, TABLE)[0]
        assert asked.exact
        if asked.from_revision > revision:
            return None  # the replica waits
        floor = shard.machine.table_status()[0].compacted_revision
        if asked.from_revision <= floor:
            body = frames.TableChanges(
                first=asked.from_revision, through=asked.from_revision - 1, floor=floor
            )
        else:
            body = told(history(shard.connection, TABLE, asked.from_revision), asked.from_revision)
            body.through = revision
        body.auth_version = shard.machine.auth.of(TABLE).version
        return frames.Reply(revision=revision, term=1, leader=leader, body=body.SerializeToString())

    def users(request: frames.Request) -> frames.Reply:
        body = shard.read_as(frames.TABLE_USERS, b"").body
        return frames.Reply(revision=1, term=1, leader=1, body=body)

    def begin(request: frames.Request) -> frames.Reply:
        return frames.Reply(revision=1, term=1, leader=1, cursor=7)  # the file is being written

    def pairs(request: frames.Request) -> frames.Reply:
        (part,) = snapshot_of(shard)
        return frames.Reply(revision=part.revision, term=1, leader=1, body=part.SerializeToString())

    config = make_config(folder, nodes=3, shards=1)
    replication_config = ReplicationConfig(token_file=tokens)
    async with running(
        folder, config=config.model_copy(update={"replication": replication_config}), leader=leader
    ) as cluster:
        for worker in cluster.workers.values():
            worker.script |= {
                frames.TABLE_USERS: users,
                frames.TABLE_STATUS: status,
                frames.TABLE_CHANGES: changes,
                frames.TABLE_PAIRS: begin,
                frames.CURSOR_NEXT: pairs,
            }
        yield cluster


def filled() -> Shard:
    shard = leader()
    shard.put(b"a", b"1")
    shard.write(txn(put(b"b", b"2"), delete(b"a")))
    shard.put(b"c", b"3")
    return shard


async def replicate(cluster: Running, request: replication.ReplicateRequest) -> list[bytes]:
    """All messages, as they came."""
    method = cluster.channel.unary_stream("/replication.v1.Log/Replicate", bytes, bytes)
    return [message async for message in method(request.SerializeToString())]


async def first_message(
    cluster: Running, request: replication.ReplicateRequest
) -> replication.ReplicateResponse:
    """Of a stream that may go on."""
    call = cluster.channel.unary_stream("/replication.v1.Log/Replicate", bytes, bytes)(
        request.SerializeToString()
    )
    body = await call.read()
    call.cancel()
    assert isinstance(body, bytes)
    return replication.ReplicateResponse.FromString(body)


async def snapshot(cluster: Running, request: replication.SnapshotRequest) -> list[replication.SnapshotChunk]:
    method = cluster.channel.unary_stream("/replication.v1.Snapshot/Stream", bytes, bytes)
    return [
        replication.SnapshotChunk.FromString(message) async for message in method(request.SerializeToString())
    ]


@in_loop
async def test_tables_are_listed_by_name_and_reserved_ones_are_not(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        body = await cluster.raw("/replication.v1.Metadata/Get")(b"")
    response = replication.MetadataResponse.FromString(body)
    assert [(table.name, table.type, table.id, table.history) for table in response.tables] == [
        ("default", replication.Table.REPLICATED, DEFAULT_TABLE_ID, -1)
    ]


async def metadata(cluster: Running) -> replication.MetadataResponse:
    return replication.MetadataResponse.FromString(await cluster.raw("/replication.v1.Metadata/Get")(b""))


@in_loop
async def test_a_lost_catalog_is_restored_before_anybody_is_told_that_there_is_nothing(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, filled()) as cluster:
        before = await metadata(cluster)
        assert before.identity == (await metadata(cluster)).identity
        for worker in cluster.workers.values():
            del worker.script[frames.TABLE_STATUS]
        shard = cluster.stores[1]
        shard.tables[1].rows.clear()
        held = frames.TableStatus(id=DEFAULT_TABLE_ID, name="default", history=-1)
        for worker in cluster.workers.values():
            worker.status.tables.append(held)
        after = await metadata(cluster)
    assert before.tables == after.tables
    assert before.identity != after.identity, "a person has to look"


@in_loop
async def test_a_row_that_can_not_be_read_here_is_no_deletion(tmp_path: Path) -> None:
    async with serving(tmp_path, filled()) as cluster:
        catalog = cluster.stores[1].tables[1]
        elsewhere = TableEntry(
            "far", 10_009, ShardId(7)
        )  # on a shard that this coordinator's file does not know
        for name, row in (("far", encode_row(elsewhere)), ("odd", b"{")):
            catalog.rows[row_key(name)] = row, catalog.revision
            with pytest.raises(grpc.RpcError) as raised:
                await metadata(cluster)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert name in str(raised.value.details())
            del catalog.rows[row_key(name)]
        assert [table.name for table in (await metadata(cluster)).tables] == ["default"]


@in_loop
async def test_who_means_another_cluster_of_this_name_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path, filled()) as cluster:
        known = replication.Boathouse(version=1, table_id=DEFAULT_TABLE_ID)
        known.identity = (await metadata(cluster)).identity
        request = replication.ReplicateRequest(table=b"default", leader_index=2, boathouse=known)
        assert (await first_message(cluster, request)).leader_index == 4
        known.identity = "0" * 32
        request.boathouse.MergeFrom(known)
        assert (await refused(replicate(cluster, request)))[0] == "FAILED_PRECONDITION"
        taking = replication.SnapshotRequest(table=b"default", boathouse=known)
        assert (await refused(snapshot(cluster, taking)))[0] == "FAILED_PRECONDITION"


@in_loop
async def test_where_tables_stand_is_told_whatever_is_compacted(tmp_path: Path) -> None:
    shard = filled()
    shard.machine.tables.get(TABLE).compacted = 3  # type: ignore[union-attr]
    async with serving(tmp_path, shard) as cluster:
        get = cluster.raw("/replication.v1.Metadata/Get")
        (unasked,) = replication.MetadataResponse.FromString(await get(b"")).tables
        request = replication.MetadataRequest(positions=True).SerializeToString()
        (table,) = replication.MetadataResponse.FromString(await get(request)).tables
    assert not unasked.HasField("position")
    revision, checksum, _ = position(shard, TABLE)
    assert table.position == replication.Position(revision=revision, checksum=checksum)


@in_loop
async def test_a_follower_cluster_of_regatta_gets_every_revision_as_a_command(tmp_path: Path) -> None:
    async with serving(tmp_path, filled()) as cluster:
        request = replication.ReplicateRequest(table=b"default", leader_index=1)
        *messages, end = await replicate(cluster, request)
    assert end == bytes.fromhex("4004")  # nothing but the index
    (message,) = [replication.ReplicateResponse.FromString(message) for message in messages]
    assert message.leader_index == 4
    commands = list(message.commands_response.commands)
    assert [(one.leader_index, one.command.leader_index) for one in commands] == [
        (n, n) for n in (1, 2, 3, 4)
    ]
    assert all(one.command.table == b"default" for one in commands)
    first, second, third, fourth = (one.command for one in commands)
    assert first.type == mvcc.Command.DUMMY
    assert (second.type, second.kv) == (mvcc.Command.PUT, mvcc.KeyValue(key=b"a", value=b"1"))
    assert third.type == mvcc.Command.SEQUENCE
    assert [(one.type, one.kv.key) for one in third.sequence] == [
        (mvcc.Command.PUT, b"b"),
        (mvcc.Command.DELETE, b"a"),
    ]
    assert not third.sequence[1].HasField("range_end")
    assert fourth.kv == mvcc.KeyValue(key=b"c", value=b"3")


@in_loop
async def test_who_is_up_to_date_hears_just_that(tmp_path: Path) -> None:
    async with serving(tmp_path, filled()) as cluster:
        request = replication.ReplicateRequest(table=b"default", leader_index=5)
        assert await replicate(cluster, request) == [bytes.fromhex("4004")]


@in_loop
async def test_who_is_ahead_or_too_far_behind_is_told_so(tmp_path: Path) -> None:
    shard = filled()
    async with serving(tmp_path, shard) as cluster:
        for known in (replication.ReplicateRequest(), replication.ReplicateRequest(boathouse=BOATHOUSE)):
            request = replication.ReplicateRequest(table=b"default", leader_index=6)
            request.MergeFrom(known)
            assert await replicate(cluster, request) == [bytes.fromhex("12020801")]
        shard.connection.execute("UPDATE tables SET compacted = 3")
        shard.machine.tables.get(TABLE).compacted = 3  # type: ignore[union-attr]
        for known in (replication.ReplicateRequest(), replication.ReplicateRequest(boathouse=BOATHOUSE)):
            request = replication.ReplicateRequest(table=b"default", leader_index=2)
            request.MergeFrom(known)
            # Only boathouse is told where the table stands.
            index = "4004" if known.HasField("boathouse") else ""
            assert await replicate(cluster, request) == [bytes.fromhex("1200" + index)]


@in_loop
async def test_commands_are_sent_in_messages_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.services.regatta_replication.MESSAGE_BYTES_MAX", 70)
    async with serving(tmp_path, filled()) as cluster:
        *messages, _ = await replicate(
            cluster, replication.ReplicateRequest(table=b"default", leader_index=1)
        )
    batches = [
        replication.ReplicateResponse.FromString(message).commands_response.commands for message in messages
    ]
    assert [len(commands) for commands in batches] == [2, 1, 1]


@in_loop
async def test_a_command_that_no_follower_can_receive_is_passed_over_by_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion of many keys, which are told one by one."""
    monkeypatch.setattr("coordinator.services.regatta_replication.MESSAGE_BYTES_MAX", 40)
    async with serving(tmp_path, filled()) as cluster:
        request = replication.ReplicateRequest(table=b"default", leader_index=2)
        first, *rest = await replicate(cluster, request)
        (command,) = replication.ReplicateResponse.FromString(first).commands_response.commands
        assert command.leader_index == 2, "what is ahead of it goes"
        assert rest == [bytes.fromhex("1200")]
        chunks = await snapshot(cluster, replication.SnapshotRequest(table=b"default"))
    content = bytes(cramjam.snappy.decompress(b"".join(chunk.data for chunk in chunks)))
    assert (
        mvcc.Command(table=b"default", type=mvcc.Command.DUMMY, leader_index=4).SerializeToString() in content
    )


@in_loop
async def test_a_follower_cluster_of_boathouse_is_told_what_the_shard_stored(tmp_path: Path) -> None:
    shard = filled()
    async with serving(tmp_path, shard) as cluster:
        request = replication.ReplicateRequest(table=b"default", leader_index=2, boathouse=BOATHOUSE)
        message = await first_message(cluster, request)
    assert message.leader_index == 4
    assert not message.HasField("commands_response")
    changes = frames.TableChanges.FromString(message.changes)
    assert changes.auth_version == 2
    changes.ClearField("auth_version")
    assert changes == told(history(shard.connection, TABLE, 2), 2)


@in_loop
async def test_a_stream_that_waits_ends_in_time_for_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.services.regatta_replication.STREAM_S", 0.2)
    async with serving(tmp_path, filled()) as cluster:
        request = replication.ReplicateRequest(table=b"default", leader_index=5, boathouse=BOATHOUSE)
        for worker in cluster.workers.values():
            worker.script[frames.TABLE_CHANGES] = lambda asked: frames.Reply(
                revision=4, body=frames.TableChanges(first=5, through=4, checksum=9).SerializeToString()
            )
        messages = await replicate(cluster, request)
    assert {replication.ReplicateResponse.FromString(one).leader_index for one in messages} == {4}


@in_loop
async def test_a_replica_that_does_not_come_further_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with a full disk goes on answering: whoever follows by it alone would be level for ever, years behind."""
    monkeypatch.setattr("coordinator.catalog.source.LAGS_S", 0.05)
    monkeypatch.setattr("coordinator.catalog.source.CATCH_UP_S", 0.2)
    shard = filled()

    def stuck(asked: frames.Request) -> frames.Reply:
        first = frames.ChangesRequest.FromString(asked.body).from_revision
        body = frames.TableChanges(first=first, through=first - 1)
        return frames.Reply(revision=2, body=body.SerializeToString())

    for request in (
        replication.ReplicateRequest(table=b"default", leader_index=3, boathouse=BOATHOUSE),
        replication.ReplicateRequest(table=b"default", leader_index=3),
    ):
        async with serving(tmp_path, shard) as cluster:
            cluster.workers[1, 1].script[frames.TABLE_CHANGES] = (
                stuck  # the nearest, on the coordinator's own node
            )
            cluster.elect(1, leader=2, term=2)
            message = await first_message(cluster, request)
            assert message.leader_index == 4
            told = frames.TableChanges.FromString(message.changes)
            assert told.through == 4 or len(message.commands_response.commands) == 2

            # Where the leader has no more than that, nobody says that there is nothing.
            for worker in cluster.workers.values():
                worker.script[frames.TABLE_CHANGES] = stuck
            assert (await refused(replicate(cluster, request)))[0] == "UNAVAILABLE"


@in_loop
async def test_refusals_have_the_codes_that_followers_go_by(tmp_path: Path) -> None:
    async with serving(tmp_path, filled()) as cluster:

        async def refusal(**request: object) -> tuple[str, str]:
            return await refused(replicate(cluster, replication.ReplicateRequest(**request)))  # type: ignore[arg-type]

        assert await refusal(table=b"nope") == (
            "INVALID_ARGUMENT",
            "invalid leaderIndex: leaderIndex must be greater than 0",
        )
        assert await refusal(table=b"nope", leader_index=1) == ("NOT_FOUND", "table not found")
        assert await refusal(table=b"_catalog", leader_index=1) == ("NOT_FOUND", "table not found")
        other = replication.Boathouse(version=1, table_id=DEFAULT_TABLE_ID + 1)
        assert await refusal(table=b"default", leader_index=1, boathouse=other) == (
            "NOT_FOUND",
            "table not found",
        )
        newer = replication.Boathouse(version=2, table_id=DEFAULT_TABLE_ID)
        assert (await refusal(table=b"default", leader_index=1, boathouse=newer))[0] == "INVALID_ARGUMENT"
        assert await refused(snapshot(cluster, replication.SnapshotRequest(table=b"nope"))) == (
            "UNAVAILABLE",
            "unable to stream from table 'nope': table not found",
        )


@in_loop
async def test_a_snapshot_in_regattas_form_is_snappy_of_commands_and_the_index_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.services.regatta_replication.CHUNK_BYTES_MAX", 16)
    async with serving(tmp_path, filled()) as cluster:
        chunks = await snapshot(cluster, replication.SnapshotRequest(table=b"default"))
    assert len(chunks) > 1
    assert all(chunk.len == len(chunk.data) and not chunk.index for chunk in chunks)
    compressed = b"".join(chunk.data for chunk in chunks)
    assert compressed.startswith(b"\xff\x06\x00\x00sNaPpY")
    content = bytes(cramjam.snappy.decompress(compressed))
    commands = []
    while content:
        size = int.from_bytes(content[:8], "little")
        commands.append(mvcc.Command.FromString(content[8 : 8 + size]))
        content = content[8 + size :]
    assert [(one.type, one.kv.key, one.kv.value) for one in commands] == [
        (mvcc.Command.PUT, b"b", b"2"),
        (mvcc.Command.PUT, b"c", b"3"),
        (mvcc.Command.DUMMY, b"", b""),
    ]
    assert commands[-1].leader_index == 4


@in_loop
async def test_a_snapshot_for_boathouse_holds_the_pairs_as_stored(tmp_path: Path) -> None:
    shard = filled()
    async with serving(tmp_path, shard) as cluster:
        request = replication.SnapshotRequest(table=b"default", boathouse=BOATHOUSE)
        chunks = await snapshot(cluster, request)
        request.boathouse.waits = True
        making, *later = await snapshot(cluster, request)
    assert (making, later) == (replication.SnapshotChunk(), chunks), "earlier versions know no such sign"
    (part,) = [frames.TablePairs.FromString(chunk.pairs) for chunk in chunks]
    assert part.pairs in contents(shard, TABLE)
    assert (part.revision, part.last, part.keys) == (4, True, 2)


@in_loop
async def test_who_shows_a_token_gets_the_users_ahead_of_what_they_may_read(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("token-of-the-island")
    tokens.chmod(0o600)
    shard = filled()
    shard.machine.auth.replace(TABLE, TableAuth(enabled=True, revision=3, users={"u": User("h", False, ())}))
    request = replication.ReplicateRequest(table=b"default", leader_index=2, boathouse=BOATHOUSE)
    async with serving(tmp_path / "cluster", shard, tokens) as cluster:
        method = cluster.channel.unary_stream("/replication.v1.Log/Replicate", bytes, bytes)
        assert (await refused(replicate(cluster, request)))[0] == "UNAUTHENTICATED"
        call = method(request.SerializeToString(), metadata=((TOKEN_KEY, "token-of-the-island"),))
        bodies = [await call.read(), await call.read()]
        call.cancel()
    first, second = (
        replication.ReplicateResponse.FromString(body) for body in bodies if isinstance(body, bytes)
    )
    users = frames.TableUsers.FromString(first.users)
    assert [row.name for row in users.rows] == [b"", b"u"]
    assert not first.changes
    assert frames.TableChanges.FromString(second.changes).through == 4


@in_loop
async def test_without_tokens_no_cluster_copies_a_table_that_has_users_whatever_its_certificate_says(
    tmp_path: Path,
) -> None:
    """It would have the table without them, and everybody there could read all of it."""
    shard = filled()
    root = frames.Rights(auth_version=3, user="root", root=True).SerializeToString()
    request = replication.ReplicateRequest(table=b"default", leader_index=2, boathouse=BOATHOUSE)
    taking = replication.SnapshotRequest(table=b"default", boathouse=BOATHOUSE)
    async with serving(tmp_path, shard) as cluster:
        for worker in cluster.workers.values():
            worker.script[frames.AUTH_RIGHTS] = lambda _: frames.Reply(term=1, leader=1, body=root)
        assert (await first_message(cluster, request)).leader_index == 4
        shard.machine.auth.replace(
            TABLE, TableAuth(enabled=True, revision=3, users={"u": User("h", False, ())})
        )
        assert (await refused(replicate(cluster, request)))[0] == "UNAUTHENTICATED"
        code, why = await refused(snapshot(cluster, taking))
        assert code == "UNAUTHENTICATED"
        assert "replication.token_file" in why


@in_loop
async def test_without_tokens_only_root_copies_such_a_table_in_regattas_form(tmp_path: Path) -> None:
    shard = filled()
    request = replication.ReplicateRequest(table=b"default", leader_index=2)
    async with serving(tmp_path, shard) as cluster:
        for worker in cluster.workers.values():
            worker.script[frames.AUTH_RIGHTS] = lambda _: errors.UserEmpty()
        assert (await refused(replicate(cluster, request)))[0] == "UNAUTHENTICATED"


@in_loop
async def test_where_anybody_could_say_so_a_cluster_does_not_give_way() -> None:
    class Steady:
        async def now(self) -> Lead:
            return Lead(cluster="harbour")

    anything: Any = None
    leading: Any = Steady()
    gate = Gate(ReplicationConfig(), lambda: 0.0)
    service = RegattaReplication(
        "harbour", gate, anything, anything, anything, leading, anything, is_exposed=True
    )
    request = replication.MetadataRequest(lead=replication.Lead(epoch=2, cluster="island"))
    call = LocalCall((request.SerializeToString(),), metadata={}, deadline=0.0, peer="test", identity=ANYBODY)
    with pytest.raises(errors.BadReplicationToken, match=r"replication\.token_file"):
        await service.get(call)


@in_loop
async def test_a_cluster_that_follows_finishes_giving_way_to_the_one_it_goes_by_and_to_no_other() -> None:
    finished: list[str] = []

    class Following:
        async def now(self) -> Lead:
            return Lead(2, "island")

        async def finish_giving_way(self, tables: Iterable[replication.Table], _check: object) -> None:
            finished.extend(table.name for table in tables)

    class Nothing:
        unread = ()
        entries: Mapping[str, TableEntry] = {}

        async def contents(self) -> Nothing:
            return self

        async def own(self) -> str:
            return "a" * 32

    gate, leading, nothing, anything = (
        cast("Any", one) for one in (Gate(ReplicationConfig(), lambda: 0.0), Following(), Nothing(), None)
    )
    for is_exposed in (False, True):
        service = RegattaReplication(
            "harbour",
            gate,
            nothing,
            nothing,
            anything,
            leading,
            anything,
            follows=True,
            is_exposed=is_exposed,
        )
        for lead in (Lead(2, "island"), Lead(2, "reef"), Lead(3, "island"), Lead(1, "island")):
            said = replication.Lead(epoch=lead.epoch, cluster=lead.cluster)
            said.tables.add(name=f"{lead.cluster} {lead.epoch}", id=20_001, origin=10_001)
            body = replication.MetadataRequest(lead=said).SerializeToString()
            call = LocalCall((body,), metadata={}, deadline=0.0, peer="test", identity=ANYBODY)
            answer = replication.MetadataResponse.FromString(await service.get(call))
            assert (answer.lead.epoch, answer.lead.cluster, answer.follows) == (2, "island", True)
    assert finished == ["island 2"], "and where anybody could say so, to none"
