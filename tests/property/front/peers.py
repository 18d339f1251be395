"""python-hyper's h2 as the other end of our HTTP/2, and as a second opinion about what bytes mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
from hypothesis import strategies as st

from coordinator.front.http2.connection import Connection
from coordinator.front.http2.events import ConnectionEnded, DataArrived, RequestStarted, StreamEnded
from coordinator.front.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coordinator.front.http2.events import Event
    from coordinator.front.http2.headers import Fields

Fact = tuple[Any, ...]
"""("request", stream, fields), ("data", stream, bytes), ("end", stream), ("reset", stream, code), ("fault", code)."""

REQUEST: list[tuple[str, str]] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
    (":authority", "here"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def as_fields(fields: Fields) -> tuple[tuple[bytes, bytes], ...]:
    """A head that is the fields themselves."""
    return tuple((bytes(name), bytes(value)) for name, value in fields)


def ours(limits: Limits | None = None) -> Connection[tuple[tuple[bytes, bytes], ...]]:
    """A fresh server's side."""
    return Connection(as_fields, limits or Limits())


def facts_of(events: Iterable[Event[Any]]) -> list[Fact]:
    """What our events say."""
    facts: list[Fact] = []
    for event in events:
        match event:
            case RequestStarted():
                facts.append(("request", event.stream.id, event.head))
                if event.ended:
                    facts.append(("end", event.stream.id))
            case DataArrived():
                if event.data:
                    facts.append(("data", event.stream.id, event.data))
                if event.ended:
                    facts.append(("end", event.stream.id))
            case StreamEnded():
                facts.append(("reset", event.stream.id, int(event.code)))
            case ConnectionEnded():
                facts.append(("fault", int(event.fault.code)))
    return facts


def facts_of_h2(events: Iterable[h2.events.Event]) -> list[Fact]:
    """What h2's events say."""
    facts: list[Fact] = []
    for event in events:
        match event:
            case h2.events.RequestReceived():
                fields = tuple((_bytes(name), _bytes(value)) for name, value in event.headers or ())
                facts.append(("request", event.stream_id, fields))
            case h2.events.DataReceived():
                if event.data:
                    facts.append(("data", event.stream_id, bytes(event.data)))
            case h2.events.StreamEnded():
                facts.append(("end", event.stream_id))
            case h2.events.StreamReset() if event.remote_reset:
                facts.append(("reset", event.stream_id, int(event.error_code or 0)))
    return facts


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def joined(facts: Iterable[Fact]) -> list[Fact]:
    """Data of one stream as one fact wherever it came in pieces."""
    result: list[Fact] = []
    for fact in facts:
        if fact[0] == "data" and result and result[-1][:2] == fact[:2]:
            result[-1] = ("data", fact[1], result[-1][2] + fact[2])
        else:
            result.append(fact)
    return result


def client(**settings: Any) -> h2.connection.H2Connection:
    """A client that has said its preface."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, **settings))
    peer.initiate_connection()
    return peer


def oracle() -> h2.connection.H2Connection:
    """A server by h2, with our settings."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    peer.initiate_connection()
    return peer


def meet(peer: h2.connection.H2Connection, server: Connection[Any]) -> list[Fact]:
    """Let both exchange what they have to say until neither has more; what the server heard."""
    facts: list[Fact] = []
    while True:
        sent = peer.data_to_send()
        if sent:
            facts += facts_of(server.receive(sent, 0.0))
        answer = server.take()
        if answer:
            peer.receive_data(answer)
        facts += facts_of(server.make_room(1 << 20))
        if not sent and not answer and not server.has_output:
            return facts


# ---- programs of a client --------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["table", "x-trace", "boathouse-request-id", "grpc-timeout", "a-bin", "user-agent"])
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40)


@dataclass(frozen=True)
class Step:
    """One thing that a client does; `stream` picks one of those that are open."""

    do: str
    stream: int = 0
    data: bytes = b""
    padding: int | None = None
    fields: tuple[tuple[str, str], ...] = ()
    end: bool = False


STEPS = st.one_of(
    st.builds(
        Step,
        do=st.just("open"),
        fields=st.lists(st.tuples(NAMES, VALUES), max_size=4).map(tuple),
        end=st.booleans(),
    ),
    st.builds(
        Step,
        do=st.just("data"),
        stream=st.integers(0, 5),
        data=st.binary(max_size=600),
        padding=st.one_of(st.none(), st.integers(0, 255)),
        end=st.booleans(),
    ),
    st.builds(Step, do=st.just("trailers"), stream=st.integers(0, 5)),
    st.builds(Step, do=st.just("reset"), stream=st.integers(0, 5)),
    st.builds(Step, do=st.just("ping"), data=st.binary(min_size=8, max_size=8)),
    st.builds(Step, do=st.just("window"), stream=st.integers(0, 5)),
    st.builds(Step, do=st.just("priority"), stream=st.integers(0, 5)),
    st.builds(Step, do=st.just("settings"), stream=st.integers(0, 5)),
)


def spoken(steps: Sequence[Step]) -> bytes:
    """What a client says that does all this."""
    peer = client()
    # What our settings allow, without hearing them: h2 keeps to the defaults until it does.
    server = ours()
    peer.receive_data(server.take())
    open_streams: list[int] = []
    for step in steps:
        _say(peer, open_streams, step)
    return bytes(peer.data_to_send())


def _say(peer: h2.connection.H2Connection, open_streams: list[int], step: Step) -> None:
    if step.do == "open":
        stream = peer.get_next_available_stream_id()
        peer.send_headers(stream, [*REQUEST, *step.fields], end_stream=step.end)
        if not step.end:
            open_streams.append(stream)
        return
    if step.do == "ping":
        peer.ping(step.data)
        return
    if step.do == "settings":
        peer.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_535 + step.stream})
        return
    if not open_streams:
        return
    stream = open_streams[step.stream % len(open_streams)]
    ended = False
    if step.do == "data":
        peer.send_data(stream, step.data, end_stream=step.end, pad_length=step.padding)
        ended = step.end
    elif step.do == "trailers":
        peer.send_headers(stream, [("x-end", "1")], end_stream=True)
        ended = True
    elif step.do == "reset":
        peer.reset_stream(stream, 8)
        ended = True
    elif step.do == "window":
        peer.increment_flow_control_window(100, stream)
    else:
        peer.prioritize(stream, weight=16, depends_on=0)
    if ended:
        open_streams.remove(stream)
