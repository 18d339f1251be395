"""Every bound of the front end, with its reason. RELIABILITY.md lists them for operators.

A client that keeps to the protocol at a sane pace meets none of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one peer, and all peers together, may take."""

    # ---- sizes -------------------------------------------------------------------------------------------------------

    frame_bytes_max: int = 16_384
    """SETTINGS_MAX_FRAME_SIZE, HTTP/2's default: what is kept of a frame that has come in part."""
    header_block_bytes_max: int = 128 << 10
    """A header block as sent, CONTINUATION included; over it the connection ends. Twice header_list_bytes_max, so that
    a request a little over that is refused in words and not by hanging up."""
    header_fragments_max: int = 32
    """Frames of one header block. A client needs 9 for the largest block; a flood of empty ones is cut off here."""
    header_list_bytes_max: int = 64 << 10
    """SETTINGS_MAX_HEADER_LIST_SIZE: decoded names and values, plus 32 each, of a request that is served."""
    header_list_bytes_hard_max: int = 256 << 10
    """Decoding stops here and the connection ends: a few bytes may stand for megabytes of repeated fields."""
    headers_cached_max: int = 32
    """Requests of which a connection remembers what their headers mean, each twice and of 1 KiB at most. Clients call
    a handful of methods."""

    # ---- requests ----------------------------------------------------------------------------------------------------

    streams_max: int = 10_000
    """SETTINGS_MAX_CONCURRENT_STREAMS: calls in flight on a connection. Go clients put thousands of watches on one."""
    stream_window_bytes: int = 256 << 10
    """What a client may send on a stream before it hears that it was taken. A request of 256 B needs one round trip
    with any; one of 1.5 MB several."""
    connection_window_bytes: int = 4 << 20
    """The same for all streams of a connection together. It is given back at once: what requests may hold is
    request_bytes_max."""
    request_bytes_max: int = 64 << 20
    """Request bytes of a connection that no handler has taken; the call that goes over it is refused."""
    all_request_bytes_max: int = 256 << 20
    """The same on all connections."""
    calls_waiting_max: int = 10_000
    """Calls that wait until there is room for answers; the next is refused."""
    messages_queued_max: int = 10_000
    """Messages of one stream that its handler has not taken: empty messages cost no window to speak of."""

    # ---- answers -----------------------------------------------------------------------------------------------------

    stream_answer_bytes_max: int = 1 << 20
    """Queued on a stream before Call.send waits for the client to read. One message may be larger."""
    connection_answer_bytes_max: int = 64 << 20
    """Queued on a connection before further calls on it and messages of its streams wait; an answer that does not fit
    into twice this is dropped, and its call refused."""
    answer_bytes_max: int = 256 << 20
    """The same on all connections. None gets more of it than all of them have left (answers.py)."""
    answer_bytes_always: int = 4 << 10
    """An answer up to this is never dropped, and a call that will have such a one does not wait before twice as much is
    queued: it costs hardly more than the words of a refusal, and for a write it is the news that it was applied."""
    write_buffer_bytes: int = 64 << 10
    """Handed to the socket ahead of its reader, a connection: enough to keep it busy for a turn of the loop."""
    control_bytes_max: int = 256 << 10
    """Answers to a peer's PING, SETTINGS and resets that it does not read; over it the connection ends."""

    # ---- nuisance ----------------------------------------------------------------------------------------------------

    nuisance_max: float = 2_000
    """Frames without work in them: PING, SETTINGS, WINDOW_UPDATE, PRIORITY, empty DATA, resets of requests that
    have just come. This many at once are let pass, the next ends the connection (ENHANCE_YOUR_CALM)."""
    moment_s: float = 0.1
    """Requests that were open when such a stretch of time began may be reset as if they had their answers, all of
    streams_max at once, as by a client that shuts down, or whose calls have the same deadline. Whoever does that as an
    attack has to make calls that are worth it."""
    nuisance_per_s: float = 200
    """So many are forgotten a second. grpc-go pings every 10 s, and up to a few times a second while it measures the
    bandwidth."""
    nuisance_per_work: float = 4
    """Forgotten for each frame of data that was sent and each call that has its answer: WINDOW_UPDATE and PING come
    with those."""

    # ---- time --------------------------------------------------------------------------------------------------------

    opening_s: float = 10.0
    """From the connection to the first complete request or SETTINGS, TLS handshake apart."""
    handshake_s: float = 10.0
    """A TLS handshake."""
    header_block_s: float = 10.0
    """A frame or a header block that has begun must end within this."""
    body_stall_s: float = 30.0
    """A message that has begun must go on within this."""
    read_stall_s: float = 30.0
    """A client for which answers are queued takes read_bytes_min of them within this, an eighth of them if room is
    scarce, or they are dropped (slow_readers.py)."""
    read_bytes_min: int = 64 << 10
    """In read_stall_s: what the slowest line takes."""
    pong_delay_s: float = 0.05
    """While any call is under way, the answer to a PING waits so long at most for something that it can leave with.
    grpc-go sends a PING for nearly each answer that it gets, to measure its line, and to write twice as often took a
    fifth of what a lease kept alive costs here. Who pings to know that we live waits for seconds."""
    idle_s: float = 7_200.0
    """A connection without calls is asked for a sign of life (PING) after this..."""
    idle_answer_s: float = 20.0
    """...and ends if there is none."""

    check_interval_s: float = 1.0
    """How late the limits above may be noticed."""

    # ---- the process -------------------------------------------------------------------------------------------------

    connections_max: int = 10_000
    """Open at once; the next is closed as soon as it is accepted. The process raises its limit of descriptors to
    match, as far as it may."""


DEFAULT = Limits()
