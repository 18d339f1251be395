"""JSON as etcd's gateway reads and writes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from coordinator.front import json_text
from coordinator.front.json_text import NESTING_MAX, BadJson, encode, parse, parts, split, to_value
from proto.etcd import kv_pb2 as etcd2
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from google.protobuf.message import Message


def test_an_answer_has_proto_names_and_large_numbers_as_strings() -> None:
    response = etcd.RangeResponse(count=1)
    response.header.cluster_id = 2**64 - 1
    response.kvs.add(key=b"\xfb\xff", mod_revision=7)
    assert encode(to_value(response)) == (
        b'{"header":{"cluster_id":"18446744073709551615"},"kvs":[{"key":"+/8=","mod_revision":"7"}],"count":"1"}'
    )


def test_bytes_may_be_broken_into_lines() -> None:
    """As Go reads base64, and as the tools write it that keep to 76 letters a line."""
    assert parse(rb'{"key":"YW\nJj\r\n"}', etcd.RangeRequest()).key == b"abc"


def test_defaults_are_left_out_and_present_messages_are_not() -> None:
    response = etcd.PutResponse()
    response.header.SetInParent()
    assert encode(to_value(response)) == b'{"header":{}}'


def large_answers() -> list[Message]:
    answer = etcd.RangeResponse(more=True, count=2**40)
    answer.header.revision = 5
    for number in range(300):
        answer.kvs.add(key=b"<%d>" % number, value=bytes(number * 3), version=number)
    txn = etcd.TxnResponse(succeeded=True)
    txn.responses.add().response_range.CopyFrom(answer)
    txn.responses.add().response_txn.responses.add().response_put.prev_kv.value = bytes(100_000)
    txn.responses.add()
    events = etcd.WatchResponse(watch_id=7, cancel_reason="&")
    for pair in answer.kvs:
        events.events.add(type=etcd2.Event.DELETE, kv=pair)
    members = etcd.MemberListResponse()
    for number in range(2_000):
        members.members.add(ID=number, clientURLs=["http://a", "http://b"], isLearner=bool(number % 2))
    members.members[0].peerURLs.extend(["x" * 100] * 1_000)
    return [etcd.RangeResponse(), answer, txn, events, members]


@pytest.mark.parametrize("piece_bytes", [0, 100, json_text.PIECE_BYTES_MAX])
def test_a_text_in_parts_is_the_same_text(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(json_text, "PIECE_BYTES_MAX", piece_bytes)
    for message in large_answers():
        assert b"".join(parts(message)) == encode(to_value(message))


def test_no_part_is_much_larger_than_it_may_be() -> None:
    for message in large_answers():
        whole = list(parts(message))
        largest = max(len(part) for part in whole)
        # A value, or a field of names, is not cut.
        assert largest <= json_text.PART_BYTES + 140_000
        assert len(whole) <= len(b"".join(whole)) // json_text.PART_BYTES + 1


def test_text_can_stand_inside_html() -> None:
    assert encode({"error": "a<b> & ü"}) == '{"error":"a\\u003cb\\u003e \\u0026 ü"}'.encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"key":"a2V5","range_end":"bA==","limit":"5","sort_order":"DESCEND"}',
        '{"key":"a2V5","rangeEnd":"bA==","limit":5,"sortOrder":2}',
        '{"key":"a2V5","range_end":"bA==","limit":5,"sort_order":"DESCEND","nobody_knows":[1]}',
    ],
)
def test_both_spellings_of_names_and_numbers_are_taken(text: str) -> None:
    expected = etcd.RangeRequest(key=b"key", range_end=b"l", limit=5, sort_order=etcd.RangeRequest.DESCEND)
    assert parse(text.encode(), etcd.RangeRequest()) == expected


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ('{"request_put":{"key":"YQ=="},"request_range":{"key":"Yg=="}}', "put"),
        ('{"request_range":{"key":"Yg=="},"requestPut":{"key":"YQ=="}}', "put"),
        ('{"request_delete_range":{},"request_put":{"key":"YQ=="},"request_range":{}}', "delete"),
        ('{"request_put":null,"request_range":{"key":"Yg=="}}', "range"),
        ('{"request_range":{"key":"YQ=="},"requestRange":{"key":"Yg=="}}', "range"),
        ('{"requestRange":{"key":"Yg=="},"request_range":{"key":5}}', "range"),
    ],
)
def test_of_what_excludes_each_other_one_counts(text: str, counts: str) -> None:
    """As etcd's gateway has it, whatever the order."""
    expected = {
        "put": etcd.RequestOp(request_put=etcd.PutRequest(key=b"a")),
        "range": etcd.RequestOp(request_range=etcd.RangeRequest(key=b"b")),
        "delete": etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest()),
    }
    body = b'{"success":[%s]}' % text.encode()
    assert parse(body, etcd.TxnRequest()) == etcd.TxnRequest(success=[expected[counts]])


