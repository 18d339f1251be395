"""Files with tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from config.token_files import BadTokenFile, read_tokens

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n\nanother-{TOKEN}\n")
    path.chmod(0o600)
    return path


def test_each_line_is_a_token(file: Path) -> None:
    assert read_tokens(file) == (TOKEN, f"another-{TOKEN}")


def test_others_may_not_be_able_to_read_it(file: Path) -> None:
    file.chmod(0o640)
    with pytest.raises(BadTokenFile, match="can be used by others than its owner; chmod 600 it"):
        read_tokens(file)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("", "holds no token"), (" \n", "holds no token"), ("short", "16 or more"), (f"{TOKEN}é", "printable")],
)
def test_what_is_no_token_is_refused_without_being_shown(file: Path, content: str, complaint: str) -> None:
    file.write_text(content)
    with pytest.raises(BadTokenFile, match=complaint) as refusal:
        read_tokens(file)
    assert not content.strip() or content not in str(refusal.value)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    file.unlink()
    with pytest.raises(BadTokenFile, match="token can't be read: No such file"):
        read_tokens(file)
