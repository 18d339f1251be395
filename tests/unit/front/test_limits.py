"""Every bound has a test, and stands in the list for operators with its number."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import NamedTuple

import pytest

from coordinator.front import http_pages, limits

RELIABILITY = Path(__file__).parents[3] / "RELIABILITY.md"


class Row(NamedTuple):
    """One line of the list."""

    begins: str
    fields: dict[str, str]
    """Of Limits, with the number as it is told."""
    tests: tuple[str, ...]


FRONT = (
    Row(
        "metadata of a call, decoded",
        {
            "header_list_bytes_max": "64 KiB",
            "header_list_bytes_hard_max": "256 KiB decoded",
            "header_block_bytes_max": "128 KiB encoded",
            "header_fragments_max": "32 fragments",
        },
        (
            "test_grpc.test_metadata_beyond_64_kib_is_refused_in_words_and_the_connection_stays",
            "test_bounds.test_a_header_bomb_is_not_unpacked",
            "test_bounds.test_a_header_block_has_a_size_and_a_number_of_fragments",
        ),
    ),
    Row(
        "a message, decompressed",
        {},
        (
            "test_grpc.test_a_message_over_the_limit_is_refused_in_the_apis_words",
            "test_grpc.test_a_message_that_grows_over_the_limit_is_refused",
        ),
    ),
    Row(
        "answers of a stream that are not read",
        {"stream_answer_bytes_max": "1 MiB"},
        ("test_grpc.test_a_stream_waits_for_its_client_to_read",),
    ),
    Row("compressed messages", {}, ("test_compression.test_a_bomb_is_refused_before_it_takes_memory",)),
    Row(
        "calls in flight on a connection",
        {"streams_max": "10,000"},
        ("test_bounds.test_streams_beyond_the_limit_are_refused_and_the_others_go_on",),
    ),
    Row(
        "connections of a process",
        {"connections_max": "10,000"},
        (
            "test_bounds.test_a_fourth_connection_of_three_is_closed",
            "test_tls.test_handshakes_count_as_connections",
        ),
    ),
    Row(
        "requests that are reset within",
        {
            "moment_s": "0.1 s",
            "nuisance_max": "2,000 at once",
            "nuisance_per_s": "200 a second",
            "nuisance_per_work": "4 more",
        },
        (
            "test_bounds.test_a_flood_ends_the_connection",
            "test_bounds.test_a_flood_that_takes_its_time_ends_the_connection",
            "test_bounds.test_what_a_settings_frame_costs_is_what_it_counts",
            "test_bounds.test_what_comes_with_answers_is_no_flood",
            "test_bounds.test_all_calls_that_may_be_open_may_be_cancelled_at_once",
        ),
    ),
    Row(
        "request bytes that no handler has taken",
        {"request_bytes_max": "64 MiB a connection", "all_request_bytes_max": "256 MiB a process"},
        (
            "test_bounds.test_requests_that_nobody_takes_have_a_bound",
            "test_bounds.test_requests_of_all_connections_have_a_bound",
            "test_bounds.test_messages_that_a_handler_does_not_take_have_a_bound",
            "test_grpc_wire.test_a_message_in_parts_of_a_byte_takes_little_more_than_its_bytes",
        ),
    ),
    Row(
        "messages that a stream's handler has not taken",
        {"messages_queued_max": "10,000"},
        ("test_bounds.test_messages_that_a_handler_does_not_take_have_a_bound",),
    ),
    Row(
        "answers that are queued, and those to be expected",
        {
            "answer_bytes_max": "256 MiB a process",
            "connection_answer_bytes_max": "64 MiB a connection",
            "calls_waiting_max": "10,000 at most",
            "answer_bytes_always": "4 KiB",
        },
        (
            "test_answer_room.test_however_many_do_not_read_there_is_room_for_who_does",
            "test_answer_room.test_all_that_is_queued_comes_to_twice_the_bound_at_most",
            "test_answers.test_answers_beyond_the_bound_are_refused_in_words",
            "test_answers.test_streams_that_are_not_read_share_a_bound_and_their_message",
            "test_answers.test_the_call_beyond_those_that_may_wait_is_refused",
            "test_answers.test_a_write_goes_on_while_all_room_is_taken",
            "test_answers.test_calls_that_wait_for_other_clients_take_nobodys_room",
        ),
    ),
    Row(
        "answers to PING and SETTINGS",
        {"control_bytes_max": "256 KiB"},
        ("test_answers.test_pings_of_a_client_that_reads_nothing_are_not_read_either",),
    ),
    Row(
        "time to begin",
        {"opening_s": "10 s", "handshake_s": "10 s"},
        (
            "test_bounds.test_a_connection_that_does_not_begin_is_ended",
            "test_tls.test_a_handshake_that_does_not_end_is_ended",
        ),
    ),
    Row(
        "a frame or a header block that has begun",
        {"header_block_s": "10 s"},
        ("test_bounds.test_a_frame_or_a_header_block_that_does_not_end_ends_the_connection",),
    ),
    Row(
        "a message that has begun",
        {"body_stall_s": "30 s"},
        ("test_bounds.test_a_body_that_stops_half_way_is_refused",),
    ),
    Row(
        "a client that takes less than",
        {"read_stall_s": "30 s", "read_bytes_min": "64 KiB"},
        (
            "test_answers.test_a_byte_now_and_then_is_not_reading",
            "test_answers.test_a_stream_that_is_never_read_ends_and_its_neighbours_go_on",
            "test_answers.test_a_connection_that_is_never_read_ends",
            "test_answers.test_a_slow_line_is_let_alone_while_there_is_room",
        ),
    ),
    Row(
        "a silent connection",
        {"idle_s": "2 h", "idle_answer_s": "20 s"},
        ("test_bounds.test_a_silent_connection_is_asked_and_then_ended",),
    ),
    Row(
        "parts of a compressed message",
        {},
        (
            "test_compression.test_too_many_pieces_are_refused_quickly",
            "test_compression.test_a_window_that_no_writer_needs_is_refused",
        ),
    ),
)

PAGES = (
    Row(
        "HTTP/1.1 (",
        {
            "connections_max": "256 of a process",
            "head_bytes_max": "16 KiB",
            "request_s": "10 s",
            "idle_s": "60 s",
            "send_s": "in 10 s",
            "unsent_bytes_max": "64 KiB in",
            "answer_s": "4 min",
        },
        (
            "test_http1.test_connections_have_a_number",
            "test_http1.test_a_port_that_is_full_takes_no_room_of_another",
            "test_http1.test_a_head_has_a_size",
            "test_http1.test_a_request_that_does_not_arrive_in_time",
            "test_http1.test_silence_has_an_end",
            "test_http1.test_a_client_that_does_not_read_is_cut",
            "test_http1.test_an_answer_that_takes_too_long_in_all_is_cut",
        ),
    ),
    Row(
        "bodies of HTTP/1.1 requests",
        {"bodies_bytes_max": "64 MiB"},
        ("test_http1.test_bodies_of_all_requests_have_a_bound",),
    ),
    Row(
        "chunks of a body of HTTP/1.1",
        {"chunks_max": "4,096", "chunk_bytes_min": "64 bytes"},
        ("test_http1.test_chunks_that_are_too_small_have_a_number",),
    ),
    Row(
        "JSON values of a body",
        {},
        ("test_json_text.test_a_body_of_many_values_is_refused_before_they_are_made",),
    ),
    Row(
        "answers as JSON",
        {},
        (
            "test_json_gateway.test_an_answer_for_which_there_is_no_room_is_refused",
            "test_json_gateway.test_a_call_waits_for_room_until_its_deadline",
            "test_http1.test_what_is_held_for_an_answer_counts_until_it_is_sent_or_cut",
            "test_http1.test_others_are_answered_while_a_large_answer_is_made",
        ),
    ),
)

OURS = {
    "frame_bytes_max": "test_bounds.test_a_frame_has_a_size",
    "stream_window_bytes": "test_bounds.test_windows_are_kept",
    "connection_window_bytes": "test_bounds.test_windows_are_kept",
    "headers_cached_max": "test_bounds.test_few_requests_headers_are_remembered",
    "write_buffer_bytes": "test_answers.test_a_stream_that_fills_the_socket_goes_on_as_it_is_read",
    "pong_delay_s": "test_turns.test_the_answer_to_a_ping_waits_for_a_moment_at_most",
    "check_interval_s": "test_bounds.test_a_connection_that_does_not_begin_is_ended",
    "body_bytes_max": "test_http1.test_a_body_has_a_size",
    "leave_s": "test_http1.test_a_client_that_stays_after_the_end_is_cut",
}
"""What an operator has no use for: the protocol tells it to clients, or nobody can see it."""


def listed() -> list[str]:
    text = RELIABILITY.read_text()
    part = text[text.index("## What a client may cost") : text.index("## Known limits")]
    return [line.removeprefix("| ") for line in part.splitlines() if line.startswith("| ")][2:]


def test_the_list_for_operators_has_every_bound_with_its_number() -> None:
    rows = (*FRONT, *PAGES)
    lines = listed()
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(row.begins)
        for field, number in row.fields.items():
            assert number in line, f"{row.begins}: {field}"
    for kind, part in ((limits.Limits, FRONT), (http_pages.Limits, PAGES)):
        told = {field for row in part for field in row.fields}
        fields = {field.name for field in dataclasses.fields(kind)}
        assert fields - OURS.keys() == told


def test_the_numbers_are_those_of_the_code() -> None:
    numbers = {
        "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "s": 1, "h": 3_600, "min": 60,
    }  # fmt: skip
    for values, part in ((limits.Limits(), FRONT), (http_pages.Limits(), PAGES)):
        for row in part:
            for field, said in row.fields.items():
                number, unit, *_ = [*said.removeprefix("in ").split(), ""]
                assert float(number.replace(",", "")) * numbers.get(unit, 1) == getattr(values, field), field


@pytest.mark.parametrize("test", [*(test for row in (*FRONT, *PAGES) for test in row.tests), *OURS.values()])
def test_every_bound_has_a_test(test: str) -> None:
    module, _, name = test.partition(".")
    assert callable(getattr(importlib.import_module(f"tests.unit.front.{module}"), name))
