"""Random programs that make, fill and delete tables, on two replicas and on a model that is a few dictionaries.

The replicas free what was deleted at their own pace, are restarted at their own moments, and have entries rolled back
under them. Names are taken again, and ids are asked for again that are dead."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import FORMAT, Result, StateMachine

IDS = range(11, 16)
HISTORIES = {11: -1, 12: 0, 13: 3, 14: -1, 15: 0}


@dataclass(frozen=True)
class Create:
    table: int


@dataclass(frozen=True)
class Delete:
    table: int


@dataclass(frozen=True)
class Put:
    table: int
    key: bytes


@dataclass(frozen=True)
class Entry:
    commands: list[Create | Delete | Put]
    undone: frozenset[int]
    """The replicas that roll it back once before they apply it."""


@dataclass(frozen=True)
class Free:
    replica: int
    rows_max: int


@dataclass(frozen=True)
class Restart:
    replica: int


ids = st.sampled_from(IDS)
puts = st.builds(Put, ids, st.sampled_from([b"a", b"b", b"c"]))
replicas = st.integers(0, 1)
steps = st.one_of(
    st.builds(
        Entry,
        st.lists(
            st.one_of(st.builds(Create, ids), puts, puts, st.builds(Delete, ids)), min_size=1, max_size=6
        ),
        st.frozensets(replicas),
    ),
    st.builds(Free, replicas, st.integers(1, 3)),
    st.builds(Restart, replicas),
)


@dataclass
class Model:
    """Keys and how often each was put, by table."""

    alive: dict[int, dict[bytes, int]] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)

    def run(self, command: Create | Delete | Put) -> type[errors.BoathouseError] | None:
        """The error, if there is one."""
        table = command.table
        match command:
            case Create():
                if table in self.dead:
                    return errors.TableDeleted
                self.alive.setdefault(table, {})
            case Delete():
                self.alive.pop(table, None)
                self.dead.add(table)
            case Put(_, key):
                if table not in self.alive:
                    return errors.TableNotFound
                self.alive[table][key] = self.alive[table].get(key, 0) + 1
        return None


class Replica:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.open()

    def open(self) -> None:
        self.connection = apsw.Connection(str(self._path))
        self.connection.pragma("synchronous", 0)
        self.machine = StateMachine(self.connection, 2)
        self.machine.committed()

    def restart(self) -> None:
        self.connection.close()
        self.open()

    def apply(self, index: int, batch: frames.CommandBatch, *, undo_first: bool) -> list[Result]:
        if undo_first:
            before = self.state()
            self.connection.execute("BEGIN IMMEDIATE")
            self.machine.apply(index, batch)
            self.machine.compaction_step(2)
            self.connection.execute("ROLLBACK")
            self.machine.rollback()
            assert self.state() == before
        self.connection.execute("BEGIN IMMEDIATE")
        results = self.machine.apply(index, batch)
        self.connection.execute("COMMIT")
        self.machine.committed()
        return results

    def state(self) -> tuple[Any, ...]:
        machine = self.machine
        return machine.table_status(), machine.checksum, machine.highest_table_id, machine.is_compacting

    def free(self, rows_max: int) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.machine.compaction_step(rows_max)
        self.connection.execute("COMMIT")
        self.machine.committed()

    def read(self, table: int) -> dict[bytes, int] | type[errors.BoathouseError]:
        """Keys with their versions."""
        body = etcd.RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()
        result = self.machine.read(self.connection, self.machine.parse(frames.ETCD_RANGE, table, body))
        if result.error is not None:
            return type(result.error)
        return {kv.key: kv.version for kv in etcd.RangeResponse.FromString(result.body).kvs}

    def tables_stored(self) -> set[int]:
        """Ids of the tables of which anything is physically there."""
        found: Any = self.connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB 't[0-9]*_*'")
        return {int(name[1:].partition("_")[0]) for (name,) in found}


class Shard:
    def __init__(self, folder: Path) -> None:
        self.replicas = [Replica(folder / f"{name}.db") for name in "ab"]
        self.model = Model()
        self.index = self.commands = 0

    def step(self, step: Entry | Free | Restart) -> None:
        match step:
            case Entry():
                self.apply(step)
            case Free():
                self.replicas[step.replica].free(step.rows_max)
            case Restart():
                self.replicas[step.replica].restart()
        self.compare()

    def apply(self, entry: Entry) -> None:
        self.index += 1
        batch = frames.CommandBatch(format=FORMAT, commands=[self.command(one) for one in entry.commands])
        expected = [self.model.run(command) for command in entry.commands]
        for number, replica in enumerate(self.replicas):
            results = replica.apply(self.index, batch, undo_first=number in entry.undone)
            assert [result.error and type(result.error) for result in results] == expected

    def command(self, command: Create | Delete | Put) -> frames.Command:
        self.commands += 1
        table, request_id = command.table, self.commands.to_bytes(16, "big")
        if isinstance(command, Put):
            body = etcd.PutRequest(key=command.key, value=b"v").SerializeToString()
            return frames.Command(method=frames.ETCD_PUT, table_id=table, body=body, request_id=request_id)
        method = frames.TABLE_CREATE if isinstance(command, Create) else frames.TABLE_DELETE
        spec = frames.TableSpec(id=table, name=f"t{table}", history=HISTORIES[table])
        return frames.Command(method=method, body=spec.SerializeToString(), request_id=request_id)

    def compare(self) -> None:
        left, right = (replica.machine for replica in self.replicas)
        assert left.table_status() == right.table_status()
        assert left.checksum == right.checksum
        highest = max([*self.model.alive, *self.model.dead], default=0)
        for replica in self.replicas:
            assert replica.machine.highest_table_id == highest
            for table in IDS:
                assert replica.read(table) == self.model.alive.get(table, errors.TableNotFound)

    def finish(self) -> None:
        """All that was deleted is freed in the end, and nothing else."""
        for replica in self.replicas:
            while replica.machine.is_compacting:
                replica.free(2)
            assert replica.tables_stored() == self.model.alive.keys()
        self.compare()

    def close(self) -> None:
        for replica in self.replicas:
            replica.connection.close()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=3, max_size=25))
def test_tables_come_and_go_alike(program: list[Entry | Free | Restart]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shard = Shard(Path(folder))
        try:
            for step in program:
                shard.step(step)
            shard.finish()
        finally:
            shard.close()
