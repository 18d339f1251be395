"""etcd's transactions: the probes that were observed on a real etcd, and the rules behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from config.tuning import LimitsConfig
from proto import errors
from proto.etcd.rpc_pb2 import Compare, RequestOp, TxnRequest, TxnResponse
from proto.validation import etcd as validation
from tests.unit.machine.shard import Shard, delete, get, keys, put, txn

if TYPE_CHECKING:
    from google.protobuf.message import Message


EQUAL, GREATER, LESS, NOT_EQUAL = 0, 1, 2, 3
VERSION, CREATE, MOD, VALUE, LEASE = 0, 1, 2, 3, 4


def fresh() -> Shard:
    etcd = Shard()
    for key, value in ((b"a", b"3"), (b"b", b"2"), (b"c", b"1")):
        etcd.put(key, value)
    return etcd


def ask(etcd: Shard, request: TxnRequest) -> tuple[int, TxnResponse] | type[errors.BoathouseError]:
    """What a client gets: the rim's checks, then the state machine's answer."""
    try:
        validation.check_txn(request, LimitsConfig().txn_ops_max)
    except errors.BoathouseError as error:
        return type(error)
    result = etcd.write(request)
    if result.error is not None:
        return type(result.error)
    return result.revision, TxnResponse.FromString(result.body)


def sub_revisions(response: TxnResponse) -> list[int]:
    return [getattr(r, r.WhichOneof("response") or "").header.revision for r in response.responses]


def run(
    etcd: Shard,
    *success: Message,
    compare: list[Compare] | None = None,
    failure: list[Message] | None = None,
) -> tuple[int, TxnResponse]:
    answer = ask(etcd, txn(*success, compare=compare, failure=failure))
    assert isinstance(answer, tuple), answer
    return answer


def compare(key: bytes, target: int, result: int = EQUAL, end: bytes = b"", **union: object) -> Compare:
    return Compare(key=key, range_end=end, target=target, result=result, **union)  # type: ignore[arg-type]


def test_probes_in_their_order() -> None:
    etcd = fresh()
    revision, response = run(etcd)
    assert (revision, response.succeeded, len(response.responses)) == (4, True, 0)

    revision, response = run(etcd, txn(get(b"a")))
    inner = response.responses[0].response_txn
    assert revision == 4
    assert inner.HasField("header")
    assert inner.header.ByteSize() == 0
    assert sub_revisions(inner) == [4]

    revision, response = run(
        etcd,
        get(b"p"),
        put(b"p", b"1"),
        get(b"p"),
        get(b"a", b"z", count_only=True),
        delete(b"a"),
        get(b"a"),
        put(b"q", b"1", prev_kv=True),
    )
    assert (revision, sub_revisions(response)) == (5, [4, 5, 5, 5, 5, 5, 5])
    assert response.responses[3].response_range.count == 4
    assert response.responses[5].response_range.count == 0
    assert not response.responses[6].response_put.HasField("prev_kv")
    assert etcd.range(b"q")[1].kvs[0].create_revision == 5

    revision, response = run(etcd, delete(b"nope"), put(b"p"))
    assert (revision, sub_revisions(response)) == (6, [5, 6])
    revision, response = run(etcd, put(b"p"), delete(b"nope"))
    assert (revision, sub_revisions(response)) == (7, [7, 7])
    assert run(etcd, delete(b"nope"))[0] == 7

    for refused in (
        txn(put(b"p"), put(b"p")),
        txn(put(b"p"), delete(b"o", b"q")),
        txn(failure=[put(b"p"), put(b"p")]),
    ):
        assert ask(etcd, refused) is errors.DuplicateKey

    revision, response = run(etcd, delete(b"p"), delete(b"p"))
    assert revision == 8
    assert [r.response_delete_range.deleted for r in response.responses] == [1, 0]
    assert run(etcd, put(b"p"), failure=[put(b"p")])[0] == 9
    for refused in (
        txn(put(b"p"), txn(put(b"p"))),
        txn(txn(put(b"p")), txn(put(b"p"))),
        txn(txn(delete(b"p")), put(b"p")),
    ):
        assert ask(etcd, refused) is errors.DuplicateKey
    assert run(etcd, txn(put(b"p"), failure=[put(b"p")]))[0] == 10

    revision, response = run(etcd, txn(delete(b"\0", b"\0")), put(b"p"))
    assert revision == 11
    assert response.responses[0].response_txn.responses[0].response_delete_range.deleted == 4
    assert keys(etcd.range(b"\0", b"\0")[1]) == [b"p"]

    is_new = compare(b"new", VERSION, version=0)
    revision, response = run(etcd, put(b"new", b"x"), txn(get(b"new"), compare=[is_new]))
    inner = response.responses[1].response_txn
    assert (inner.succeeded, inner.responses[0].response_range.kvs[0].value) == (True, b"x")


def test_errors_of_the_state() -> None:
    etcd = fresh()
    assert ask(etcd, txn(put(b"miss", ignore_value=True, lease=77))) is errors.KeyNotFound
    revision, response = run(etcd, failure=[put(b"miss", lease=77)])
    assert (revision, response.succeeded) == (4, True)
    assert ask(etcd, txn(put(b"n"), get(b"n", revision=5))) is errors.FutureRevision
    assert ask(etcd, txn(put(b"n"), get(b"n", revision=-5))) is errors.Compacted
    assert ask(etcd, txn(put(b"n"), put(b"m", lease=1))) is errors.LeaseNotFound
    assert ask(etcd, txn(get(b"n", revision=9), put(b"m", lease=1))) is errors.LeaseNotFound
    assert etcd.range(b"\0", b"\0", count_only=True)[1].count == 3, "a failed transaction changed something"
    assert etcd.range(b"a")[0] == 4


def test_limits_of_the_shape() -> None:
    etcd = fresh()
    many = [put(b"same") for _ in range(129)]
    assert ask(etcd, txn(*many)) is errors.TooManyOps
    assert ask(etcd, txn(compare=[compare(b"a", MOD)] * 129)) is errors.TooManyOps
    assert ask(etcd, txn(get(b"a"), get(b"a"), txn(*[get(b"a")] * 126))) is errors.TooManyOps
    assert isinstance(ask(etcd, txn(get(b"a"), get(b"a"), txn(*[get(b"a")] * 125))), tuple)
    assert isinstance(ask(etcd, txn(*[get(b"a")] * 128)), tuple)
    assert ask(etcd, TxnRequest(success=[RequestOp()])) is errors.KeyNotFound
    assert ask(etcd, txn(get(b""))) is errors.EmptyKey
    assert ask(etcd, txn(compare=[compare(b"", MOD)])) is errors.EmptyKey
    assert ask(etcd, txn(get(b"a"), failure=[put(b"a", b"v", ignore_value=True)])) is errors.ValueProvided


def test_deletes_in_nested_siblings() -> None:
    etcd = fresh()
    revision, _ = run(etcd, txn(put(b"b")), txn(delete(b"b")))
    assert revision == 5
    assert etcd.range(b"b")[1].count == 0
    assert ask(etcd, txn(txn(delete(b"b")), txn(put(b"b")))) is errors.DuplicateKey
    assert run(etcd, txn(delete(b"b"), failure=[put(b"b")]))[0] == 5


def test_a_delete_and_a_put_of_one_key_in_one_revision_are_two_changes() -> None:
    etcd = fresh()
    run(etcd, delete(b"a", b"\0"), put(b"b", b"again"))
    assert [row for row in etcd.rows() if row[0] == 5] == [
        (5, b"a", False), (5, b"b", False), (5, b"c", False), (5, b"b", True),
    ]  # fmt: skip
    kv = etcd.range(b"b")[1].kvs[0]
    assert (kv.create_revision, kv.mod_revision, kv.version) == (5, 5, 1)
    assert etcd.range(b"b", revision=4)[1].kvs[0].value == b"2"


def test_a_put_that_keeps_what_an_open_ended_delete_removed_leaves_nothing_behind() -> None:
    etcd = fresh()
    before = (etcd.machine.table_status(), etcd.rows())
    for request in (
        txn(delete(b"a", b"\0"), put(b"b", ignore_value=True)),
        txn(delete(b"a", b"\0"), put(b"b", ignore_lease=True)),
        txn(txn(delete(b"a", b"\0")), put(b"b", ignore_value=True)),
    ):
        assert ask(etcd, request) is errors.KeyNotFound
        assert (etcd.machine.table_status(), etcd.rows()) == before
    assert etcd.put(b"d")[0] == 5


@pytest.mark.parametrize(
    ("target", "result", "union", "holds"),
    [
        (VALUE, NOT_EQUAL, {"value": b"x"}, False),
        (VALUE, EQUAL, {"value": b""}, False),
        (LEASE, EQUAL, {"lease": 0}, True),
        (VERSION, LESS, {"version": 1}, True),
        (CREATE, EQUAL, {"create_revision": 0}, True),
        (MOD, GREATER, {"mod_revision": 0}, False),
        (MOD, EQUAL, {"version": 9}, True),
        (9, EQUAL, {"version": 9}, True),
        (9, NOT_EQUAL, {"version": 9}, False),
        (VERSION, 9, {"version": 9}, True),
        (VALUE, 9, {"value": b"x"}, False),
    ],
)
def test_compare_on_a_missing_key(target: int, result: int, union: dict[str, Any], holds: bool) -> None:
    etcd = fresh()
    assert run(etcd, compare=[compare(b"q", target, result, **union)])[1].succeeded is holds
    ranged = compare(b"q", target, result, end=b"r", **union)
    assert run(etcd, compare=[ranged])[1].succeeded is holds


@pytest.mark.parametrize(
    ("target", "result", "union", "holds"),
    [
        (VALUE, EQUAL, {"value": b"3"}, True),
        (VALUE, GREATER, {"value": b"2\xff"}, True),
        (VALUE, LESS, {"value": b"3\0"}, True),
        (VALUE, NOT_EQUAL, {"value": b"3"}, False),
        (VALUE, GREATER, {}, True),
        (VALUE, GREATER, {"version": 5}, True),
        (VERSION, EQUAL, {"version": 1}, True),
        (CREATE, EQUAL, {"create_revision": 2}, True),
        (MOD, LESS, {"mod_revision": 3}, True),
        (MOD, EQUAL, {"create_revision": 2}, False),
        (LEASE, EQUAL, {}, True),
        (VALUE, 9, {"value": b"other"}, True),
    ],
)
def test_compare_on_a_present_key(target: int, result: int, union: dict[str, Any], holds: bool) -> None:
    etcd = fresh()
    assert run(etcd, compare=[compare(b"a", target, result, **union)])[1].succeeded is holds


def test_a_range_compare_must_hold_for_every_key() -> None:
    etcd = fresh()
    every = compare(b"a", VALUE, GREATER, end=b"\0", value=b"0")
    assert run(etcd, compare=[every])[1].succeeded
    one_fails = compare(b"a", VALUE, GREATER, end=b"\0", value=b"1")
    assert not run(etcd, compare=[one_fails])[1].succeeded
    revisions = compare(b"a", MOD, GREATER, end=b"c", mod_revision=1)
    assert run(etcd, compare=[revisions])[1].succeeded


def test_compares_of_the_whole_tree_see_the_state_before() -> None:
    etcd = fresh()
    exists = compare(b"n", VERSION, GREATER, version=0)
    _, response = run(etcd, put(b"n"), txn(get(b"n"), compare=[exists], failure=[get(b"a"), get(b"n")]))
    inner = response.responses[1].response_txn
    assert not inner.succeeded
    assert [r.response_range.count for r in inner.responses] == [1, 1], "operations do see earlier ones"


def test_a_past_range_inside_sees_nothing_of_its_transaction() -> None:
    for history in (-1, 0, 1, 5):
        etcd = Shard(history=history)
        etcd.put(b"a", b"old")
        etcd.put(b"b", b"old")
        _, response = run(
            etcd,
            put(b"a", b"new"),
            delete(b"b"),
            put(b"c", b"new"),
            get(b"a", b"z", revision=3),
            get(b"a", b"z"),
        )
        past, now = (response.responses[at].response_range for at in (3, 4))
        assert [(kv.key, kv.value) for kv in past.kvs] == [(b"a", b"old"), (b"b", b"old")]
        assert [(kv.key, kv.value) for kv in now.kvs] == [(b"a", b"new"), (b"c", b"new")]


def test_a_read_only_transaction_is_answered_without_the_log() -> None:
    etcd = fresh()
    request = txn(get(b"a"), get(b"a", b"z", revision=2), compare=[compare(b"a", MOD, EQUAL, mod_revision=2)])
    assert validation.is_read_only(request)
    result = etcd.read(request)
    assert result.error is None
    response = TxnResponse.FromString(result.body)
    assert response.succeeded
    assert [r.response_range.count for r in response.responses] == [1, 1]
    assert sub_revisions(response) == [4, 4]
    assert etcd.write(request).body == result.body, "the log gives the same answer"
    assert type(etcd.read(txn(get(b"a", revision=9))).error) is errors.FutureRevision
    assert not validation.is_read_only(txn(txn(get(b"a"))))
    assert not validation.is_read_only(txn(get(b"a"), failure=[put(b"a")]))
    assert validation.is_read_only(txn())
    assert validation.is_serializable(txn(get(b"a", serializable=True)))
    assert not validation.is_serializable(txn(get(b"a", serializable=True), failure=[get(b"a")]))
