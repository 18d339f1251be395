"""What a run against Regatta should cover, on real processes. By line of the list, and where each is looked at:

1. Every row of errors, and which of two wins: test_the_first_violation_wins, test_errors_*; each code also in
   unit/coordinator (test_regatta_kv.py, test_regatta_tables.py, test_replication_service.py).
2. Lengths: test_lengths_*.
3. Ranges: test_ranges_*, test_large_values_*; unit/machine/test_regatta.py.
4. Transactions: test_transactions_*; unit/machine/test_regatta.py; followers: integration/test_replication.py.
5. Deletions: test_deletions_*.
6. Codecs, each way, unary and streaming, and an unknown one: unit/front/test_encodings.py.
7. Backup and restore: test_a_backup_*, test_a_restore_*; by the command line integration/test_backup.py.
8. Follower clusters: integration/test_replication.py.
9. Old and new stubs: test_old_and_new_stubs; unit/coordinator/test_cluster_services.py.

The wire vectors are in unit/proto/test_regatta_wire.py."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import cramjam
import grpc
import pytest

from proto.etcd import rpc_pb2 as etcd
from proto.regatta import early_pb2 as early
from proto.regatta import maintenance_pb2 as maintenance
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from proto.regatta import replication_pb2 as replication
from tests.conformance.conftest import running
from tests.stubs import stub
from tools.bench import systems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TIMEOUT_S: Final = 20.0
SIZE_CAP_BYTES: Final = 4_193_280
T: Final = b"default"


class Regatta:
    """One endpoint."""

    def __init__(self, endpoint: str) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(endpoint, options=options)
        self.kv: Any = stub(self.channel, regatta, "KV")
        self.tables: Any = stub(self.channel, regatta, "Tables")
        self.cluster: Any = stub(self.channel, regatta, "Cluster")
        self.maintenance: Any = stub(self.channel, maintenance, "Maintenance")
        self._names = itertools.count(1)

    def new_table(self, pairs: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """One with these pairs."""
        name = f"t{next(self._names)}"
        self.tables.Create(regatta.CreateTableRequest(name=name), timeout=TIMEOUT_S)
        for key, value in pairs:
            self.kv.Put(regatta.PutRequest(table=name.encode(), key=key, value=value), timeout=TIMEOUT_S)
        return name.encode()

    def range(self, **request: Any) -> regatta.RangeResponse:
        answer: regatta.RangeResponse = self.kv.Range(
            regatta.RangeRequest(linearizable=True, **request), timeout=TIMEOUT_S
        )
        return answer

    def keys(self, **request: Any) -> list[bytes]:
        return [kv.key for kv in self.range(**request).kvs]

    def txn(self, **request: Any) -> regatta.TxnResponse:
        answer: regatta.TxnResponse = self.kv.Txn(regatta.TxnRequest(**request), timeout=TIMEOUT_S)
        return answer

    def backup(self, table: bytes) -> list[replication.SnapshotChunk]:
        return list(self.maintenance.Backup(maintenance.BackupRequest(table=table), timeout=TIMEOUT_S))

    def restore(self, *messages: maintenance.RestoreMessage) -> None:
        self.maintenance.Restore(iter(messages), timeout=TIMEOUT_S)

    def everything(self, table: bytes) -> list[tuple[bytes, bytes]]:
        found = self.range(table=table, key=b"\0", range_end=b"\0").kvs
        return [(kv.key, kv.value) for kv in found]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regatta]:
    folder = tmp_path_factory.mktemp("boathouse")
    with running(systems.Boathouse(folder, nodes=1, shards=2, replicas=1, tables=("default",))) as system:
        found = Regatta(system.endpoints[0])
        yield found
        found.channel.close()


def refused(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code().name, raised.value.details() or ""


# ---- 1: errors ----------------------------------------------------------------------------------------------------

RANGE_ORDER: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"limit": -1}, "INVALID_ARGUMENT", "limit must be a positive number"),
    (
        {"keys_only": True, "count_only": True},
        "INVALID_ARGUMENT",
        "keys_only and count_only must not be set at the same time",
    ),
    ({"min_mod_revision": 1}, "UNIMPLEMENTED", "min_mod_revision not implemented"),
    ({"max_mod_revision": 1}, "UNIMPLEMENTED", "max_mod_revision not implemented"),
    ({"min_create_revision": 1}, "UNIMPLEMENTED", "min_create_revision not implemented"),
    ({"max_create_revision": 1}, "UNIMPLEMENTED", "max_create_revision not implemented"),
    ({"table": b""}, "INVALID_ARGUMENT", "table must be set"),
    ({"key": b""}, "INVALID_ARGUMENT", "key must be set"),
    ({"table": b"nobody"}, "NOT_FOUND", "table not found"),
    ({"key": b"k" * 1025}, "FAILED_PRECONDITION", "key length exceeded max allowed value"),
    ({"range_end": b"k" * 1025}, "FAILED_PRECONDITION", "key length exceeded max allowed value"),
]
"""In the order in which Regatta checks."""


@pytest.mark.parametrize("method", ["Range", "IterateRange"])
@pytest.mark.parametrize("first", range(len(RANGE_ORDER)))
def test_the_first_violation_wins(server: Regatta, method: str, first: int) -> None:
    """Together with each one behind it that concerns another field."""
    fields, code, text = RANGE_ORDER[first]
    if method == "IterateRange" and text.startswith("key length"):
        return  # it has no such check
    for other, _, _ in [({}, "", ""), *RANGE_ORDER[first + 1 :]]:
        request = {"table": T, "key": b"k"} | other | fields
        call = getattr(server.kv, method)
        made = regatta.RangeRequest(**request)
        wanted = (code, text)
        if method == "Range":
            assert refused(lambda: call(made, timeout=TIMEOUT_S)) == wanted, request  # noqa: B023
        else:
            assert refused(lambda: list(call(made, timeout=TIMEOUT_S))) == wanted, request  # noqa: B023


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        ("Put", regatta.PutRequest(), "INVALID_ARGUMENT", "table must be set"),
        ("Put", regatta.PutRequest(table=b"nobody"), "INVALID_ARGUMENT", "key must be set"),
        ("Put", regatta.PutRequest(table=b"nobody", key=b"k" * 2000), "NOT_FOUND", "table not found"),
        ("DeleteRange", regatta.DeleteRangeRequest(), "INVALID_ARGUMENT", "table must be set"),
        ("DeleteRange", regatta.DeleteRangeRequest(table=T), "INVALID_ARGUMENT", "key must be set"),
        (
            "DeleteRange",
            regatta.DeleteRangeRequest(table=b"nobody", key=b"k" * 2000),
            "NOT_FOUND",
            "table not found",
        ),
        ("Txn", regatta.TxnRequest(), "INVALID_ARGUMENT", "table must be set"),
        ("Txn", regatta.TxnRequest(table=b"nobody"), "NOT_FOUND", "table not found"),
    ],
)
def test_errors_of_writes(server: Regatta, method: str, request_: Any, code: str, text: str) -> None:
    assert refused(lambda: getattr(server.kv, method)(request_, timeout=TIMEOUT_S)) == (code, text)


def test_errors_of_maintenance(server: Regatta) -> None:
    assert refused(lambda: server.backup(b"nobody")) == ("NOT_FOUND", "table not found")
    reset = maintenance.ResetRequest(reset_all=True)
    assert refused(lambda: server.maintenance.Reset(reset, timeout=TIMEOUT_S)) == (
        "UNIMPLEMENTED",
        "method Reset not implemented",
    )


ODD_NAMES: Final = [" a", ".", "..", "100%", "a b", "a\\b", "a'b\"", "*", "sys", "ä", "😀", "x" * 255]
"""Regatta takes each of them, but the longest, by which it ends."""


def test_tables_of_any_name_are_served_and_listed_in_order(server: Regatta) -> None:
    for name in ODD_NAMES:
        server.tables.Create(regatta.CreateTableRequest(name=name), timeout=TIMEOUT_S)
        again = regatta.CreateTableRequest(name=name)
        assert refused(lambda: server.tables.Create(again, timeout=TIMEOUT_S)) == (  # noqa: B023
            "INVALID_ARGUMENT",
            "table already exists",
        )
        table = name.encode()
        server.kv.Put(regatta.PutRequest(table=table, key=b"k", value=b"v"), timeout=TIMEOUT_S)
        assert server.everything(table) == [(b"k", b"v")]
        assert len(records(server.backup(table))) == 1
    listed = [one.name for one in server.tables.List(regatta.ListTablesRequest(), timeout=TIMEOUT_S).tables]
    assert listed == sorted(listed, key=str.encode)
    assert set(ODD_NAMES) <= set(listed)
    assert sorted(server.cluster.Status(regatta.StatusRequest(), timeout=TIMEOUT_S).tables) == sorted(listed)
    for name in ODD_NAMES:
        deletion = regatta.DeleteTableRequest(name=name)
        server.tables.Delete(deletion, timeout=TIMEOUT_S)
        assert refused(lambda: server.tables.Delete(deletion, timeout=TIMEOUT_S)) == (  # noqa: B023
            "INVALID_ARGUMENT",
            "table not found",
        )
        assert refused(lambda: server.everything(name.encode()))[0] == "NOT_FOUND"  # noqa: B023


# ---- 2: lengths ---------------------------------------------------------------------------------------------------


def test_lengths_of_keys(server: Regatta) -> None:
    table = server.new_table()
    long, longer = b"k" * 1024, b"k" * 1025
    refusal = ("FAILED_PRECONDITION", "key length exceeded max allowed value")
    server.kv.Put(regatta.PutRequest(table=table, key=long), timeout=TIMEOUT_S)
    put = regatta.PutRequest(table=table, key=longer)
    assert refused(lambda: server.kv.Put(put, timeout=TIMEOUT_S)) == refusal
    assert server.keys(table=table, key=long, range_end=long[:-1] + b"l") == [long]
    assert refused(lambda: server.range(table=table, key=b"k", range_end=longer)) == refusal
    deletion = regatta.DeleteRangeRequest(table=table, key=longer)
    assert refused(lambda: server.kv.DeleteRange(deletion, timeout=TIMEOUT_S)) == refusal
    # The end of a deletion is not checked.
    deletion = regatta.DeleteRangeRequest(table=table, key=b"a", range_end=b"l" * 1025, count=True)
    assert server.kv.DeleteRange(deletion, timeout=TIMEOUT_S).deleted == 1


def test_lengths_of_values_and_requests(server: Regatta) -> None:
    table = server.new_table()
    largest = b"v" * 2_097_152
    server.kv.Put(regatta.PutRequest(table=table, key=b"k", value=largest), timeout=TIMEOUT_S)
    assert server.range(table=table, key=b"k").kvs[0].value == largest
    put = regatta.PutRequest(table=table, key=b"k", value=largest + b"v")
    assert refused(lambda: server.kv.Put(put, timeout=TIMEOUT_S)) == (
        "FAILED_PRECONDITION",
        "value length exceeded max allowed value",
    )
    put = regatta.PutRequest(table=table, key=b"k", value=b"v" * (4 << 20))
    code, text = refused(lambda: server.kv.Put(put, timeout=TIMEOUT_S))
    assert (code, text) == (
        "RESOURCE_EXHAUSTED",
        f"grpc: received message larger than max ({put.ByteSize()} vs. 4194304)",
    )


# ---- 3: ranges ----------------------------------------------------------------------------------------------------


def test_ranges_of_all_forms(server: Regatta) -> None:
    present = [b"\x00", b"\x00\x00", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff"]
    table = server.new_table((key, b"") for key in present)
    assert server.keys(table=table, key=b"a") == [b"a"]
    assert server.keys(table=table, key=b"missing") == []
    assert server.keys(table=table, key=b"a", range_end=b"b") == [b"a", b"a\x00", b"ab"]
    assert server.keys(table=table, key=b"ab", range_end=b"\0") == [b"ab", b"b", b"\xff", b"\xff\xff"]
    assert server.keys(table=table, key=b"\0", range_end=b"\0") == present
    assert server.keys(table=table, key=b"b", range_end=b"a") == []
    assert server.keys(table=table, key=b"a", range_end=b"a") == []
    assert server.keys(table=server.new_table(), key=b"\0", range_end=b"\0") == []


@pytest.mark.parametrize("limit", [4, 5, 6])
def test_ranges_up_to_a_limit(server: Regatta, limit: int) -> None:
    table = server.new_table((b"%d" % n, b"v") for n in range(5))
    found = server.range(table=table, key=b"\0", range_end=b"\0", limit=limit)
    assert (len(found.kvs), found.count, found.more) == (min(limit, 5), min(limit, 5), limit < 5)
    counted = server.range(table=table, key=b"\0", range_end=b"\0", limit=limit, count_only=True)
    assert (len(counted.kvs), counted.count) == (0, min(limit, 5))
    single = server.range(table=table, key=b"1", limit=limit)
    assert (single.count, single.more) == (1, False)
    keys_only = server.range(table=table, key=b"\0", range_end=b"\0", keys_only=True)
    assert {kv.value for kv in keys_only.kvs} == {b""}


def test_large_values_come_in_pages_of_the_cap(server: Regatta) -> None:
    table = server.new_table((b"key/%d" % n, b"v" * (512 << 10)) for n in range(10))
    first = server.range(table=table, key=b"\0", range_end=b"\0")
    assert (len(first.kvs), first.count, first.more) == (7, 7, True)
    assert first.ByteSize() < SIZE_CAP_BYTES + 100
    everything = regatta.RangeRequest(table=table, key=b"\0", range_end=b"\0", linearizable=True)
    parts = list(server.kv.IterateRange(everything, timeout=TIMEOUT_S))
    assert [(len(part.kvs), part.count, part.more) for part in parts] == [(7, 7, True), (3, 3, False)]
    limited = regatta.RangeRequest(table=table, key=b"\0", range_end=b"\0", limit=8)
    parts = list(server.kv.IterateRange(limited, timeout=TIMEOUT_S))
    assert [(part.count, part.more) for part in parts] == [(7, True), (1, True)], "there are two more keys"
    nothing = regatta.RangeRequest(table=table, key=b"x", range_end=b"y")
    (only,) = server.kv.IterateRange(nothing, timeout=TIMEOUT_S)
    assert (len(only.kvs), only.count, only.more, only.HasField("header")) == (0, 0, False, True)


# ---- 4: transactions ----------------------------------------------------------------------------------------------

OPERATORS: Final = {
    mvcc.Compare.EQUAL: lambda held, given: held == given,
    mvcc.Compare.NOT_EQUAL: lambda held, given: held != given,
    mvcc.Compare.GREATER: lambda held, given: held > given,
    mvcc.Compare.LESS: lambda held, given: held < given,
}


@pytest.mark.parametrize("result", OPERATORS)
def test_transactions_compare_values(server: Regatta, result: Any) -> None:
    values = {b"empty": b"", b"short": b"m", b"equal": b"mm", b"long": b"mmm", b"other": b"n"}
    table = server.new_table(values.items())
    for given in (b"", b"mm"):
        for key, held in values.items():
            compare = mvcc.Compare(result=result, key=key, value=given)
            holds = server.txn(table=table, compare=[compare]).succeeded
            assert holds == OPERATORS[result](held, given), (key, given)
        missing = mvcc.Compare(result=result, key=b"missing", value=given)
        assert not server.txn(table=table, compare=[missing]).succeeded
    for key, exists in ((b"empty", True), (b"missing", False)):
        compare = mvcc.Compare(result=result, key=key)
        assert server.txn(table=table, compare=[compare]).succeeded == exists
    over_all = mvcc.Compare(result=result, key=b"\0", range_end=b"\0", value=b"mm")
    expected = all(OPERATORS[result](held, b"mm") for held in values.values())
    assert server.txn(table=table, compare=[over_all]).succeeded == expected


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (mvcc.Compare(key=b"k", result=17, value=b"another"), True),  # type: ignore[arg-type]
        (mvcc.Compare(key=b"k", result=-1, value=b"another"), True),  # type: ignore[arg-type]
        (mvcc.Compare(key=b"k", target=9, value=b"another"), True),  # type: ignore[arg-type]
        (mvcc.Compare(key=b"missing", result=17), False),  # type: ignore[arg-type]
        (mvcc.Compare(), False),
        (mvcc.Compare(value=b""), False),
        (mvcc.Compare(range_end=b"\0"), True),
        (mvcc.Compare(key=b"k" * 2000), False),
        (mvcc.Compare(key=b"a", range_end=b"k" * 2000), True),
        (mvcc.Compare(key=b"x", range_end=b"a"), False),
    ],
)
def test_comparisons_that_no_client_should_make(server: Regatta, compare: mvcc.Compare, holds: bool) -> None:
    table = server.new_table([(b"k", b"v")])
    assert server.txn(table=table, compare=[compare]).succeeded is holds
    wrote = server.txn(table=table, compare=[compare], success=[put(b"yes")], failure=[put(b"no")])
    assert wrote.succeeded is holds
    assert (b"yes" if holds else b"no") in dict(server.everything(table))


def put(key: bytes, value: bytes = b"", *, prev_kv: bool = False) -> mvcc.RequestOp:
    return mvcc.RequestOp(request_put=mvcc.RequestOp.Put(key=key, value=value, prev_kv=prev_kv))


def test_transactions_see_what_they_have_done(server: Regatta) -> None:
    table = server.new_table([(b"k", b"old")])
    read = mvcc.RequestOp(request_range=mvcc.RequestOp.Range(key=b"k"))
    delete = mvcc.RequestOp(request_delete_range=mvcc.RequestOp.DeleteRange(key=b"k", count=True))
    done = server.txn(table=table, success=[put(b"k", b"new", prev_kv=True), read, delete, read])
    first, second, third, fourth = done.responses
    assert first.response_put.prev_kv.value == b"old"
    assert [kv.value for kv in second.response_range.kvs] == [b"new"]
    assert third.response_delete_range.deleted == 1
    assert fourth.response_range.count == 0
    assert done.succeeded
    assert done.header.revision > 0
    assert server.everything(table) == []


def test_transactions_that_only_read_or_do_nothing(server: Regatta) -> None:
    table = server.new_table([(b"k", b"v")])
    read = mvcc.RequestOp(request_range=mvcc.RequestOp.Range(key=b"\0", range_end=b"\0", count_only=True))
    before = server.range(table=table, key=b"k").header.revision
    assert server.txn(table=table, success=[read]).responses[0].response_range.count == 1
    assert server.txn(table=table).succeeded
    unset = server.txn(table=table, success=[mvcc.RequestOp()])
    assert len(unset.responses) == 0
    missing = mvcc.Compare(key=b"nobody")
    refused_branch = server.txn(table=table, compare=[missing], success=[put(b"x")], failure=[])
    assert not refused_branch.succeeded
    assert server.range(table=table, key=b"k").header.revision == before
    assert server.everything(table) == [(b"k", b"v")]


# ---- 5: deletions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prev_kv", [False, True])
@pytest.mark.parametrize("count", [False, True])
def test_deletions_say_what_they_were_asked(server: Regatta, *, prev_kv: bool, count: bool) -> None:
    table = server.new_table((b"%d" % n, b"v") for n in range(5))
    told = prev_kv or count

    def delete(key: bytes, end: bytes = b"") -> regatta.DeleteRangeResponse:
        request = regatta.DeleteRangeRequest(
            table=table, key=key, range_end=end, prev_kv=prev_kv, count=count
        )
        answer: regatta.DeleteRangeResponse = server.kv.DeleteRange(request, timeout=TIMEOUT_S)
        return answer

    single = delete(b"0")
    assert (single.deleted, [kv.key for kv in single.prev_kvs]) == (
        1 if told else 0,
        [b"0"] if prev_kv else [],
    )
    missing = delete(b"0")
    assert (missing.deleted, len(missing.prev_kvs)) == (0, 0)
    several = delete(b"1", b"3")
    assert (several.deleted, [kv.key for kv in several.prev_kvs]) == (
        2 if told else 0,
        [b"1", b"2"] if prev_kv else [],
    )
    assert [key for key, _ in server.everything(table)] == [b"3", b"4"]


def test_a_deletion_of_more_than_an_answer_holds_counts_all_of_it(server: Regatta) -> None:
    table = server.new_table((b"%d" % n, b"v" * (2 << 20)) for n in range(3))
    everything = regatta.DeleteRangeRequest(table=table, key=b"\0", range_end=b"\0", prev_kv=True)
    answer = server.kv.DeleteRange(everything, timeout=TIMEOUT_S)
    assert (answer.deleted, [kv.key for kv in answer.prev_kvs]) == (3, [b"0"])
    assert server.everything(table) == []


# ---- 7: backup and restore ----------------------------------------------------------------------------------------


def records(chunks: Iterable[replication.SnapshotChunk]) -> list[mvcc.Command]:
    """As Regatta's own reader finds them."""
    data = b"".join(chunk.data for chunk in chunks)
    plain = bytes(cramjam.snappy.decompress(data)) if data else b""
    found, at = [], 0
    while at < len(plain):
        size = int.from_bytes(plain[at : at + 8], "little")
        found.append(mvcc.Command.FromString(plain[at + 8 : at + 8 + size]))
        at += 8 + size
    return found


