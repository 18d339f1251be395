"""The load generator's own client, against the front end."""

from __future__ import annotations

import asyncio
import socket
from time import perf_counter
from typing import TYPE_CHECKING

import hpack
from hypothesis import given
from hypothesis import strategies as st

from coordinator.front.limits import Limits
from proto import errors
from tests.unit.coordinator.running import in_loop
from tests.unit.front.serving import route, serving
from tests.waiting import wait_until_async
from tools.bench.client import (
    CALL_TIMEOUT_S,
    MESSAGE_PREFIX_BYTES,
    Call,
    Channel,
    Headers,
    HeaderTable,
    Maker,
    Request,
)

if TYPE_CHECKING:
    from coordinator.api.call import Call as ServedCall

MAKER = Maker()


async def echo(call: ServedCall) -> bytes:
    return call.body


async def refuse(call: ServedCall) -> bytes:
    raise errors.Absent(f"näher: 100 % {call.metadata.get('table', '')}")


async def never(_call: ServedCall) -> bytes:
    await asyncio.Event().wait()
    return b""


ROUTES = (route("Echo", echo), route("Refuse", refuse), route("Never", never))


def asking(name: str, body: bytes = b"", **metadata: str) -> Request:
    return MAKER.make(f"/test.Service/{name}", body, metadata)


async def connected(port: int) -> Channel:
    channel = Channel(f"127.0.0.1:{port}")
    await channel.connect()
    return channel


async def answers(channel: Channel, *requests: Request) -> list[str | None]:
    """The errors, or None, of calls that are all made at once."""
    calls = [Call() for _ in requests]
    for request, call in zip(requests, calls, strict=True):
        channel.send(request, call)
    async with asyncio.timeout(10):
        return [await call.error for call in calls]


@in_loop
async def test_all_sizes_come_back() -> None:
    """Far over the windows of streams and connection, in both directions, and many at once."""
    sizes = [0, 1, 16_379, 16_380, 100_000, 1_000_000, *range(200)]
    async with serving(*ROUTES) as served:
        channel = await connected(served.port)
        assert await answers(channel, *(asking("Echo", bytes(size)) for size in sizes)) == [None] * len(sizes)
        assert channel.received_bytes == sum(sizes) + MESSAGE_PREFIX_BYTES * len(sizes)
        channel.close()


@in_loop
async def test_errors_are_seen_as_they_are() -> None:
    async with serving(*ROUTES) as served:
        channel = await connected(served.port)
        for _ in range(2):
            assert await answers(
                channel, asking("Refuse", table="a"), asking("Echo"), asking("Refuse"), asking("Nope")
            ) == [
                "NOT_FOUND: etcdserver: not found: näher: 100 % a",
                None,
                "NOT_FOUND: etcdserver: not found: näher: 100 % ",
                "UNIMPLEMENTED: unknown method Nope for service test.Service",
            ]
        channel.close()


@in_loop
async def test_no_more_calls_at_once_than_the_server_takes() -> None:
    async with serving(*ROUTES, limits=Limits(streams_max=3)) as served:
        channel = await connected(served.port)
        assert await answers(channel, asking("Echo")) == [None]  # the server's settings have come
        requests = [asking("Echo", bytes(30_000)) for _ in range(50)]
        assert await answers(channel, *requests) == [None] * len(requests)
        channel.close()


@in_loop
async def test_a_connection_that_is_lost_is_made_again() -> None:
    async with serving(*ROUTES) as served:
        channel = await connected(served.port)
        call = Call()
        channel.send(asking("Never"), call)
        await wait_until_async(lambda: served.streams, timeout_s=5, what="the call to arrive")
        for session in list(served.front.sessions):
            session.close()
        assert await call.error == "UNAVAILABLE: the connection was lost"
        assert await answers(channel, asking("Echo")) == ["UNAVAILABLE: not connected"]

        async def again() -> bool:
            return await answers(channel, asking("Echo")) == [None]

        await wait_until_async(again, timeout_s=5, what="another connection")
        channel.close()


@in_loop
async def test_a_server_that_falls_silent_does_not_hold_a_call_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        channel = await connected(silent.getsockname()[1])
        call = Call()
        call.started = perf_counter() - CALL_TIMEOUT_S - 10
        channel.send(asking("Echo"), call)
        async with asyncio.timeout(5):
            assert await call.error == "DEADLINE_EXCEEDED: no answer in time"
        channel.close()


FIELDS = st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=300))
BLOCKS = st.lists(st.builds(Headers, st.lists(FIELDS, max_size=5).map(tuple)), min_size=1, max_size=8)


@given(BLOCKS, st.data())
def test_headers_mean_the_same_to_the_server(known: list[Headers], data: st.DataObject) -> None:
    """Whatever was sent before, and however large a table the server has."""
    table, decoder = HeaderTable(), hpack.Decoder()
    for _ in range(data.draw(st.integers(1, 30))):
        if data.draw(st.booleans()) and data.draw(st.booleans()):
            size = data.draw(st.sampled_from([0, 100, 1_000, 4_096, 65_536]))
            table.resize(size)
            decoder.max_allowed_table_size = min(size, 4_096)
        headers = data.draw(st.sampled_from(known))
        head, block = table.encode(headers)
        assert int.from_bytes(head[:3]) == len(block)
        fields = decoder.decode(block, raw=True)
        assert fields == [(b":method", b"POST"), (b":scheme", b"http"), *headers.fields]
