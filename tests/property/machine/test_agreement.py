"""Random programs give the same answers on two replicas and on a model that replays a list.

The replicas get the same entries, but each compacts physically at its own pace, is restarted at its own moments,
and has transactions rolled back under it that it then applies again."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import apsw
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proto import errors
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.methods import LEVEL
from proto.regatta import mvcc_pb2, regatta_pb2
from shardworker.machine import (
    FORMAT,
    HistoryLimits,
    Listen,
    StateMachine,
    WindowLimits,
    history,
    lease_ends,
)
from shardworker.machine.level import MachineLevel
from shardworker.machine.statements import CHANGE_BYTES
from tests.property.machine import requests
from tests.property.machine.model import Model

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from shardworker.machine import Result

if TYPE_CHECKING:
    Answer = tuple[int, Message | type[errors.BoathouseError]]
    """The revision in the header, and the answer or the class of the error."""
    Known = tuple[int, Message, Answer]
    """The table and the request that an id stands for, and what came of it."""

HISTORIES = {11: -1, 12: 0, 13: 3}
_LIMITS = WindowLimits(commands_max=12, age_ms_max=40)

_KINDS: dict[type[Message], tuple[int, type[Message]]] = {
    rpc_pb2.RangeRequest: (frames.ETCD_RANGE, rpc_pb2.RangeResponse),
    rpc_pb2.PutRequest: (frames.ETCD_PUT, rpc_pb2.PutResponse),
    rpc_pb2.DeleteRangeRequest: (frames.ETCD_DELETE_RANGE, rpc_pb2.DeleteRangeResponse),
    rpc_pb2.TxnRequest: (frames.ETCD_TXN, rpc_pb2.TxnResponse),
    rpc_pb2.CompactionRequest: (frames.ETCD_COMPACT, rpc_pb2.CompactionResponse),
    rpc_pb2.LeaseGrantRequest: (frames.LEASE_GRANT, rpc_pb2.LeaseGrantResponse),
    rpc_pb2.LeaseRevokeRequest: (frames.LEASE_REVOKE, rpc_pb2.LeaseRevokeResponse),
    frames.ExpiredLeases: (frames.LEASE_EXPIRE, rpc_pb2.LeaseRevokeResponse),
    regatta_pb2.RangeRequest: (frames.REGATTA_RANGE, regatta_pb2.RangeResponse),
    regatta_pb2.PutRequest: (frames.REGATTA_PUT, regatta_pb2.PutResponse),
    regatta_pb2.DeleteRangeRequest: (frames.REGATTA_DELETE_RANGE, regatta_pb2.DeleteRangeResponse),
    regatta_pb2.TxnRequest: (frames.REGATTA_TXN, regatta_pb2.TxnResponse),
}


@dataclass(frozen=True)
class Write:
    """One entry: (table, request, id) each; an id that came before makes it a repeat. `undone` = the replicas
    that roll it back once before they apply it."""

    commands: list[tuple[int, Message, int | None]]
    pause_ms: int
    undone: tuple[int, ...]


@dataclass(frozen=True)
class Read:
    table: int
    request: Message


@dataclass(frozen=True)
class Sweep:
    replica: int
    rows_max: int


@dataclass(frozen=True)
class Restart:
    replica: int


PUT_DELETE_PUT = regatta_pb2.TxnRequest(
    success=[
        mvcc_pb2.RequestOp(request_put=mvcc_pb2.RequestOp.Put(key=b"a", value=b"1")),
        mvcc_pb2.RequestOp(request_delete_range=mvcc_pb2.RequestOp.DeleteRange(key=b"a")),
        mvcc_pb2.RequestOp(request_put=mvcc_pb2.RequestOp.Put(key=b"a", value=b"2")),
    ]
)

tables = st.sampled_from(list(HISTORIES))
replicas = st.integers(0, 1)
steps = st.one_of(
    st.builds(
        Write,
        st.lists(
            st.tuples(tables, requests.writes, st.one_of(st.none(), st.integers(0, 15))),
            min_size=1,
            max_size=4,
        ),
        st.integers(0, 15),
        st.sampled_from([(), (), (), (0,), (1,), (0, 1)]),
    ),
    st.builds(
        Write,
        st.lists(st.tuples(tables, requests.writes, st.none()), min_size=1, max_size=3),
        st.just(1),
        st.just(()),
    ),
    st.builds(Read, tables, requests.reads),
    st.builds(Read, tables, requests.reads),
    st.builds(Sweep, replicas, st.integers(1, 4)),
    st.builds(Restart, replicas),
)


class Replica:
    def __init__(self, path: Path):
        self._path = path
        self.open()

    def open(self) -> None:
        self.connection = apsw.Connection(str(self._path))
        self.connection.pragma("synchronous", 0)
        self.connection.pragma("journal_mode", "wal")
        MachineLevel(self.connection, LEVEL).rise(LEVEL)
        self.machine = StateMachine(self.connection, 2, _LIMITS)
        self.machine.listen(dict.fromkeys(HISTORIES, Listen.WITH_PREVIOUS))
        self.machine.committed()
        self.reader = apsw.Connection(str(self._path), apsw.SQLITE_OPEN_READONLY)

    def restart(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        self.reader.close()
        self.connection.close()

    def apply(self, index: int, batch: frames.CommandBatch, *, undo_first: bool) -> list[Result]:
        if undo_first:
            before = (self.machine.table_status(), self.machine.checksum, self.machine.time_ms)
            self.connection.execute("BEGIN IMMEDIATE")
            self.machine.apply(index, batch)
            self.machine.compaction_step(2)
            self.connection.execute("ROLLBACK")
            self.machine.rollback()
            assert (self.machine.table_status(), self.machine.checksum, self.machine.time_ms) == before
        self.connection.execute("BEGIN IMMEDIATE")
        results = self.machine.apply(index, batch)
        self.connection.execute("COMMIT")
        self.machine.committed()
        return results

    def rows(self, table: int) -> list[tuple[int, bytes, bool]]:
        """What is physically there: (revision, key, is it a tombstone), in order."""
        text = f"SELECT id >> 24, key, kv ISNULL FROM t{table}_rev ORDER BY id"  # noqa: S608
        found: Any = self.connection.execute(text)
        return [(revision, key, bool(dead)) for revision, key, dead in found]

    def check_size(self, table: int) -> None:
        """What the table is counted to hold is what it holds."""
        state = self.machine.tables.get(table)
        assert state is not None
        text = f"SELECT total(length(key) + ifnull(length(kv), 0) + ?) FROM t{table}_rev"  # noqa: S608
        recount = self.connection.execute(text, (CHANGE_BYTES,)).get
        assert state.written_bytes - state.swept_bytes == recount

    def sweep(self, rows_max: int) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.machine.compaction_step(rows_max)
        self.connection.execute("COMMIT")
        self.machine.committed()


class Window:
    """The remembered results, as a plain list."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, dict[bytes, Known]]] = []

    def find(self, request_id: bytes) -> Known | None:
        for _, results in self.entries:
            if request_id in results:
                return results[request_id]
        return None

    def add(self, time_ms: int, results: dict[bytes, Known]) -> None:
        self.entries.append((time_ms, results))
        while len(self.entries) > 1 and (
            sum(len(results) for _, results in self.entries) > _LIMITS.commands_max
            or self.entries[0][0] < time_ms - _LIMITS.age_ms_max
        ):
            del self.entries[0]