def info(table: bytes) -> maintenance.RestoreMessage:
    return maintenance.RestoreMessage(info=maintenance.RestoreInfo(table=table))


def chunk(data: bytes) -> maintenance.RestoreMessage:
    return maintenance.RestoreMessage(chunk=replication.SnapshotChunk(data=data, len=len(data)))


def test_a_backup_is_puts_in_the_order_of_keys(server: Regatta) -> None:
    pairs = [(b"foo%04d" % n, b"bar" * n) for n in range(1000)]
    table = server.new_table(pairs[:5])
    for start in range(5, 1000, 100):
        server.txn(table=table, success=[put(*pair) for pair in pairs[start : start + 100]])
    chunks = server.backup(table)
    assert all(0 < one.len == len(one.data) <= 1 << 20 and not one.index for one in chunks)
    found = records(chunks)
    assert all(one.type == mvcc.Command.PUT and one.table == table for one in found)
    assert [one.kv for one in found] == [mvcc.KeyValue(key=key, value=value) for key, value in pairs]
    assert server.backup(server.new_table()) == []


@pytest.mark.parametrize("size", [1, 7, 32 << 10, 2 << 20])
def test_a_restore_brings_back_what_was_wiped(server: Regatta, size: int) -> None:
    pairs = [(b"foo%d" % n, b"bar%d" % n) for n in range(60)]
    table = server.new_table(pairs)
    data = b"".join(one.data for one in server.backup(table))
    before = server.range(table=table, key=b"x").header.revision
    everything = regatta.DeleteRangeRequest(table=table, key=b"\0", range_end=b"\0")
    server.kv.DeleteRange(everything, timeout=TIMEOUT_S)
    server.kv.Put(regatta.PutRequest(table=table, key=b"later"), timeout=TIMEOUT_S)
    pieces = [chunk(data[at : at + size]) for at in range(0, len(data), size)]
    server.restore(info(table), chunk(b""), *pieces)
    assert server.everything(table) == sorted(pairs)
    assert server.range(table=table, key=b"x").header.revision > before + 2, "it never goes back"


