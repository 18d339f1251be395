"""What a client may cost: each bound of coordinator.front.limits.Limits, reached and not passed.

Without a socket where that is possible, else on a port with limits short enough to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from typing import TYPE_CHECKING

import h2.connection
import h2.events
import h2.settings
import pytest
from hpack import Encoder

from coordinator.front import grpc_wire
from coordinator.front.http2 import frames
from coordinator.front.http2.events import RequestStarted
from coordinator.front.http2.frames import EncodedHeaders, ErrorCode, Setting
from coordinator.front.http2.headers import STATUS_200, literal
from coordinator.front.limits import Limits
from proto.methods import Kind
from tests.property.front.peers import REQUEST, client, facts_of, ours
from tests.unit.coordinator.running import in_loop, refused
from tests.unit.front.raw_client import fields_of, raw, short
from tests.unit.front.serving import route, serving
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coordinator.api.call import Call

CALM = [("fault", int(ErrorCode.ENHANCE_YOUR_CALM))]
HELLO = frames.PREFACE + frames.settings({})
BLOCK = Encoder().encode(REQUEST)
HEAD = EncodedHeaders(STATUS_200 + literal(b"content-type", b"application/grpc"), ends=False)
END = EncodedHeaders(literal(b"grpc-status", b"0"), ends=True)


# ---- floods ----------------------------------------------------------------------------------------------------------


def rapid_reset() -> Iterator[bytes]:
    for stream in range(1, 1 << 31, 2):
        yield frames.frame(frames.HEADERS, frames.END_HEADERS, stream, BLOCK) + frames.rst_stream(
            stream, ErrorCode.CANCEL
        )


def faulty_requests() -> Iterator[bytes]:
    """Rapid reset turned round: requests that make the server reset them."""
    for stream in range(1, 1 << 31, 2):
        headers = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, BLOCK)
        yield headers + frames.frame(frames.WINDOW_UPDATE, 0, stream, bytes(4))


def the_same(frame: bytes, first: bytes = b"") -> Callable[[], Iterator[bytes]]:
    def flood() -> Iterator[bytes]:
        yield first
        while True:
            yield frame

    return flood


OPEN = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)

FLOODS = {
    "rapid reset": rapid_reset,
    "requests that are reset here": faulty_requests,
    "empty CONTINUATION": the_same(
        frames.frame(frames.CONTINUATION, 0, 1), frames.frame(frames.HEADERS, 0, 1, BLOCK)
    ),
    "CONTINUATION": the_same(
        frames.frame(frames.CONTINUATION, 0, 1, bytes(16_384)), frames.frame(frames.HEADERS, 0, 1, BLOCK)
    ),
    "empty DATA": the_same(frames.frame(frames.DATA, 0, 1), OPEN),
    "padding": the_same(frames.frame(frames.DATA, frames.PADDED, 1, b"\3" + bytes(3)), OPEN),
    "PING": the_same(frames.frame(frames.PING, 0, 0, bytes(8))),
    "PING answers": the_same(frames.frame(frames.PING, frames.ACK, 0, bytes(8))),
    "SETTINGS": the_same(frames.settings({})),
    "SETTINGS answers": the_same(frames.SETTINGS_ACK),
    "WINDOW_UPDATE": the_same(frames.window_update(0, 1)),
    "WINDOW_UPDATE of a stream": the_same(frames.window_update(1, 1), OPEN),
    "PRIORITY": the_same(frames.frame(frames.PRIORITY, 0, 1, bytes(5))),
    "RST_STREAM": the_same(frames.rst_stream(1, ErrorCode.CANCEL), OPEN),
    "unknown frames": the_same(frames.frame(77, 0, 0)),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_the_connection(flood: Callable[[], Iterator[bytes]]) -> None:
    server = ours()
    server.receive(HELLO, 0.0)
    limit = 2 * int(server._limits.nuisance_max)
    for number, part in enumerate(flood()):
        facts = facts_of(server.receive(part, number * 1e-6))
        server.take()
        if server.fault is not None:
            assert facts[-1:] == CALM
            return
        assert number < limit
        assert len(server.streams) <= 1


@pytest.mark.parametrize("flood", ["rapid reset", "PING", "empty DATA", "requests that are reset here"])
def test_a_flood_that_takes_its_time_ends_the_connection(flood: str) -> None:
    limits = Limits()
    server = ours()
    server.receive(HELLO, 0.0)
    pace = 2 * limits.nuisance_per_s
    now = 0.0
    for number, part in enumerate(FLOODS[flood]()):
        now = number / pace
        server.receive(part, now)
        server.take()
        if server.fault is not None:
            break
    # Half of it is forgotten meanwhile.
    assert limits.nuisance_max / pace <= now <= 2 * limits.nuisance_max / pace + 1


def test_what_a_settings_frame_costs_is_what_it_counts() -> None:
    """One frame may hold 2,730 settings, and each may concern 10,000 streams."""
    entry = int(Setting.INITIAL_WINDOW_SIZE).to_bytes(2)
    sizes = [entry + size.to_bytes(4) for size in (1, 2)]
    server = ours()
    server.receive(HELLO, 0.0)
    streams = 1_000
    for number in range(streams):
        server.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, BLOCK), 0.0)
    full = frames.frame(frames.SETTINGS, 0, 0, b"".join(sizes) * 1_360)
    began = time.thread_time()
    for _ in range(20):
        facts = facts_of(server.receive(full, 0.0))
        if server.fault is not None:
            break
    assert facts[-1:] == CALM
    assert time.thread_time() - began < 1.0, "all streams are walked through once a frame, not once a setting"


def test_the_last_of_several_windows_in_a_frame_is_the_one() -> None:
    entry = int(Setting.INITIAL_WINDOW_SIZE).to_bytes(2)
    server = ours()
    server.receive(HELLO + OPEN, 0.0)
    stream = server.streams[1]
    before = stream.send_window
    payload = entry + (0).to_bytes(4) + entry + (frames.WINDOW_DEFAULT + 7).to_bytes(4)
    server.receive(frames.frame(frames.SETTINGS, 0, 0, payload), 0.0)
    assert stream.send_window == before + 7


def test_pings_of_a_go_client_are_no_flood() -> None:
    server = ours()
    server.receive(HELLO, 0.0)
    server.take()
    for second in range(0, 86_400, 10):
        server.receive(frames.frame(frames.PING, 0, 0, bytes(8)), float(second))
        assert server.take().startswith(b"\0\0\x08\x06\x01")
    assert server.fault is None


def test_what_comes_with_answers_is_no_flood() -> None:
    # A client that measures the bandwidth pings for each part of an answer, and gives two windows back.
    server, now = ours(), 0.0
    server.receive(HELLO + OPEN, now)
    stream = server.streams[1]
    server.send_head(stream, HEAD)
    window = frames.window_update(0, 10_000) + frames.window_update(1, 10_000)
    for _ in range(20_000):
        server.send_data(stream, bytes(10_000))
        server.make_room(1 << 20)
        server.receive(window + frames.frame(frames.PING, 0, 0, bytes(8)), now)
        server.take()
    assert server.fault is None


def test_calls_that_are_cancelled_at_a_sane_pace_are_no_flood() -> None:
    server = ours()
    server.receive(HELLO, 0.0)
    for number, part in enumerate(rapid_reset()):
        server.receive(part, number / 150)
        if number == 10_000:
            break
    assert server.fault is None


@pytest.mark.parametrize("quiet_s", [0.0, 0.15, 60.0])
def test_all_calls_that_may_be_open_may_be_cancelled_at_once(quiet_s: float) -> None:
    limits = dataclasses.replace(Limits(), nuisance_max=100.0)
    server = ours(limits)
    server.receive(HELLO, 0.0)
    streams = range(1, 2 * 1_000, 2)
    for stream in streams:
        server.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, BLOCK), stream * 1e-5)
    opened_s = streams[-1] * 1e-5
    if not quiet_s:
        # A connection that is never quiet.
        for number in range(30):
            server.receive(frames.frame(frames.PING, 0, 0, bytes(8)), opened_s + number / 100)
        opened_s += 0.3
    resets = b"".join(frames.rst_stream(stream, ErrorCode.CANCEL) for stream in streams)
    facts = facts_of(server.receive(resets, opened_s + quiet_s))
    assert server.fault is None
    assert len(facts) == len(streams)
    assert not server.streams


def test_requests_that_have_just_come_are_no_older_for_it_that_others_are() -> None:
    # One stream stays open for ever, and time passes: the others are still taken back as soon as they come.
    server = ours()
    server.receive(HELLO + OPEN, 0.0)
    count = 0
    for count, part in enumerate(itertools.islice(rapid_reset(), 1, None)):
        server.receive(part, 60.0 + count * 1e-4)
        if server.fault is not None:
            break
    assert count < Limits().nuisance_max + count * 1e-4 * Limits().nuisance_per_s + 10


# ---- headers ---------------------------------------------------------------------------------------------------------


def test_a_header_bomb_is_not_unpacked() -> None:
    encoder = Encoder()
    bomb = encoder.encode([*REQUEST, ("x", "y" * 3_900)]) + encoder.encode([("x", "y" * 3_900)]) * 4_000
    assert len(bomb) < 16_384
    server = ours()
    facts = facts_of(server.receive(HELLO + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, bomb), 0.0))
    assert facts == CALM


@pytest.mark.parametrize(("size", "count"), [(16_384, 8), (1, 32)], ids=["bytes", "fragments"])
def test_a_header_block_has_a_size_and_a_number_of_fragments(size: int, count: int) -> None:
    server = ours()
    server.receive(HELLO + frames.frame(frames.HEADERS, 0, 1, BLOCK), 0.0)
    part = frames.frame(frames.CONTINUATION, 0, 1, bytes(size))
    assert server.receive((count - 1) * part, 0.0) == []
    assert facts_of(server.receive(part, 0.0)) == CALM


def test_a_frame_has_a_size() -> None:
    server = ours()
    server.receive(HELLO, 0.0)
    largest = frames.frame(frames.DATA, 0, 1, bytes(Limits().frame_bytes_max))
    assert facts_of(server.receive(OPEN + largest, 0.0))[-1][0] != "fault"
    too_large = (Limits().frame_bytes_max + 1).to_bytes(3) + largest[3:9]
    assert facts_of(server.receive(too_large, 0.0)) == [("fault", int(ErrorCode.FRAME_SIZE_ERROR))]


def test_windows_are_kept() -> None:
    limits = dataclasses.replace(Limits(), stream_window_bytes=100_000, connection_window_bytes=150_000)
    server = ours(limits)
    server.receive(HELLO + OPEN, 0.0)
    part = bytes(10_000)
    for _ in range(10):
        server.receive(frames.frame(frames.DATA, 0, 1, part), 0.0)
    assert 1 in server.streams
    facts = facts_of(server.receive(frames.frame(frames.DATA, 0, 1, part), 0.0))
    assert 1 not in server.streams
    assert server.fault is None
    assert facts[-1][-1] == int(ErrorCode.FLOW_CONTROL_ERROR)


def test_few_requests_headers_are_remembered() -> None:
    server = ours()
    server.receive(HELLO, 0.0)
    stream, known = 1, server._headers
    for number in range(40):
        references = b"\x83\x86\x84" + bytes((0x80 | 20 + number,))  # of the table that all connections have
        literals = b"\x83\x86\x84" + literal(b"x", b"%d" % number)
        for block in (references, literals):
            flags = frames.END_HEADERS | frames.END_STREAM
            server.receive(frames.frame(frames.HEADERS, flags, stream, block), 0.0)
            stream += 2
        assert 0 < len(known._by_fields) <= Limits().headers_cached_max
    for number in range(40):
        block = b"\x83\x86\x84" + bytes((0x80 | 20 + number,))
        server.receive(frames.frame(frames.HEADERS, flags, stream, block), 0.0)
        stream += 2
        assert 0 < len(known.cache) <= Limits().headers_cached_max
    assert len(server.streams) > 100


def test_streams_beyond_the_limit_are_refused_and_the_others_go_on() -> None:
    server = ours(dataclasses.replace(Limits(), streams_max=3))
    peer = client()
    for stream in (1, 3, 5, 7):
        # h2 has not heard of the limit yet, so it sends the fourth.
        peer.send_headers(stream, REQUEST, end_stream=True)
    started = server.receive(peer.data_to_send(), 0.0)
    assert [event.stream.id for event in started if isinstance(event, RequestStarted)] == [1, 3, 5]
    (event,) = [e for e in peer.receive_data(server.take()) if isinstance(e, h2.events.StreamReset)]
    assert (event.stream_id, event.error_code) == (7, ErrorCode.REFUSED_STREAM)
    server.respond(server.streams[1], HEAD, b"x", END)
    peer.receive_data(server.take())
    peer.send_headers(9, REQUEST, end_stream=True)
    assert len(server.receive(peer.data_to_send(), 0.0)) == 1


def test_a_fourth_connection_of_three_is_closed() -> None:
    @in_loop
    async def scenario() -> None:
        async with serving(limits=dataclasses.replace(Limits(), connections_max=3)) as server:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(3):
                    await stack.enter_async_context(raw(server))
                await wait_until_async(lambda: server.front.is_full, timeout_s=5, what="three")
                async with raw(server, hello=False) as fourth:
                    assert await fourth.ended()
            await wait_until_async(lambda: not server.front.is_full, timeout_s=5, what="their end")
            async with raw(server) as another:
                await another.hears(h2.events.RemoteSettingsChanged)

    scenario()


# ---- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"", frames.PREFACE[:10], frames.PREFACE, frames.PREFACE + b"\0\0"],
    ids=["nothing", "half a preface", "no SETTINGS", "half of SETTINGS"],
)
def test_a_connection_that_does_not_begin_is_ended(said: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        async with serving(limits=short(opening_s=0.1)) as server, raw(server, hello=False) as peer:
            peer.writer.write(said)
            assert await peer.ended()

    scenario()


@pytest.mark.parametrize(
    "said",
    [OPEN[:20], frames.frame(frames.HEADERS, 0, 1, BLOCK), b"\0\0\x08\x06"],
    ids=["half a frame", "half a block", "half a PING"],
)
def test_a_frame_or_a_header_block_that_does_not_end_ends_the_connection(said: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        async with serving(limits=short(header_block_s=0.1)) as server, raw(server, hello=False) as peer:
            peer.writer.write(HELLO + said)
            assert await peer.ended()

    scenario()


def test_a_block_that_trickles_is_as_slow_as_it_began() -> None:
    server = ours()
    server.receive(HELLO + frames.frame(frames.HEADERS, 0, 1, BLOCK), 1.0)
    server.receive(frames.frame(frames.CONTINUATION, 0, 1, b"")[:5], 2.0)
    server.receive(frames.frame(frames.CONTINUATION, 0, 1, b"")[5:], 3.0)
    assert server.partial_since == 1.0
    server.receive(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""), 4.0)
    assert server.partial_since is None
    # A busy connection always has a part of something: that is not slow.
    server.receive(OPEN[:4], 5.0)
    server.receive(frames.frame(frames.PING, 0, 0, bytes(8))[4:], 6.0)
    assert server.partial_since in {5.0, 6.0, None}


async def sink(call: Call) -> bytes:
    return b"%d" % sum([len(message) async for message in call.messages()])


async def echo(call: Call) -> bytes:
    return call.body


@in_loop
async def test_a_body_that_stops_half_way_is_refused() -> None:
    routes = (route("Echo", echo), route("Sink", sink, Kind.CLIENT_STREAM))
    async with serving(*routes, limits=short(body_stall_s=0.1)) as server, raw(server) as peer:
        for path in ("/test.Service/Echo", "/test.Service/Sink"):
            stream = peer.open(path)
            peer.h2.send_data(stream, grpc_wire.prefixed(bytes(100))[:50])
            peer.flush()
            answer = await peer.hears(h2.events.ResponseReceived)
            assert fields_of(answer)["grpc-status"] == "14"
            await peer.hears(h2.events.StreamReset)
        await wait_until_async(lambda: server.streams == 0, timeout_s=5, what="no streams")


@in_loop
async def test_a_body_that_never_begins_ends_at_the_methods_time_limit() -> None:
    async with serving(route("Echo", echo, timeout_s=0.1)) as server, raw(server) as peer:
        peer.open("/test.Service/Echo")
        answer = await peer.hears(h2.events.ResponseReceived)
        assert fields_of(answer)["grpc-message"] == "etcdserver: request timed out"


@in_loop
async def test_a_silent_connection_is_asked_and_then_ended() -> None:
    async with serving(limits=short(idle_s=0.1, idle_answer_s=0.1)) as server:
        async with raw(server) as peer:
            for _ in range(3):  # it answers, and stays
                await peer.hears(h2.events.PingReceived)
        async with raw(server) as peer:
            assert await peer.ended()  # it reads, and says nothing


# ---- requests --------------------------------------------------------------------------------------------------------


@in_loop
async def test_requests_that_nobody_takes_have_a_bound() -> None:
    limits = short(request_bytes_max=100_000)
    async with serving(route("Echo", echo), limits=limits) as server, raw(server) as peer:
        await peer.hears(h2.events.RemoteSettingsChanged)
        streams = []
        for _ in range(3):
            stream = peer.open("/test.Service/Echo")
            peer.h2.send_data(stream, grpc_wire.prefixed(bytes(60_000))[:16_384])
            peer.h2.send_data(stream, bytes(16_384))
            peer.flush()
            streams.append(stream)
        await wait_until_async(lambda: server.front.request_bytes > 90_000, timeout_s=5, what="three halves")
        peer.h2.send_data(streams[0], bytes(16_384))
        peer.flush()
        answer = await peer.hears(h2.events.ResponseReceived)
        assert fields_of(answer)["grpc-status"] == "8"
        assert server.front.request_bytes <= 100_000


@in_loop
async def test_requests_of_all_connections_have_a_bound() -> None:
    limits = short(request_bytes_max=100_000, all_request_bytes_max=150_000)
    async with serving(route("Echo", echo), limits=limits) as server, contextlib.AsyncExitStack() as stack:
        for number in range(3):
            peer = await stack.enter_async_context(raw(server))
            await peer.hears(h2.events.RemoteSettingsChanged)
            stream = peer.open("/test.Service/Echo")
            for part in (grpc_wire.prefixed(bytes(70_000))[:16_384], *[bytes(16_384)] * 2, bytes(10_000)):
                peer.h2.send_data(stream, part)
            peer.flush()
            if number < 2:
                held = (number + 1) * 59_152
                await wait_until_async(lambda: server.front.request_bytes >= held, timeout_s=5, what="a part")  # noqa: B023
        answer = await peer.hears(h2.events.ResponseReceived)
        assert fields_of(answer)["grpc-status"] == "8"
        assert server.front.request_bytes <= 150_000


@pytest.mark.parametrize(
    ("limits", "messages"),
    [(short(messages_queued_max=100), 101), (short(request_bytes_max=100_000), 3_000)],
    ids=["by number", "by what they take in memory"],
)
@in_loop
async def test_messages_that_a_handler_does_not_take_have_a_bound(limits: Limits, messages: int) -> None:
    """An empty one comes as five bytes."""

    async def deaf(_call: Call) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(route("Deaf", deaf, Kind.CLIENT_STREAM), limits=limits) as server, raw(server) as peer:
        stream = peer.open("/test.Service/Deaf")
        peer.h2.send_data(stream, grpc_wire.prefixed(b"") * messages)
        peer.flush()
        answer = await peer.hears(h2.events.ResponseReceived)
        assert fields_of(answer)["grpc-status"] == "8"
        assert server.front.request_bytes == 0


@in_loop
async def test_an_encoding_that_is_unknown_is_refused_with_those_that_are_known() -> None:
    async with serving(route("Echo", echo)) as server, raw(server) as peer:
        peer.open("/test.Service/Echo", ("grpc-encoding", "lzma"))
        answer = await peer.hears(h2.events.ResponseReceived)
        headers = fields_of(answer)
        assert headers["grpc-status"] == "12"
        assert set(headers["grpc-accept-encoding"].split(",")) == {"identity", "gzip", "snappy", "zstd"}


@in_loop
async def test_a_call_that_is_no_grpc_is_refused_as_http() -> None:
    async with serving(route("Echo", echo)) as server, raw(server) as peer:
        stream = peer.h2.get_next_available_stream_id()
        peer.h2.send_headers(
            stream,
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")],
            end_stream=True,
        )
        peer.flush()
        answer = await peer.hears(h2.events.ResponseReceived)
        assert fields_of(answer)[":status"] == "405"


@in_loop
async def test_bounds_are_not_met_by_a_client_that_behaves() -> None:
    async with serving(route("Echo", echo), limits=short(opening_s=0.1, header_block_s=0.1)) as server:
        assert await server.unary("Echo")(bytes(4_000_000)) == bytes(4_000_000)
        assert await refused(server.unary("Nope")(b"")) == (
            "UNIMPLEMENTED",
            "unknown method Nope for service test.Service",
        )
