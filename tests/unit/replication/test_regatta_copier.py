"""The copy of a table in a cluster that speaks no replication but Regatta's: a copier between a stand-in for such a one
and the machine of a shard."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from config.access import FollowsConfig
from coordinator.replication import regatta_copier
from coordinator.replication.leader import Leader, LeaderFailed, Unfit
from coordinator.replication.plan import make_plan
from coordinator.replication.regatta_copier import RegattaCopier
from coordinator.replication.regatta_tables import HISTORY, by_name, check_new
from coordinator.replication.tail import STALLED_S
from proto.catalog import ELSEWHERE, REGATTA, TableEntry
from proto.etcd.rpc_pb2 import RangeResponse
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import LEVEL
from proto.regatta import mvcc_pb2 as mvcc
from shardworker.machine import budget
from tests.regatta_stand_in import StandIn, Table
from tests.simulation.following import Prefixes
from tests.unit.coordinator.running import in_loop
from tests.unit.machine.copying import COPY, contents
from tests.unit.machine.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from proto.regatta import replication_pb2 as replication

ENTRY = TableEntry("t", COPY, ShardId(2), HISTORY, origin=REGATTA)
Kind = mvcc.Command


class Done(Exception):
    """The copier has waited as often as the test lets it."""


class Clock:
    """Of which a copier that is level sees nothing but its waits."""

    def __init__(self, waits_max: int) -> None:
        self._left = waits_max

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self._left -= 1
        if self._left < 0:
            raise Done

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.create_task(work)


class Copies:
    """copies.Copies, of one shard."""

    def __init__(self) -> None:
        self.shard = shard = Shard(create=False)
        shard.write(frames.MachineLevel(level=LEVEL))
        shard.write(frames.TableSpec(id=COPY, name="t", history=HISTORY, origin=REGATTA))
        self.kept: list[bytes] = []
        self.prefixes = Prefixes()

    async def status(self, copy: TableEntry) -> frames.TableStatus:
        return frames.TableStatus.FromString(self.shard.read_as(frames.TABLE_STATUS, b"", copy.id).body)

    async def follow(self, copy: TableEntry, commands: bytes, *, after: int) -> int:
        told = frames.FollowedCommands(origin=copy.origin, after=after, commands=commands)
        return frames.FollowedIndex.FromString(self._write(told)).leader_index

    async def take_followed(
        self, copy: TableEntry, part: bytes, _time_s: float, *, leader_index: int
    ) -> bytes:
        return self._write(frames.FollowedPart(origin=copy.origin, part=part, leader_index=leader_index))

    def _write(self, request: frames.FollowedCommands | frames.FollowedPart) -> bytes:
        result = self.shard.write(request, table=COPY)
        if result.error is not None:
            raise result.error
        return result.body

    async def keep(self, _copy: TableEntry, status: frames.TableStatus, *, is_fresh: bool) -> None:
        """aside.Aside."""
        self.kept.append(contents(self.shard, COPY))

    @property
    def pairs(self) -> dict[bytes, bytes]:
        return {kv.key: kv.value for kv in RangeResponse.FromString(contents(self.shard, COPY)).kvs}


async def copy(regatta: StandIn, copies: Copies, waits: int = 0) -> RegattaCopier:
    """What a copier makes of it until it has nothing to do."""
    there: Any = copies
    leader = Leader("island", regatta)
    copier = RegattaCopier(ENTRY, leader, there, copies.prefixes, copies, random.Random(1), Clock(waits))
    with pytest.raises(Done):
        await copier.run()
    return copier


def put(key: bytes, value: bytes = b"v") -> mvcc.Command:
    return Kind(type=Kind.PUT, kv=mvcc.KeyValue(key=key, value=value))


def delete(key: bytes, end: bytes | None = None) -> mvcc.Command:
    return Kind(type=Kind.DELETE, kv=mvcc.KeyValue(key=key), range_end=end)


@pytest.fixture
def regatta() -> StandIn:
    one = StandIn()
    one.tables["t"] = Table()
    batch = [mvcc.KeyValue(key=b"c", value=b"1"), mvcc.KeyValue(key=b"d", value=b"2")]
    one.write(
        "t",
        Kind(type=Kind.DUMMY),
        *(put(b"a%d" % number, b"%d" % number) for number in range(10)),
        Kind(type=Kind.PUT_BATCH, batch=batch),
        delete(b"a3", b"a5"),
        Kind(type=Kind.SEQUENCE, sequence=[put(b"a0", b"again"), delete(b"c")]),
    )
    return one


@in_loop
async def test_a_log_is_followed_to_its_end_and_from_there(
    regatta: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regatta_copier, "BATCH_BYTES", 50)
    copies = Copies()
    copier = await copy(regatta, copies)
    assert copies.pairs == regatta.tables["t"].pairs
    told = copier.report(0.0)
    assert (told.revision, told.lag_revisions, told.does) == (14, 0, "follows (Regatta's protocol)")
    regatta.write("t", put(b"new"), delete(b"d"))
    await copy(regatta, copies)
    assert copies.pairs == regatta.tables["t"].pairs
    assert (regatta.snapshots, copies.kept) == (0, [])


@in_loop
async def test_where_the_log_is_gone_a_snapshot_leads_on(regatta: StandIn) -> None:
    copies = Copies()
    await copy(regatta, copies)
    regatta.write("t", put(b"unseen"), delete(b"a9"))
    regatta.tables["t"].compacted = regatta.tables["t"].index
    before = (await copies.status(ENTRY)).revision
    await copy(regatta, copies)
    assert copies.pairs == regatta.tables["t"].pairs
    assert (regatta.snapshots, copies.kept) == (1, []), "it has nothing of its own"
    assert (await copies.status(ENTRY)).revision > before
    regatta.write("t", put(b"a9", b"back"))
    await copy(regatta, copies)
    assert (copies.pairs, regatta.snapshots) == (regatta.tables["t"].pairs, 1)


@in_loop
async def test_a_table_that_is_made_anew_or_restored_takes_the_copys_place(regatta: StandIn) -> None:
    copies = Copies()
    await copy(regatta, copies)
    before = contents(copies.shard, COPY)
    regatta.tables["t"] = Table()
    regatta.write("t", put(b"other"))
    await copy(regatta, copies)
    assert (copies.pairs, copies.kept) == ({b"other": b"v"}, [before]), "what it held is set aside"


@pytest.mark.parametrize("more", [0, 1, 7])
@in_loop
async def test_a_table_that_is_made_anew_is_not_followed_from_where_the_old_one_was(
    regatta: StandIn, more: int
) -> None:
    """However far the log of the new one goes."""
    copies = Copies()
    await copy(regatta, copies)
    before = contents(copies.shard, COPY)
    old = regatta.tables["t"]
    regatta.tables["t"] = Table()
    regatta.write("t", *(put(b"other%d" % number) for number in range(old.index + more)))
    await copy(regatta, copies)
    assert (copies.pairs, copies.kept) == (regatta.tables["t"].pairs, [before])
    regatta.write("t", put(b"later"))
    await copy(regatta, copies)
    assert (copies.pairs, regatta.snapshots) == (regatta.tables["t"].pairs, 1)


@in_loop
async def test_a_table_that_is_made_anew_while_its_log_or_snapshot_comes_is_seen(
    regatta: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies()
    await copy(regatta, copies)
    regatta.write("t", put(b"unseen"))

    def make_anew() -> None:
        regatta.tables["t"] = Table()
        regatta.write("t", *(put(b"other%d" % number) for number in range(40)))

    log, pairs = regatta.replicate, regatta.snapshot

    def overtaken(told: Any) -> Any:
        def answer(request: Any) -> Any:
            found = list(told(request))
            monkeypatch.undo()
            make_anew()
            return found

        return answer

    monkeypatch.setattr(regatta, "replicate", overtaken(log))
    await copy(regatta, copies)
    assert copies.pairs == regatta.tables["t"].pairs
    regatta.tables["t"].compacted = regatta.write("t", put(b"compacted"))
    monkeypatch.setattr(regatta, "snapshot", overtaken(pairs))
    await copy(regatta, copies, waits=1)
    assert copies.pairs == regatta.tables["t"].pairs
    assert b"compacted" not in copies.pairs


@in_loop
async def test_a_cluster_that_does_not_say_which_shard_is_a_tables_is_followed_by_names(
    regatta: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those before 0.5, which serve no reads where they serve their log."""

    def refuse(_: object) -> None:
        raise LeaderFailed("UNIMPLEMENTED", "unknown service regatta.v1.KV")

    monkeypatch.setattr(regatta, "range", refuse)
    copies = Copies()
    await copy(regatta, copies)
    regatta.write("t", put(b"new"))
    await copy(regatta, copies)
    assert (copies.pairs, regatta.snapshots) == (regatta.tables["t"].pairs, 0)