def upstreams_sample() -> bytes:
    """As `snapshot.bin` of its tests: 1,000 records without a table, foo0 to foo999, in the order of keys."""
    puts = [
        mvcc.Command(kv=mvcc.KeyValue(key=b"foo%d" % n, value=b"bar")) for n in sorted(range(1000), key=str)
    ]
    dummy = mvcc.Command(table=b"t", type=mvcc.Command.DUMMY, leader_index=1000)
    encoded = [one.SerializeToString() for one in [*puts, dummy]]
    return bytes(cramjam.snappy.compress(b"".join(len(one).to_bytes(8, "little") + one for one in encoded)))


def test_a_restore_of_what_upstream_writes_makes_the_table(server: Regatta) -> None:
    table = b"from upstream"
    server.restore(info(table), chunk(upstreams_sample()))
    assert len(server.everything(table)) == 1000
    with_empty_key = mvcc.Command(kv=mvcc.KeyValue(value=b"from the DUMMY")).SerializeToString()
    data = cramjam.snappy.compress(len(with_empty_key).to_bytes(8, "little") + with_empty_key)
    server.restore(info(table), chunk(bytes(data)))
    assert server.everything(table) == []


def test_a_restore_without_chunks_empties_the_table(server: Regatta) -> None:
    table = server.new_table([(b"k", b"v")])
    server.restore(info(table))
    assert server.everything(table) == []


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "first message should contain info"),
        ([chunk(b"")], "first message should contain info"),
        ([info(b"TABLE"), info(b"TABLE")], "chunk expected"),
        ([info(b"TABLE"), maintenance.RestoreMessage()], "chunk expected"),
        ([info(b""), chunk(b"")], "table must be set"),
        ([info(b"a/b"), chunk(b"")], "a table name has no / and no control characters; choose another name"),
        (
            [info(b"TABLE"), chunk(upstreams_sample()[:-1])],
            "the backup can't be restored: the backup is cut short",
        ),
        (
            [info(b"TABLE"), chunk(b"not snappy")],
            "the backup can't be restored: this is no backup: it does not begin as a stream of snappy does",
        ),
    ],
)
def test_a_restore_that_fails_changes_nothing(
    server: Regatta, messages: list[maintenance.RestoreMessage], text: str
) -> None:
    table = server.new_table([(b"k", b"v")])
    for message in messages:
        if message.info.table == b"TABLE":
            message.info.table = table
    names = {one.name for one in server.tables.List(regatta.ListTablesRequest()).tables}
    assert refused(lambda: server.restore(*messages)) == ("INVALID_ARGUMENT", text)
    assert server.everything(table) == [(b"k", b"v")]
    assert {one.name for one in server.tables.List(regatta.ListTablesRequest()).tables} == names
    if messages and messages[0].info.table == table:
        missing = b"missing" + table
        messages[0].info.table = missing
        refused(lambda: server.restore(*messages))
        assert refused(lambda: server.backup(missing))[0] == "NOT_FOUND", "it was made for nothing"


