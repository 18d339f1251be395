"""Tables and escapes: what is shown is aligned, and never steers the terminal."""

from __future__ import annotations

import pytest

from tools.output import human_bytes, print_table
from tools.printable import printable


def test_a_table_without_a_terminal_is_plain_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [
        {"name": "a", "count": 10, "free": True},
        {"name": "longer", "count": None, "free": False},
    ]
    print_table(["name", "count", "free"], rows)
    assert capsys.readouterr().out == "NAME    COUNT  FREE\na       10     yes\nlonger  -      no\n"


def test_a_table_without_rows_still_names_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name"], [])
    assert capsys.readouterr().out == "NAME\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"plain", "plain"),
        ("für 水".encode(), "für 水"),
        (b"\x00\xff", "\\x00\\xff"),
        (b"\x1b[31mred\n", "\\x1b[31mred\\n"),
        ("\u202e".encode(), "\\u202e"),
    ],
)
def test_keys_and_values_are_shown_safely(content: bytes, text: str) -> None:
    assert printable(content) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert human_bytes(count) == text
