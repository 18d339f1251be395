"""Pieces of protobuf's encoding, read by protobuf."""

from __future__ import annotations

import pytest

from proto.etcd import rpc_pb2 as etcd
from proto.varint import delimited, read_varint, varint, varint_bytes


@pytest.mark.parametrize(
    "number",
    [0, 1, 127, 128, 300, 4095, 4096, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**31, 2**63 - 1, 2**64 - 1],
)
def test_a_varint_reads_as_protobuf_reads_it(number: int) -> None:
    encoded = varint(number)
    assert etcd.StatusResponse.FromString(b"\x28" + encoded).raftIndex == number
    assert read_varint(b"x" + encoded + b"y", 1) == (number, 1 + len(encoded))
    assert varint_bytes(number) == len(encoded)


def test_a_negative_number_takes_ten_bytes() -> None:
    assert etcd.RangeRequest.FromString(b"\x18" + varint(-5)).limit == -5
    assert len(varint(-5)) == 10


@pytest.mark.parametrize("size", [0, 127, 128, 5000])
def test_a_field_of_bytes(size: int) -> None:
    assert etcd.RangeRequest.FromString(delimited(b"\x0a", bytes(size))).key == bytes(size)


def test_bytes_that_end_within_a_varint_are_noticed() -> None:
    with pytest.raises(IndexError):
        read_varint(b"\x80", 0)
