"""Lines of logs, for people."""

from __future__ import annotations

import json

import pytest

from tools.log_lines import readable


def line(**event: object) -> str:
    return json.dumps({"level": "info", "timestamp": "2026-11-26T09:19:05.1Z", **event})


def test_words_come_first_and_facts_behind_them() -> None:
    told = line(event="made a table", table="users", shard=2, node="n1", detail="a b", empty="")
    assert (
        readable(told)
        == '2026-11-26 09:19:05.1Z info    made a table  table=users shard=2 node=n1 detail="a b" empty=""'
    )
    assert readable(line(event="the supervisor is gone")).endswith("info    the supervisor is gone")


@pytest.mark.parametrize("other", ["Killed", "", "[1, 2]", '{"no": "event"}', '{"event": "cut', "7"])
def test_what_is_no_event_is_left_as_it_is(other: str) -> None:
    assert readable(other) == other


def test_what_broke_is_shown_below_with_its_cause_first() -> None:
    frames = [{"filename": "a.py", "lineno": 7, "name": "f"}]
    failure = [
        {"exc_type": "ValueError", "exc_value": "no", "frames": frames},
        {"exc_type": "KeyError", "exc_value": "'k'", "frames": []},
    ]
    assert readable(line(event="a call failed", exception=failure)).splitlines()[1:] == [
        "    Traceback (most recent call last):",
        "    KeyError: 'k'",
        "    Traceback (most recent call last):",
        "      a.py:7 in f",
        "    ValueError: no",
    ]