def value_of(stored: bytes | None) -> bytes | None:
    return None if stored is None else rpc_pb2.RangeResponse.FromString(stored).kvs[0].value


def ask(model: Model, request: Message) -> Answer:
    try:
        answer: Message | type[errors.BoathouseError] = model.answer(request)
    except errors.BoathouseError as error:
        answer = type(error)
    return model.revision, answer


def check(result: Result, request: Message, expected: Answer, kind: type[Message]) -> None:
    revision, answer = expected
    if isinstance(answer, type):
        assert type(result.error) is answer, (request, result, answer)
        assert result.body == b""
    else:
        assert result.error is None, (request, result.error, answer)
        assert kind.FromString(result.body) == answer, request
    assert result.revision == revision


class Cluster:
    def __init__(self, folder: Path):
        self.replicas = [Replica(folder / f"{name}.db") for name in "ab"]
        self.models = {table: Model(history) for table, history in HISTORIES.items()}
        self.window = Window()
        self.index = self.time_ms = self.commands = 0
        specs = [
            frames.TableSpec(id=table, name=f"t{table}", history=history)
            for table, history in HISTORIES.items()
        ]
        creates = [
            frames.Command(
                method=frames.TABLE_CREATE,
                body=spec.SerializeToString(),
                request_id=spec.id.to_bytes(16, "little"),
            )
            for spec in specs
        ]
        for replica in self.replicas:
            replica.apply(1, frames.CommandBatch(commands=creates, format=FORMAT), undo_first=True)
        self.index = 1

    def step(self, step: Write | Read | Sweep | Restart) -> None:
        match step:
            case Write():
                self.write(step)
            case Read():
                self.read(step)
            case Sweep():
                self.replicas[step.replica].sweep(step.rows_max)
            case Restart():
                self.replicas[step.replica].restart()

    def write(self, step: Write) -> None:
        self.index += 1
        self.time_ms += step.pause_ms
        batch = frames.CommandBatch(time_ms=self.time_ms, format=FORMAT)
        expected: list[tuple[Message, type[Message], Answer]] = []
        fresh: dict[bytes, Known] = {}
        counts = {table: len(model.changes) for table, model in self.models.items()}
        for table, request, number in step.commands:
            method, kind = _KINDS[type(request)]
            self.commands += 1
            request_id = (1000 + self.commands if number is None else number).to_bytes(16, "big")
            batch.commands.add(
                method=frames.Method.ValueType(method),
                table_id=table,
                body=request.SerializeToString(),
                request_id=request_id,
            )
            remembered = fresh.get(request_id) or self.window.find(request_id)
            if remembered is None:
                self.models[table].index = self.index
                remembered = fresh[request_id] = (table, request, ask(self.models[table], request))
            same = remembered[:2] == (table, request)
            known = remembered[2] if same else (0, errors.RequestIdReused)
            expected.append((request, type(known[1]) if not isinstance(known[1], type) else kind, known))
        if fresh:
            self.window.add(self.time_ms, fresh)
        for number, replica in enumerate(self.replicas):
            results = replica.apply(self.index, batch, undo_first=number in step.undone)
            for result, (request, kind, answer) in zip(results, expected, strict=True):
                check(result, request, answer, kind)
            self.check_changes(replica, counts)
        self.compare_replicas()

    def check_changes(self, replica: Replica, counts: dict[int, int]) -> None:
        """What a replica says it changed is what the model did since it had so many changes."""
        told: dict[int, list[tuple[int, bytes, bytes | None]]] = {table: [] for table in HISTORIES}
        for change in replica.machine.take_changes():
            assert change.edits
            for edit in change.edits:
                told[change.table_id].append((change.revision, edit.key, value_of(edit.kv)))
        for table, model in self.models.items():
            done = [(change.revision, change.key, change.value) for change in model.changes[counts[table] :]]
            assert told[table] == done

    def read(self, step: Read) -> None:
        method, kind = _KINDS[type(step.request)]
        answer = ask(self.models[step.table], step.request)
        for replica in self.replicas:
            for connection in (replica.connection, replica.reader):
                request = replica.machine.parse(method, step.table, step.request.SerializeToString())
                result = replica.machine.read(connection, request)
                check(result, step.request, answer, kind)

    def compare_replicas(self) -> None:
        left, right = (replica.machine for replica in self.replicas)
        assert left.table_status() == right.table_status()
        assert left.checksum == right.checksum
        for replica in self.replicas:
            for table in self.models:
                replica.check_size(table)
        for status in left.table_status():
            model = self.models[status.id]
            state = model.state()
            for replica in self.replicas:
                leases = replica.machine.leases.of_table(status.id)
                assert {lease.id: lease.granted_at for lease in leases.values()} == model.leases
                for lease_id in requests.LEASES:
                    attached = [key for key, kv in state.items() if kv.lease == lease_id]
                    assert replica.machine.lease_keys(replica.connection, status.id, lease_id) == attached
            assert (status.revision, status.compacted_revision, status.keys) == (
                model.revision, model.floor, len(state),
            )  # fmt: skip

    def finish(self) -> None:
        """All of readable history, before and after everything was swept, and exactly the rows that it needs."""
        for is_swept in (False, True):
            for table, model in self.models.items():
                for revision in range(max(1, model.floor), model.revision + 1):
                    self.read(
                        Read(table, rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
                    )
                    self.read(Read(table, rpc_pb2.RangeRequest(key=b"b", revision=revision)))
            if not is_swept:
                for replica in self.replicas:
                    while replica.machine.is_compacting:
                        replica.sweep(2)
        for table, model in self.models.items():
            self.check_history(table, model)
            needed = self.needed_rows(model)
            for replica in self.replicas:
                assert replica.rows(table) == needed
                replica.check_size(table)
            swept = {
                getattr(replica.machine.tables.get(table), "swept_bytes", None) for replica in self.replicas
            }
            assert len(swept) == 1

    def check_history(self, table: int, model: Model) -> None:
        """A table's log tells what the machine told, as far back as it can be read."""
        start = max(model.floor, 0)
        later = [change for change in model.changes if change.revision >= start]
        done = [
            (change.revision, change.key, change.value)
            for at, change in enumerate(later)
            # Within the floor's own revision, what the same command replaced is gone, see needed_rows.
            if change.revision > start
            or (change.value is None and model.history == 0)
            or not any(again.key == change.key for again in later[at + 1 :] if again.revision == start)
        ]
        for replica in self.replicas:
            found = [
                (change.revision, edit.key, value_of(edit.kv))
                for change in history(replica.reader, table, start, HistoryLimits(edits_max=2))
                for edit in change.edits
            ]
            assert found == done

    @staticmethod
    def needed_rows(model: Model) -> list[tuple[int, bytes, bool]]:
        """Without history, what a put replaces goes at once, but for a tombstone of its own command: that goes when a
        later revision has come, as other tombstones do."""
        floor = model.floor
        newest: dict[bytes, int] = {}
        for at, change in enumerate(model.changes):
            if change.revision <= floor:
                newest[change.key] = at
        kept = []
        for at, change in enumerate(model.changes):
            dead = change.value is None
            replaced = newest.get(change.key) != at
            if dead and model.history == 0 and change.revision == floor:
                replaced = False
            if change.revision <= floor and (replaced or (dead and change.revision < floor)):
                continue
            kept.append((change.revision, change.key, dead))
        return kept

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()


@pytest.mark.parametrize("few_keys", [1, lease_ends.FEW_KEYS])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@example([Write([(12, PUT_DELETE_PUT, None)], 1, ())])
@given(st.lists(steps, min_size=5, max_size=40))
def test_replicas_and_the_model_agree(few_keys: int, program: list[Write | Read | Sweep | Restart]) -> None:
    with tempfile.TemporaryDirectory() as folder, patch.object(lease_ends, "FEW_KEYS", few_keys):
        cluster = Cluster(Path(folder))
        try:
            for step in program:
                cluster.step(step)
            cluster.finish()
        finally:
            cluster.close()
