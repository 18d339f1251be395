"""Known answers of real etcd, each block on a store at revision 1, asked of etcd and of boathouse alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.keyspace import EVERYTHING, Answer, Keyspace
from tests.conformance.versions import CHECKS_OPERATIONS_IN_ANOTHER_ORDER

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.etcd import kv_pb2

EMPTY_KEY = ("INVALID_ARGUMENT", "etcdserver: key is not provided")
KEY_NOT_FOUND = ("INVALID_ARGUMENT", "etcdserver: key not found")
TOO_MANY_OPS = ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request")
DUPLICATE_KEY = ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request")
COMPACTED = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision")
LEASE_NOT_FOUND = ("NOT_FOUND", "etcdserver: requested lease not found")

Kv = tuple[bytes, bytes, int, int, int]

RANGE = etcd.RangeRequest
TARGETS = RANGE.SortTarget
ORDERS = RANGE.SortOrder


class Probe:
    """Requests in absolute revisions: on a store at revision 1 those are the same everywhere."""

    def __init__(self, keyspace: Keyspace) -> None:
        keyspace.base = 1_000_000  # so that nothing is shifted
        self.keyspace = keyspace

    def ok(self, request: etcd.RangeRequest | etcd.TxnRequest) -> Answer:
        answer = self.keyspace.call(request)
        assert answer.code == "OK", answer
        return answer

    def put(self, key: bytes, value: bytes = b"", **options: int | bool) -> etcd.PutResponse:
        answer = self.keyspace.call(etcd.PutRequest(key=key, value=value, **options))  # type: ignore[arg-type]
        assert isinstance(answer.message, etcd.PutResponse), answer
        return answer.message

    def delete(self, key: bytes, end: bytes = b"", *, prev_kv: bool = False) -> etcd.DeleteRangeResponse:
        answer = self.keyspace.call(etcd.DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv))
        assert isinstance(answer.message, etcd.DeleteRangeResponse), answer
        return answer.message

    def range(self, key: bytes, end: bytes = b"", **options: int) -> etcd.RangeResponse:
        answer = self.keyspace.call(etcd.RangeRequest(key=key, range_end=end, **options))  # type: ignore[arg-type]
        assert isinstance(answer.message, etcd.RangeResponse), answer
        return answer.message

    def txn(
        self,
        *success: etcd.RequestOp,
        compare: list[etcd.Compare] | None = None,
        **branches: list[etcd.RequestOp],
    ) -> etcd.TxnResponse:
        answer = self.keyspace.call(etcd.TxnRequest(compare=compare, success=success, **branches))
        assert isinstance(answer.message, etcd.TxnResponse), answer
        return answer.message

    def error(self, request: object) -> tuple[str, str]:
        answer = self.keyspace.call(request)  # type: ignore[arg-type]
        return answer.code, answer.text

    def txn_error(
        self, *success: etcd.RequestOp, failure: list[etcd.RequestOp] | None = None
    ) -> tuple[str, str]:
        return self.error(etcd.TxnRequest(success=success, failure=failure))


def kvs(found: list[kv_pb2.KeyValue]) -> list[Kv]:
    return [(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version) for kv in found]


def keys(response: etcd.RangeResponse) -> bytes:
    return b" ".join(kv.key for kv in response.kvs)


def put(key: bytes, value: bytes = b"", **options: int) -> etcd.RequestOp:
    return etcd.RequestOp(request_put=etcd.PutRequest(key=key, value=value, **options))  # type: ignore[arg-type]


def get(key: bytes, end: bytes = b"", **options: int) -> etcd.RequestOp:
    return etcd.RequestOp(request_range=etcd.RangeRequest(key=key, range_end=end, **options))  # type: ignore[arg-type]


def delete(key: bytes, end: bytes = b"") -> etcd.RequestOp:
    return etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest(key=key, range_end=end))


def nested(
    *success: etcd.RequestOp,
    compare: list[etcd.Compare] | None = None,
    failure: list[etcd.RequestOp] | None = None,
) -> etcd.RequestOp:
    return etcd.RequestOp(request_txn=etcd.TxnRequest(compare=compare, success=success, failure=failure))


def sub_revisions(response: etcd.TxnResponse) -> list[int]:
    parts = [getattr(op, str(op.WhichOneof("response"))) for op in response.responses]
    return [part.header.revision for part in parts]


def test_basic_kv(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-kv") as keyspace:
        probe = Probe(keyspace)
        assert probe.range(b"a").header.revision == 1
        assert probe.error(etcd.CompactionRequest(revision=-1)) == COMPACTED
        first = keyspace.call(etcd.CompactionRequest(revision=0))
        assert first.message.header.revision == 1
        assert probe.error(etcd.CompactionRequest(revision=0)) == COMPACTED
        assert probe.error(etcd.CompactionRequest(revision=5)) == FUTURE_REVISION
        assert probe.error(etcd.PutRequest(key=b"a", ignore_value=True)) == KEY_NOT_FOUND
        assert probe.error(etcd.PutRequest(key=b"a", ignore_value=True, lease=99)) == LEASE_NOT_FOUND
        assert probe.put(b"a", b"1").header.revision == 2
        again = probe.put(b"a", b"2", prev_kv=True)
        assert again.header.revision == 3
        assert kvs([again.prev_kv]) == [(b"a", b"1", 2, 2, 1)]
        other = probe.put(b"b", b"2", prev_kv=True)
        assert other.header.revision == 4
        assert not other.HasField("prev_kv")
        nothing = probe.delete(b"zz")
        assert (nothing.header.revision, nothing.deleted) == (4, 0)
        one = probe.delete(b"b", prev_kv=True)
        assert (one.header.revision, one.deleted) == (5, 1)
        assert kvs(list(one.prev_kvs)) == [(b"b", b"2", 4, 4, 1)]
        inverted = probe.delete(b"z", b"a")
        assert (inverted.header.revision, inverted.deleted) == (5, 0)
        assert probe.put(b"b", b"3").header.revision == 6
        assert kvs(list(probe.range(b"b").kvs)) == [(b"b", b"3", 6, 6, 1)]
        history = {revision: probe.range(b"a", b"z", revision=revision) for revision in range(1, 7)}
        assert all(response.header.revision == 6 for response in history.values())
        assert {revision: kvs(list(response.kvs)) for revision, response in history.items()} == {
            1: [],
            2: [(b"a", b"1", 2, 2, 1)],
            3: [(b"a", b"2", 2, 3, 2)],
            4: [(b"a", b"2", 2, 3, 2), (b"b", b"2", 4, 4, 1)],
            5: [(b"a", b"2", 2, 3, 2)],
            6: [(b"a", b"2", 2, 3, 2), (b"b", b"3", 6, 6, 1)],
        }
        assert probe.error(RANGE(key=b"a", range_end=b"z", revision=7)) == FUTURE_REVISION
        assert keys(probe.range(b"a", b"z", revision=-5)) == b"a b"
        for start in (b"a", b"z"):
            empty = probe.range(start, b"a")
            assert (empty.header.revision, empty.count) == (6, 0)
        counted = probe.range(EVERYTHING, EVERYTHING, count_only=True, limit=1)
        assert (counted.count, counted.more, len(counted.kvs)) == (2, False, 0)
        limited = probe.range(EVERYTHING, EVERYTHING, limit=1)
        assert (keys(limited), limited.more, limited.count) == (b"a", True, 2)
        assert keys(probe.range(EVERYTHING, EVERYTHING, limit=-1)) == b"a b"
        assert probe.error(RANGE()) == EMPTY_KEY
        assert probe.error(etcd.PutRequest()) == EMPTY_KEY
        assert probe.error(etcd.DeleteRangeRequest()) == EMPTY_KEY


def test_sort_and_filter(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-sort") as keyspace:
        probe = Probe(keyspace)
        for key, value in zip(
            (b"k1", b"k2", b"k3", b"k4", b"k5"), (b"z", b"y", b"x", b"w", b"v"), strict=True
        ):
            probe.put(key, value)
        for _ in range(3):
            probe.put(b"k2", b"m")
        assert probe.put(b"k4", b"n").header.revision == 10

        def ask(**options: int) -> etcd.RangeResponse:
            return probe.range(b"k", b"l", **options)

        assert keys(ask(sort_target=TARGETS.VERSION)) == b"k1 k3 k5 k4 k2"
        pushed = ask(sort_target=TARGETS.VERSION, limit=2)
        assert (keys(pushed), pushed.more) == (b"k1 k3", True)
        assert keys(ask(sort_target=TARGETS.VERSION, sort_order=ORDERS.DESCEND)) == b"k2 k4 k1 k3 k5"
        by_value = ask(sort_target=TARGETS.VALUE, sort_order=ORDERS.ASCEND, keys_only=True)
        assert keys(by_value) == b"k2 k4 k5 k3 k1"
        assert {kv.value for kv in by_value.kvs} == {b""}
        by_key = ask(sort_target=TARGETS.KEY, sort_order=ORDERS.DESCEND, limit=2)
        assert (keys(by_key), by_key.more) == (b"k5 k4", True)
        by_mod = ask(sort_target=TARGETS.MOD, sort_order=ORDERS.DESCEND, limit=1)
        assert (keys(by_mod), by_mod.more) == (b"k4", True)
        recent = ask(min_mod_revision=4)
        assert (keys(recent), recent.count, recent.more) == (b"k2 k3 k4 k5", 5, False)
        recent = ask(min_mod_revision=4, limit=1)
        assert (keys(recent), recent.more) == (b"k2", True)
        for bound, found in (
            ({"max_mod_revision": 4}, b"k1 k3"),
            ({"min_create_revision": 4}, b"k3 k4 k5"),
            ({"max_mod_revision": -1}, b""),
        ):
            bounded = ask(**bound)
            assert (keys(bounded), bounded.count) == (found, 5)
        assert ask(min_mod_revision=4, count_only=True).count == 5


def test_a_limit_is_applied_before_a_sort_without_an_order(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-value") as keyspace:
        probe = Probe(keyspace)
        for key, value in ((b"a", b"3"), (b"b", b"2"), (b"c", b"1")):
            probe.put(key, value)
        found = probe.range(b"a", b"d", sort_target=TARGETS.VALUE, limit=1)
        assert (keys(found), found.more, found.count) == (b"b", True, 3)


def test_txn(fresh: Callable[[str], Keyspace]) -> None:
    with fresh("probe-txn") as keyspace:
        probe = Probe(keyspace)
        for key, value in ((b"a", b"3"), (b"b", b"2"), (b"c", b"1")):
            probe.put(key, value)

        empty = probe.txn()
        assert (empty.succeeded, empty.header.revision) == (True, 4)
        reading = probe.txn(nested(get(b"a")))
        assert reading.header.revision == 4
        inner = reading.responses[0].response_txn
        assert inner.HasField("header")
        assert inner.header == etcd.ResponseHeader()

        long = probe.txn(
            get(b"p"),
            put(b"p"),
            get(b"p"),
            get(b"a", b"z", count_only=1),
            delete(b"a"),
            get(b"a"),
            put(b"q", prev_kv=1),
        )
        assert long.header.revision == 5
        assert sub_revisions(long) == [4, 5, 5, 5, 5, 5, 5]
        assert long.responses[3].response_range.count == 4
        assert long.responses[5].response_range.count == 0
        assert probe.range(b"q").kvs[0].create_revision == 5

        assert sub_revisions(probe.txn(delete(b"nope"), put(b"p"))) == [5, 6]
        assert sub_revisions(probe.txn(put(b"p"), delete(b"nope"))) == [7, 7]
        assert probe.txn(delete(b"nope")).header.revision == 7

        assert probe.txn_error(put(b"p"), put(b"p")) == DUPLICATE_KEY
        assert probe.txn_error(put(b"p"), delete(b"o", b"q")) == DUPLICATE_KEY
        assert probe.txn_error(failure=[put(b"p"), put(b"p")]) == DUPLICATE_KEY
        twice = probe.txn(delete(b"p"), delete(b"p"))
        assert twice.header.revision == 8
        assert [op.response_delete_range.deleted for op in twice.responses] == [1, 0]
        assert probe.txn(put(b"p"), failure=[put(b"p")]).header.revision == 9
        assert probe.txn_error(put(b"p"), nested(put(b"p"))) == DUPLICATE_KEY
        assert probe.txn_error(nested(put(b"p")), nested(put(b"p"))) == DUPLICATE_KEY
        assert probe.txn_error(nested(delete(b"p")), put(b"p")) == DUPLICATE_KEY
        assert probe.txn(nested(put(b"p"), failure=[put(b"p")])).header.revision == 10

        hole = probe.txn(nested(delete(EVERYTHING, EVERYTHING)), put(b"p"))
        assert hole.header.revision == 11
        assert hole.responses[0].response_txn.responses[0].response_delete_range.deleted == 4

        before = etcd.Compare(key=b"new", target=etcd.Compare.VERSION, result=etcd.Compare.EQUAL, version=0)
        seen = probe.txn(put(b"new", b"1"), nested(get(b"new"), compare=[before]))
        inner = seen.responses[1].response_txn
        assert inner.succeeded
        assert inner.responses[0].response_range.kvs[0].value == b"1"

        lease = 0 if CHECKS_OPERATIONS_IN_ANOTHER_ORDER.is_met else 77
        assert probe.txn_error(put(b"miss", ignore_value=1, lease=lease)) == KEY_NOT_FOUND
        revision = probe.range(b"x").header.revision
        not_taken = probe.txn(failure=[put(b"miss", lease=77)])
        assert (not_taken.succeeded, not_taken.header.revision) == (True, revision)
        assert probe.txn_error(put(b"p"), get(b"p", revision=revision + 1)) == FUTURE_REVISION
        assert probe.txn_error(put(b"p"), get(b"p", revision=-5)) == COMPACTED
        assert probe.range(b"x").header.revision == revision

        assert probe.txn_error(*(put(b"p") for _ in range(129))) == TOO_MANY_OPS
        assert probe.error(etcd.TxnRequest(compare=[before] * 129)) == TOO_MANY_OPS
        assert probe.txn_error(get(b"a"), get(b"b"), nested(*(get(b"a") for _ in range(126)))) == TOO_MANY_OPS
        assert probe.txn_error(etcd.RequestOp()) == KEY_NOT_FOUND

        probe.txn(nested(put(b"b")), nested(delete(b"b")))
        assert probe.range(b"b").count == 0
        assert probe.txn_error(nested(delete(b"b")), nested(put(b"b"))) == DUPLICATE_KEY
        assert probe.txn(nested(delete(b"b"), failure=[put(b"b")])).succeeded

        compare = etcd.Compare
        missing = (
            (compare(key=b"gone", target=compare.VALUE, result=compare.NOT_EQUAL, value=b"q"), False),
            (compare(key=b"gone", target=compare.LEASE, result=compare.EQUAL, lease=0), True),
            (compare(key=b"gone", target=compare.VERSION, result=compare.LESS, version=1), True),
            (compare(key=b"gone", target=compare.CREATE, result=compare.EQUAL, create_revision=0), True),
        )
        for comparison, holds in missing:
            assert probe.txn(compare=[comparison]).succeeded is holds, comparison