def test_a_restored_table_goes_on_as_any(server: Regatta) -> None:
    """Reads, writes and watches of both APIs."""
    table = server.new_table([(b"k", b"v")])
    etcd_kv: Any = stub(server.channel, etcd, "KV")
    metadata = (("table", table.decode()),)
    server.restore(info(table), chunk(upstreams_sample()))
    found = etcd_kv.Range(etcd.RangeRequest(key=b"foo7"), metadata=metadata, timeout=TIMEOUT_S)
    assert found.kvs[0].version == 1
    again = etcd_kv.Put(etcd.PutRequest(key=b"foo7", prev_kv=True), metadata=metadata, timeout=TIMEOUT_S)
    assert again.prev_kv.value == b"bar"
    assert again.header.revision == found.header.revision + 1
    past = etcd.RangeRequest(key=b"foo7", revision=found.header.revision)
    assert etcd_kv.Range(past, metadata=metadata, timeout=TIMEOUT_S).kvs == found.kvs


# ---- 9: stubs -----------------------------------------------------------------------------------------------------


def test_old_and_new_stubs(server: Regatta) -> None:
    """What stubs of the older document and of the newest Regatta make of the same server."""
    old: Any = server.channel.unary_unary(
        "/regatta.v1.Cluster/MemberList",
        regatta.MemberListRequest.SerializeToString,
        early.MemberListResponse.FromString,
    )
    asked = old(regatta.MemberListRequest(linearizable=True), timeout=TIMEOUT_S)
    assert len(asked.members) == 1
    assert asked.HasField("header")
    new = server.cluster.MemberList(
        regatta.MemberListRequest(), metadata=(("client-api-version", "0.4.3"),), timeout=TIMEOUT_S
    )
    assert (len(new.members), bool(new.cluster)) == (1, True)
    for message in (regatta.StatusResponse, early.StatusResponse):
        status: Any = server.channel.unary_unary(
            "/regatta.v1.Cluster/Status", regatta.StatusRequest.SerializeToString, message.FromString
        )
        answer = status(regatta.StatusRequest(), timeout=TIMEOUT_S)
        major, minor, *_ = answer.version.split(".")
        assert (int(major), int(minor)) >= (0, 5)
        assert "default" in answer.tables
