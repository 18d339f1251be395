"""Our HTTP/2 against python-hyper's: both understand the same, and however the bytes are cut."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import h2.events
import h2.settings
from hpack import Encoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordinator.front.http2 import frames
from coordinator.front.http2.events import RequestStarted
from coordinator.front.http2.frames import EncodedHeaders
from coordinator.front.http2.headers import STATUS_200, Head, HeaderReader, literal
from coordinator.front.limits import Limits
from tests.property.front import peers
from tests.property.front.peers import STEPS, Step, client, facts_of, facts_of_h2, joined, meet, ours, spoken

if TYPE_CHECKING:
    from coordinator.front.http2.events import Event

HEAD = EncodedHeaders(STATUS_200 + literal(b"content-type", b"application/grpc"), ends=False)
TRAILERS = EncodedHeaders(literal(b"grpc-status", b"0"), ends=True)

PROGRAMS = st.lists(STEPS, max_size=30)


@settings(max_examples=60, deadline=None)
@given(PROGRAMS)
def test_both_understand_the_same(steps: list[Step]) -> None:
    said = spoken(steps)
    second = peers.oracle()
    assert joined(facts_of(ours().receive(said, 0.0))) == joined(facts_of_h2(second.receive_data(said)))


def heard_in_pieces(said: bytes, cuts: list[int]) -> tuple[list[peers.Fact], bytes]:
    """What a server understands, and says, of bytes that come cut."""
    server, facts, answers = ours(), [], []
    positions = [0, *sorted(cut % (len(said) + 1) for cut in cuts), len(said)]
    for start, end in itertools.pairwise(positions):
        facts += facts_of(server.receive(said[start:end], 0.0))
        answers.append(server.take())
    return facts, b"".join(answers)


@settings(max_examples=60, deadline=None)
@given(PROGRAMS, st.lists(st.integers(0, 1 << 16), max_size=20))
def test_cuts_change_nothing(steps: list[Step], cuts: list[int]) -> None:
    said = spoken(steps)
    assert heard_in_pieces(said, cuts) == heard_in_pieces(said, [])


def test_every_cut_changes_nothing() -> None:
    said = spoken(
        [
            Step("open", fields=(("table", "users"),)),
            Step("data", data=b"0123", padding=3),
            Step("open", end=True),
            Step("ping", data=b"12345678"),
            Step("reset"),
            Step("open", fields=(("table", "users"),)),
            Step("trailers"),
        ]
    )
    whole = heard_in_pieces(said, [])
    assert len(whole[0]) == 7
    for cut in range(len(said)):
        assert heard_in_pieces(said, [cut]) == whole
    assert heard_in_pieces(said, list(range(len(said)))) == whole


FRAMES = st.builds(
    lambda kind, flags, stream, payload: frames.frame(kind, flags, stream, payload),
    st.integers(0, 11),
    st.integers(0, 255),
    st.sampled_from([0, 1, 1, 2, 3, 5, 7, (1 << 31) - 1]),
    st.one_of(st.binary(max_size=40), st.just(bytes(8)), st.just(b"\x82\x86\x84\x41\x01a")),
)


@settings(max_examples=120, deadline=None)
@given(PROGRAMS, st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 1 << 16), max_size=6))
def test_frames_that_make_no_sense_are_faults_and_never_exceptions(
    steps: list[Step], nonsense: list[bytes], cuts: list[int]
) -> None:
    said = spoken(steps) + b"".join(nonsense)
    assert heard_in_pieces(said, cuts) == heard_in_pieces(said, [])


@settings(max_examples=120, deadline=None)
@given(
    PROGRAMS,
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6),
    st.lists(st.integers(0, 1 << 16), max_size=6),
)
def test_damaged_bytes_are_faults_and_never_exceptions(
    steps: list[Step], changes: list[tuple[int, int]], cuts: list[int]
) -> None:
    said = bytearray(spoken(steps))
    for position, value in changes:
        said[position % len(said)] = value
    assert heard_in_pieces(bytes(said), cuts) == heard_in_pieces(bytes(said), [])


# ---- answers ---------------------------------------------------------------------------------------------------------


class Answering:
    """A server that answers each request at once with bytes of its own, and a client that reads as it likes."""

    def __init__(self, answers: list[bytes], *, window: int, frame_bytes: int, whole: bool) -> None:
        self.answers = answers
        self.whole = whole
        self.server = ours()
        self.client = client()
        self.client.update_settings(
            {
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
                h2.settings.SettingCodes.MAX_FRAME_SIZE: frame_bytes,
            }
        )
        meet(self.client, self.server)
        self.read: dict[int, bytearray] = {}
        self.trailers: set[int] = set()

    def run(self, *, rooms: list[int]) -> None:
        for _ in self.answers:
            stream = self.client.get_next_available_stream_id()
            self.client.send_headers(stream, peers.REQUEST, end_stream=True)
            self.read[stream] = bytearray()
        for turn in range(100_000):
            said = self.client.data_to_send()
            self._answer(self.server.receive(said, 0.0))
            answer = self.server.take()
            self.server.make_room(rooms[turn % len(rooms)])
            self._hear(answer)
            if not said and not answer and not self.server.queued_bytes:
                return
        raise AssertionError("no end")

    def _answer(self, events: list[Event[Any]]) -> None:
        for event in events:
            if isinstance(event, RequestStarted):
                body = self.answers[(event.stream.id - 1) // 2]
                if self.whole:
                    self.server.respond(event.stream, HEAD, body, TRAILERS)
                else:
                    self.server.send_head(event.stream, HEAD)
                    for at in range(0, len(body), 1_000):
                        self.server.send_data(event.stream, body[at : at + 1_000])
                    self.server.send_trailers(event.stream, TRAILERS)

    def _hear(self, answer: bytes) -> None:
        for event in self.client.receive_data(answer):
            match event:
                case h2.events.DataReceived():
                    assert event.stream_id is not None
                    self.read[event.stream_id] += event.data
                    if event.flow_controlled_length:
                        self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.TrailersReceived():
                    assert event.stream_id is not None
                    self.trailers.add(event.stream_id)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 90_000).map(lambda size: bytes(size % 251 for _ in range(size))), max_size=5),
    st.sampled_from([1_000, 16_384, 65_535, 1 << 20]),
    st.sampled_from([16_384, 1 << 18]),
    st.booleans(),
    st.lists(st.sampled_from([100, 16_384, 1 << 20]), min_size=1, max_size=4),
)
@example([bytes(200_000)], 65_535, 16_384, True, [1 << 20])
def test_answers_arrive_whole_through_any_windows(
    answers: list[bytes], window: int, frame_bytes: int, whole: bool, rooms: list[int]
) -> None:
    scene = Answering(answers, window=window, frame_bytes=frame_bytes, whole=whole)
    scene.run(rooms=rooms)
    assert [bytes(read) for read in scene.read.values()] == answers
    assert scene.trailers == set(scene.read)
    assert not scene.server.streams
    assert scene.server.queued_bytes == 0


def test_streams_take_turns() -> None:
    server, peer = ours(), client()
    for _ in range(2):
        peer.send_headers(peer.get_next_available_stream_id(), peers.REQUEST, end_stream=True)
    started = server.receive(peer.data_to_send(), 0.0)
    peer.receive_data(server.take())
    server.make_room(0)
    for event in started:
        assert isinstance(event, RequestStarted)
        server.send_data(event.stream, bytes(60_000))
    server.make_room(64_000)
    sent = server.take()
    kinds, position = [], 0
    while position < len(sent):
        length = int.from_bytes(sent[position : position + 3])
        kinds.append(int.from_bytes(sent[position + 5 : position + 9]))
        position += 9 + length
    assert kinds == [1, 3, 1, 3]


def test_a_large_answer_needs_the_clients_leave() -> None:
    server, peer = ours(), client()
    peer.send_headers(1, peers.REQUEST, end_stream=True)
    (started,) = server.receive(peer.data_to_send(), 0.0)
    assert isinstance(started, RequestStarted)
    server.make_room(1 << 20)
    server.respond(started.stream, HEAD, bytes(100_000), TRAILERS)
    assert server.queued_bytes == 100_000 - frames.WINDOW_DEFAULT
    meet(peer, server)
    peer.increment_flow_control_window(50_000)
    peer.increment_flow_control_window(50_000, 1)
    meet(peer, server)
    assert server.queued_bytes == 0


FIELD = st.sampled_from(
    [
        *((name.encode(), value.encode()) for name, value in peers.REQUEST),
        (b"grpc-timeout", b"1S"),
        (b"grpc-timeout", b"2S"),
        (b"grpc-timeout", b"3\0S"),
        (b"table", b"users"),
        (b"Table", b"users"),
        (b"connection", b"close"),
        (b"content-length", b"7"),
        (b":status", b"200"),
    ]
)
WHOLE = [(name.encode(), value.encode()) for name, value in peers.REQUEST]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.one_of(st.lists(FIELD, max_size=8), st.lists(FIELD, max_size=2).map(lambda more: [*WHOLE, *more])),
        max_size=12,
    )
)
def test_what_is_remembered_of_requests_changes_nothing(requests: list[list[tuple[bytes, bytes]]]) -> None:
    def reader() -> HeaderReader[tuple[tuple[bytes, bytes], ...]]:
        return HeaderReader(peers.as_fields, b"grpc-timeout", Limits())

    encoder, remembering = Encoder(), reader()
    for fields in requests:
        for _ in range(2):
            found = remembering.read_request(encoder.encode(fields))
            fresh = reader().read_request(Encoder().encode(fields))
            assert isinstance(found, Head)
            assert isinstance(fresh, Head)
            assert (found.value, found.varying, found.malformed) == (
                fresh.value,
                fresh.varying,
                fresh.malformed,
            )
            if not found.malformed:
                assert found.value == tuple(field for field in fields if field[0] != b"grpc-timeout")


def test_a_reference_that_has_got_another_meaning_is_not_remembered() -> None:
    reader = HeaderReader(peers.as_fields, b"", Limits())
    pseudo = b"\x83\x86\x84"  # POST, http, /
    values = []
    for value in (b"1", b"2"):
        for block in (pseudo + b"\x40\x01x\x01" + value, pseudo + b"\xbe", pseudo + b"\xbe"):
            head = reader.read_request(block)
            assert isinstance(head, Head)
            assert head.value is not None
            values.append(head.value[-1])
    assert values == [(b"x", b"1")] * 3 + [(b"x", b"2")] * 3


def test_a_timeout_among_the_pseudo_headers_is_malformed_however_well_the_rest_is_known() -> None:
    reader, encoder = HeaderReader(peers.as_fields, b"grpc-timeout", Limits()), Encoder()
    for position in (len(WHOLE), 4, 3, 0):
        fields = [*WHOLE[:position], (b"grpc-timeout", b"1S"), *WHOLE[position:]]
        head = reader.read_request(encoder.encode(fields))
        assert isinstance(head, Head)
        assert bool(head.malformed) == (position < 4)