@in_loop
async def test_an_empty_table_is_a_snapshot_of_nothing(regatta: StandIn) -> None:
    copies = Copies()
    regatta.write("t", delete(b"\0", b"\0"))
    regatta.tables["t"].compacted = regatta.tables["t"].index
    await copy(regatta, copies)
    assert (copies.pairs, (await copies.status(ENTRY)).leader_index) == ({}, 15)


@in_loop
async def test_a_copy_of_unknown_index_is_set_aside_and_taken_anew(regatta: StandIn) -> None:
    """Of one that was promoted, or reset."""
    copies = Copies()
    await copy(regatta, copies)
    copies.shard.write(frames.CopyReset(origin=REGATTA), table=COPY)
    await copy(regatta, copies)
    assert (copies.pairs, regatta.snapshots, len(copies.kept)) == (regatta.tables["t"].pairs, 1, 1)


@in_loop
async def test_what_no_command_of_ours_may_do_is_brought_by_a_snapshot(
    regatta: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies()
    await copy(regatta, copies)
    monkeypatch.setattr(budget, "ROWS_FREE", 0)
    monkeypatch.setattr(budget, "ROWS_MAX", 6)
    regatta.write("t", put(b"before"), delete(b"\0", b"\0"), put(b"after"))
    await copy(regatta, copies)
    assert (copies.pairs, regatta.snapshots, copies.kept) == ({b"after": b"v"}, 1, [])


@pytest.mark.parametrize("is_in_sequence", [False, True])
@in_loop
async def test_what_the_pair_without_a_key_decides_is_brought_by_a_snapshot(
    regatta: StandIn, is_in_sequence: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def txn(key: bytes, *, if_there: bytes) -> mvcc.Command:
        won = mvcc.RequestOp(request_put=mvcc.RequestOp.Put(key=key, value=b"won"))
        asked = mvcc.Txn(compare=[mvcc.Compare(key=if_there)], success=[won])
        command = Kind(type=Kind.TXN, txn=asked)
        return Kind(type=Kind.SEQUENCE, sequence=[command]) if is_in_sequence else command

    copies = Copies()
    await copy(regatta, copies)
    regatta.write("t", txn(b"", if_there=b"a0"), txn(b"seen", if_there=b"a0"))
    await copy(regatta, copies)
    assert (copies.pairs[b"seen"], regatta.snapshots) == (b"won", 0)
    regatta.write("t", txn(b"a0", if_there=b""))
    await copy(regatta, copies)
    assert copies.pairs | {b"": b"won"} == regatta.tables["t"].pairs
    assert (copies.pairs[b"a0"], regatta.snapshots, copies.kept) == (b"won", 1, [])
    await copy(regatta, copies)
    assert regatta.snapshots == 1

    def replicate(request: replication.ReplicateRequest) -> Iterator[replication.ReplicateResponse]:
        request.leader_index -= 1
        return StandIn.replicate(regatta, request)

    monkeypatch.setattr(regatta, "replicate", replicate)
    await copy(regatta, copies)
    assert regatta.snapshots == 1, "what the snapshot has brought needs no other"


@in_loop
async def test_a_snapshot_that_breaks_off_replaces_nothing(
    regatta: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies()
    await copy(regatta, copies)
    before = copies.pairs
    regatta.write("t", put(b"unseen"))
    regatta.tables["t"].compacted = regatta.tables["t"].index
    whole = regatta.snapshot
    monkeypatch.setattr(regatta, "snapshot", lambda request: list(whole(request))[:-1])
    copier = await copy(regatta, copies, waits=3)
    assert (copies.pairs, "cut short" in copier.tail.trouble) == (before, True)
    assert copier.tail.is_stalled(STALLED_S)
    monkeypatch.undo()
    await copy(regatta, copies)
    assert copies.pairs == regatta.tables["t"].pairs


# ---- which tables ---------------------------------------------------------------------------------------------------


def test_tables_go_by_their_names() -> None:
    told = StandIn()
    told.tables |= {"new": Table(), "t": Table(), "own": Table()}
    own, gone = (
        TableEntry("own", 20_002, ShardId(1)),
        TableEntry("gone", 20_003, ShardId(1), 7, origin=REGATTA),
    )
    here = [ENTRY, own, gone]
    plan = make_plan(by_name(told.metadata().tables, here), here)
    assert (plan.copy, plan.delete, list(plan.refuse)) == ([ENTRY], [gone], ["own"])
    assert [(table.name, table.id, table.history) for table in plan.create] == [("new", REGATTA, HISTORY)]


def test_a_cluster_that_tells_of_no_table_any_more_takes_no_copy_away() -> None:
    with pytest.raises(Unfit, match="no table at all, and 1 of its are copied here"):
        by_name([], [ENTRY])
    assert by_name([], []) == []


def test_copies_of_a_cluster_of_ours_are_not_taken_for_any_of_its() -> None:
    ours = TableEntry("t", 5, ShardId(1), origin=10_001)
    with pytest.raises(Unfit, match="was copied from a cluster of ours"):
        by_name([], [ours])
    assert by_name([], [TableEntry("t", 5, ShardId(1), origin=ELSEWHERE)]) == []
    follows = FollowsConfig(cluster="harbour", endpoints=["127.0.0.1:1"])
    check_new(follows, "")
    with pytest.raises(Unfit, match="of identity abc"):
        check_new(follows, "abc")
