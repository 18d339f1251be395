"""Transactions as people write them: what each line becomes, and what wrong ones are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.etcd import rpc_pb2 as rpc
from tools.key_range import prefix_end
from tools.txn_script import TxnSyntaxError, parse_txn


def test_three_sections() -> None:
    compares = 'mod("key1") > "0"\nvalue(key2) = "old"\n'
    text = f'{compares}\nput key1 "new value"\nget key1 key9 --limit=3\n\ndel key2 --prev-kv\n'
    assert parse_txn(text) == rpc.TxnRequest(
        compare=[
            rpc.Compare(key=b"key1", target=rpc.Compare.MOD, result=rpc.Compare.GREATER, mod_revision=0),
            rpc.Compare(key=b"key2", target=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=b"old"),
        ],
        success=[
            rpc.RequestOp(request_put=rpc.PutRequest(key=b"key1", value=b"new value")),
            rpc.RequestOp(request_range=rpc.RangeRequest(key=b"key1", range_end=b"key9", limit=3)),
        ],
        failure=[rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"key2", prev_kv=True))],
    )


@pytest.mark.parametrize(
    ("line", "compare"),
    [
        (
            'version("k") != "2"',
            rpc.Compare(target=rpc.Compare.VERSION, result=rpc.Compare.NOT_EQUAL, version=2),
        ),
        ("ver(k)=1", rpc.Compare(target=rpc.Compare.VERSION, result=rpc.Compare.EQUAL, version=1)),
        ("create(k) < 7", rpc.Compare(target=rpc.Compare.CREATE, result=rpc.Compare.LESS, create_revision=7)),
        ('c("k") = "0"', rpc.Compare(target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)),
        ("m(k) > 9", rpc.Compare(target=rpc.Compare.MOD, result=rpc.Compare.GREATER, mod_revision=9)),
        ("lease(k) = 5", rpc.Compare(target=rpc.Compare.LEASE, result=rpc.Compare.EQUAL, lease=5)),
        (
            'val(k) = "a=b > c"',
            rpc.Compare(target=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=b"a=b > c"),
        ),
        ("value(k) = -1", rpc.Compare(target=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=b"-1")),
    ],
)
def test_compares(line: str, compare: rpc.Compare) -> None:
    compare.key = b"k"
    assert list(parse_txn(line).compare) == [compare]


def test_empty_sections_and_comments() -> None:
    assert parse_txn("") == rpc.TxnRequest()
    request = parse_txn("# no compares\n\n# the body\n  put a b  \n")
    assert (len(request.compare), len(request.success), len(request.failure)) == (0, 1, 0)
    request = parse_txn("\n\ndel a\n\n\n\n")
    assert (len(request.compare), len(request.success), len(request.failure)) == (0, 0, 1)


def test_quotes_and_escapes() -> None:
    request = parse_txn(
        '\n put "a b" "\\x00\\xff \\"q\\" \\\\ \\n\\t\\r" \n put k "--prev-kv"\n put "" ""\n put ü "ü"'
    )
    puts = [(operation.request_put.key, operation.request_put.value) for operation in request.success]
    assert puts == [
        (b"a b", b'\x00\xff "q" \\ \n\t\r'),
        (b"k", b"--prev-kv"),
        (b"", b""),
        ("ü".encode(), "ü".encode()),
    ]
    assert not request.success[1].request_put.prev_kv


def test_a_prefix_is_a_range() -> None:
    operations = parse_txn('\nget a --prefix\ndel "" --prefix\n').success
    assert (operations[0].request_range.key, operations[0].request_range.range_end) == (b"a", b"b")
    everything = operations[1].request_delete_range
    assert (everything.key, everything.range_end) == (b"\0", b"\0")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hello", 'line 1: expected a compare such as mod("key") > "0", got \'hello\''),
        ("mod(k) >= 1", "line 1: expected one value after the operator"),
        ("mod(k) > one", "line 1: expected a whole number, got 'one'"),
        (f"mod(k) > {2**63}", f"line 1: {2**63} is out of range"),
        ("size(k) > 1", "line 1: can't compare 'size'; use value, version, create, mod or lease"),
        ("mod(k) > 1 2", "line 1: expected one value after the operator"),
        ("\nincrement k", "line 2: expected put, get or del, got 'increment'"),
        ("\nput k", "line 2: put takes a key and a value"),
        ("\nput k v w", "line 2: put takes a key and a value"),
        ("\nput k v --prefix", "line 2: put takes no --prefix here"),
        ("\nget", "line 2: get takes a key, or the two ends of a range"),
        ("\ndel a b c", "line 2: del takes a key, or the two ends of a range"),
        ("\nget a b --prefix", "line 2: --prefix takes one key"),
        ("\nget a --limit=x", "line 2: expected a whole number, got 'x'"),
        ("\nget a --limit", "line 2: expected a whole number, got ''"),
        ('\nput k "v', "line 2: a quote is not closed"),
        ('\nput k "\\q"', "line 2: unknown escape \\q"),
        (
            "\n\n\nput a b",
            "line 4: nothing may follow the three sections (compares, success requests, failure requests)",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(TxnSyntaxError) as caught:
        parse_txn(text)
    assert str(caught.value) == complaint


@given(st.text())
def test_any_text_is_a_transaction_or_told_why_not(text: str) -> None:
    try:
        complaint = ""
        parse_txn(text)
    except TxnSyntaxError as error:
        complaint = str(error)
    assert not complaint or complaint.startswith("line ")


@given(st.binary(), st.binary())
def test_any_bytes_can_be_written(key: bytes, value: bytes) -> None:
    quoted = ["".join(f"\\x{byte:02x}" for byte in part) for part in (key, value)]
    put = parse_txn(f'\nput "{quoted[0]}" "{quoted[1]}"').success[0].request_put
    assert (put.key, put.value) == (key, value)


@given(st.binary(min_size=1), st.binary())
def test_a_prefix_range_holds_exactly_the_keys_with_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert key.startswith(prefix) == (prefix <= key and (end == b"\0" or key < end))
    assert prefix_end(b"") == b"\0"