def test_of_two_values_of_a_comparison_one_counts() -> None:
    compared = parse(b'{"value":"YQ==","version":1,"target":"VERSION"}', etcd.Compare())
    assert compared == etcd.Compare(value=b"a")


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}", b"null", b'{"key":null,"nobody \xc3\xa4":"\\ud800"}'])
def test_nothing_is_an_empty_message(body: bytes) -> None:
    assert parse(body, etcd.RangeRequest()) == etcd.RangeRequest()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"key":"a-_="}', "illegal base64"),
        ('{"key":"a2V5a"}', "illegal base64"),
        ('{"key":"a2V5=="}', "illegal base64"),
        ('{"key":"a2V5===="}', "illegal base64"),
        ('{"key":"="}', "illegal base64"),
        ('{"key":"YQ==YQ=="}', "illegal base64"),
        ('{"sort_order":"DESCNED"}', "DESCNED"),
        ('{"limit":"five"}', "limit"),
        ('{"limit":1e99}', "limit"),
        ('{"limit":1.0}', "whole number, not 1.0"),
        ('{"limit":"1_0"}', "whole number"),
        ('{"limit":"+1"}', "whole number"),
        ('{"limit":"01"}', "whole number"),
        ('{"limit":"1.0"}', "whole number"),
        ('{"limit":true}', "whole number, not true"),
        ('{"limit":99999999999999999999}', "limit"),
        ('{"limit":NaN}', "NaN is no JSON"),
        ('{"keys_only":"true"}', "true or false, not a string"),
        ('{"sort_order":true}', "value true"),
        ('{"sort_order":1.5}', "1.5"),
        ('{"sort_order":1e999}', "Infinity"),
        ('{"sort_order":-2147483649}', "unknown value -2147483649"),
        ('{"sort_order":"\\ud800"}', "ud800"),
        ('{"key":"\\ud800"}', "illegal base64"),
        ('{"key":1}', "key is a string in base64, not a number"),
        ('{"key":[1]}', "not a list"),
        ('{"compare":"\\ud800"}', "a list, not a string"),
        ('{"compare":["\\ud800"]}', "an object, not a string"),
        ('{"compare":[null]}', "without null"),
        ('{"compare":[{"value":5,"lease":1}]}', "value is a string in base64"),
        ("[]", "a list"),
        ("7", "a number"),
        ('{"key":', "Expecting value"),
        ("\xff", "Expecting value"),
        ('{"compare":[{"target":"SIZE"}]}', "SIZE"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(BadJson, match=why):
        parse(text.encode(), etcd.TxnRequest() if "compare" in text else etcd.RangeRequest())


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BadJson, match="UTF-8"):
        parse(b"\xff\xfe", etcd.RangeRequest())


@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 100_000])
def test_nesting_without_end_is_refused(levels: int) -> None:
    body = b'{"success":[{"request_txn":' * levels + b"{}" + b"}]}" * levels
    with pytest.raises(BadJson):
        parse(body, etcd.TxnRequest())


def test_a_stream_is_one_value_behind_the_other() -> None:
    assert list(split(b'{"ID":7}{"ID":8}\n {"ID":"9"}')) == [{"ID": 7}, {"ID": 8}, {"ID": "9"}]


def test_a_stream_gives_what_came_before_it_broke() -> None:
    values = split(b'{"ID":7}{"ID":')
    assert next(values) == {"ID": 7}
    with pytest.raises(BadJson):
        next(values)


@pytest.mark.parametrize("part", [b"{},", b"{}", b"[],", b"0,", b'"",', b"["])
def test_a_body_of_many_values_is_refused_before_they_are_made(part: bytes) -> None:
    body = b'{"compare":[' + part * (8_000_000 // len(part))
    began = time.thread_time()
    with pytest.raises(BadJson, match="more than 16384 values"):
        parse(body, etcd.TxnRequest())
    assert time.thread_time() - began < 0.5
