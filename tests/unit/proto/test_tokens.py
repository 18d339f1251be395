"""Simple tokens, and what a shard knows them by."""

from __future__ import annotations

import re

import pytest

from proto.tokens import DIGEST_BYTES, digest_of, draw_letters, known_by, presented


def test_a_token_is_known_by_what_it_was_made_from() -> None:
    letters = draw_letters()
    assert re.fullmatch("[A-Za-z]{16}", letters)
    assert letters != draw_letters()
    assert presented(f"{letters}.17") == known_by(17, digest_of(letters))
    assert presented(f"{letters}.18") != known_by(17, digest_of(letters))
    assert letters.encode() not in presented(f"{letters}.17")


@pytest.mark.parametrize(
    "token",
    ["", ".", "garbage", "garbage.1", "a.b", f"x.{2**64}", f"x.{'9' * 400}", "x.-1", "x.\u0661", "\udc80.1"],
)
def test_whatever_is_shown_can_be_looked_up(token: str) -> None:
    assert len(presented(token)) == 8 + DIGEST_BYTES
