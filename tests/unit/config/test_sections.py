"""Whatever key of a cluster file is wrong, the complaint has its line, and its path as the file has it."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest
import yaml

from config import ConfigError
from config.loading import parse
from config.sections import NAME, keys_of, sections

SECTIONS = dict(sections())
PATHS = [pytest.param(path, id=".".join(path) or "top") for path in SECTIONS]
KEYS = [
    pytest.param((*path, key), id=".".join((*path, key)))
    for path, section in SECTIONS.items()
    for key in keys_of(section)
]
KNOWN = {key for section in SECTIONS.values() for key in keys_of(section)}


def complaint(path: tuple[str, ...], value: object) -> tuple[str, set[str]]:
    """Of a file that has only this value, beside a node: what is said of its key, and all keys that are spoken of."""
    document: Any = value
    for key in reversed(path):
        document = {key: document}
    text = yaml.safe_dump({"nodes": {"n1": {}}} | document if path[0] != "nodes" else document)
    line = 1 + [row.strip().split(":")[0] for row in text.splitlines()].index(path[-1])
    with pytest.raises(ConfigError) as raised:
        parse(text, "f.yaml")
    found = [one for one in raised.value.problems if one.path[: len(path)] == path]
    assert found, str(raised.value)
    assert found[0].line == line
    return found[0].message, {str(part) for one in raised.value.problems for part in one.path}


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_key_is_named_with_what_is_known_there(path: tuple[str, ...]) -> None:
    keys = keys_of(SECTIONS[path])
    message, spoken_of = complaint((*path, f"{keys[-1]}x"), 1)
    assert message == f"unknown key; did you mean {keys[-1]}?"
    message, _ = complaint((*path, "zzzz"), 1)
    assert message == f"unknown key; known here: {', '.join(keys)}"
    assert spoken_of - KNOWN - {NAME} == {f"{keys[-1]}x"}


@pytest.mark.parametrize("path", KEYS)
def test_a_wrong_value_is_named_by_its_key(path: tuple[str, ...]) -> None:
    _, spoken_of = complaint(path, date(2000, 1, 1))  # which no key takes
    assert spoken_of - KNOWN <= {NAME}


ODD: list[object] = [
    None,
    True,
    "true",
    "x",
    "",
    0,
    -1,
    1.5,
    10**30,
    [],
    [1],
    [None],
    {},
    {"n9": 1},
    {"a": {"b": 1}},
]


@pytest.mark.parametrize("path", KEYS)
def test_what_is_wrong_with_a_value_is_said_in_the_projects_words(path: tuple[str, ...]) -> None:
    for value in ODD:
        document: Any = value
        for key in reversed(path):
            document = {key: document}
        if path[0] != "nodes":
            document["nodes"] = {"n1": {}}
        try:
            parse(yaml.safe_dump(document), "f.yaml")
        except ConfigError as error:
            for problem in error.problems:
                assert not re.search(
                    r"Input should|[Vv]alid |Value error|\{\{|greater|characters", problem.message
                ), f"{value!r}: {problem.message}"


@pytest.mark.parametrize("key", ["holders", "member_keys"])
def test_what_shards_say_is_not_for_the_file(key: str) -> None:
    message, _ = complaint((key,), {})
    assert message == "unknown key; the shards themselves say who holds them"
