"""What the command line says of a server that does not answer."""

from __future__ import annotations

import socket

import pytest

from proto.etcd import rpc_pb2 as rpc
from tests.waiting import free_ports
from tools.admin.client import CallFailed, KvClient


def test_silence_is_told_from_an_answer_and_says_where_to_look() -> None:
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        with KvClient([endpoint], None, 0.3) as client, pytest.raises(CallFailed) as told:
            client.put(rpc.PutRequest(key=b"k"))
    assert str(told.value).startswith(
        f"{endpoint}: no answer in the time allowed (--timeout), and a write may"
    )
    assert "boathouse doctor" in str(told.value)
