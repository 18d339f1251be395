"""Addresses of members: what is taken is what ZeroMQ can connect to, on every shard's port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from proto.internal import frames_pb2 as frames
from proto.node_records import check_are_urls, check_peer_urls, endpoint_of

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = (
    "http://h:1",
    "https://a-b.example.com:7101",
    "http://127.0.0.1:7101",
    "http://[::1]:7101",
    "http://[fe80::1%eth0]:7101",
    "http://a_b:65533",
)

BAD = (
    "", "h:1", "tcp://h:1", "http://h", "http://h:0", "http://h:65536", "http://:1", "http://h:1/", "http://h:1?a",
    "http://h:1#a", "http://my~host:7101", "http://a b:80", "http://\u00e9.x:80", "http://\x1b]0;pwn\x07:80",
    "http://a,b:80", "http://%41:80", "http://*:80", "http://-a:80", "http://[fe80::1%a~b]:80", "http://a!b:80",
    "http://_a:1", "http://user@h:1", "http://h\n:1", "http://0.0.0.0:1", "http://[::]:1", f"http://{'a' * 255}:1",
)  # fmt: skip


@pytest.fixture(scope="module")
def connecting() -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger, socket.ipv6 = 0, True
    yield socket
    socket.close()
    context.term()


@pytest.mark.parametrize("url", GOOD)
def test_good_ones(url: str, connecting: zmq.Socket[bytes]) -> None:
    check_peer_urls([url], shards=3)
    for shard in (1, 3):
        connecting.connect(endpoint_of(frames.NodeRecord(peer_urls=[url]), shard))


@pytest.mark.parametrize("url", BAD)
def test_bad_ones(url: str) -> None:
    for urls in ([url], ["http://h:1", url]):
        with pytest.raises(ValueError, match=r".+"):
            check_peer_urls(urls, shards=1)
    with pytest.raises(ValueError, match="no http"):
        check_peer_urls([], shards=1)


ETCD_TAKES = (
    *GOOD, "unix://a:1", "unix:///tmp/x:1", "https://h:0", "http://h:70000", "http://127.0.0.1:1 ", "http://u@h:1",
    "http://h:1?x=1", "http://h:1#f", "http://:1", "http://0.0.0.0:1",
)  # fmt: skip
ETCD_REFUSES = (
    "", "x", "127.0.0.1:1", "ftp://a:1", "tcp://h:1", "http://a", "http://a:x", "http://127.0.0.1:1/p", "http://h:1/",
    "http://", "http://[::1:1", "http://::1:1",
)  # fmt: skip


@pytest.mark.parametrize("url", ETCD_TAKES)
def test_what_etcd_takes_for_urls(url: str) -> None:
    check_are_urls([url])


@pytest.mark.parametrize("urls", [[], *([url] for url in ETCD_REFUSES), ["http://h:1", "x"]])
def test_what_etcd_takes_for_none(urls: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is no http|IPv6"):
        check_are_urls(urls)


def test_each_shard_needs_a_port() -> None:
    check_peer_urls(["http://h:65533"], shards=3)
    with pytest.raises(ValueError, match="4 shards need as many ports"):
        check_peer_urls(["http://h:65533"], shards=4)
    record = frames.NodeRecord(peer_urls=["http://h:65533"])
    assert endpoint_of(record, 3) == "tcp://h:65535"
    assert endpoint_of(record, 4) == ""


def test_what_a_log_holds_already_is_no_endpoint() -> None:
    for url in ("http://my~host:7101", "http://a b:80", "http://[fe80::1%a~b]:80"):
        assert endpoint_of(frames.NodeRecord(peer_urls=[url]), 1) == ""


@given(
    host=st.one_of(st.text(max_size=20), st.text("aZ0_.-~!:[]%*@/", max_size=12)), port=st.integers(0, 70_000)
)
def test_whatever_is_taken_zeromq_takes(host: str, port: int, connecting: zmq.Socket[bytes]) -> None:
    url = f"http://{host}:{port}"
    try:
        check_peer_urls([url], shards=1)
    except ValueError:
        return
    endpoint = endpoint_of(frames.NodeRecord(peer_urls=[url]), 1)
    connecting.connect(endpoint)
    connecting.disconnect(endpoint)
