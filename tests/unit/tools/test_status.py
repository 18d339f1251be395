"""What `boathouse status` says in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.tui.clusters import NODES, healthy
from tools.admin.snapshot import TableMove, make_shard
from tools.status import remarks


def said(**changes: Any) -> list[str]:
    """Of a healthy cluster, but for the replica of shard 1 on n2."""
    whole = healthy()
    replicas = [replace(each, **changes) if each.node == "n2" else each for each in whole.shards[0].replicas]
    return remarks(replace(whole, shards=[make_shard(1, replicas, NODES), *whole.shards[1:]]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"no_space": True}, ["n2/shard-1: its disk is nearly full: writes are refused, reads go on"]),
        (
            {"newer_protocol": 2},
            [
                "n2/shard-1: is spoken to in version 2 of the protocol between nodes, which is too new for it",
            ],
        ),
        (
            {"is_answering": False, "unread_protocol": 3},
            ["n2/shard-1: can't be read here: it answers in version 3 of the protocol between nodes"],
        ),
        ({"no_space": True, "fault": "row 7 is damaged"}, ["n2/shard-1: row 7 is damaged"]),
    ],
)
def test_what_is_amiss_with_a_replica(changes: dict[str, Any], words: list[str]) -> None:
    assert said(**changes) == words


def test_a_full_table_and_its_alarms() -> None:
    table = replace(healthy().shards[0].tables[0], is_full=True, alarms=["CORRUPT"], revision=10**9)
    assert said(tables=[table]) == [
        "table default is full: what makes it grow is refused",
        "table default: CORRUPT was raised, and refuses writes",
    ]


def test_a_table_on_its_way() -> None:
    table = replace(healthy().shards[0].tables[0], move=TableMove(target=2), revision=10**9)
    assert said(tables=[table]) == ["table default is on its way from shard 1 to shard 2"]


def test_why_a_process_ended_is_told_while_it_is_down() -> None:
    whole = healthy()
    down = replace(whole.processes[0], state="failed", last_error="no disk")
    assert remarks(replace(whole, processes=[down, *whole.processes[1:]])) == ["n1/shard-1: no disk"]
