from __future__ import annotations

import pytest

from proto.catalog import TableEntry, UnreadableRow, encode_row, history_number, parse_row, row_key
from proto.ids import ShardId


@pytest.mark.parametrize("history", [-1, 0, 7])
def test_a_row_says_the_same_again(history: int) -> None:
    entry = TableEntry("größe/1", 10_007, ShardId(3), history)
    assert parse_row(row_key(entry.name), encode_row(entry)) == entry


def test_the_term_before_a_move_is_no_part_of_who_a_table_is() -> None:
    entry = TableEntry("t", 10_001, ShardId(2), term_before=5)
    again = parse_row(row_key("t"), encode_row(entry))
    assert again.term_before == 5
    assert again == TableEntry("t", 10_001, ShardId(2))


@pytest.mark.parametrize("quota", [None, 0, 1 << 40])
def test_a_row_says_what_the_table_was_made_to_hold(quota: int | None) -> None:
    entry = TableEntry("t", 10_001, ShardId(2), quota=quota)
    assert parse_row(row_key("t"), encode_row(entry)).quota == quota


def test_rows_are_as_people_write_them() -> None:
    assert encode_row(TableEntry("t", 10_001, ShardId(2))) == b'{"id": 10001, "shard": 2, "history": "all"}'
    assert encode_row(TableEntry("t", 10_001, ShardId(2), 0)).endswith(b'"history": "none"}')
    assert [history_number(word) for word in ("all", "none", 5)] == [-1, 0, 5]


def test_a_row_of_before_history_keeps_all_of_it() -> None:
    assert parse_row(b"tables/t", b'{"id": 10001, "shard": 1}').history == -1


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"id":1}',
        b'{"id":"x","shard":1}',
        b'{"id":1,"shard":1,"history":"?"}',
    ],
)
def test_what_is_no_row_is_refused(value: bytes) -> None:
    with pytest.raises(UnreadableRow):
        parse_row(b"tables/t", value)


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(UnreadableRow):
        parse_row(b"tables/\xff", b'{"id": 10001, "shard": 1}')
