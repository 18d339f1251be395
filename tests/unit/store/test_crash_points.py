"""Which crash point a process gets is told by one environment variable."""

from __future__ import annotations

import pytest

from shardworker.store import CrashPoint, KillAt, NoCrashPoints, from_environment
from shardworker.store.crash_points import VARIABLE


def test_production_has_none() -> None:
    assert isinstance(from_environment({}), NoCrashPoints)
    assert isinstance(from_environment({VARIABLE: ""}), NoCrashPoints)


@pytest.mark.parametrize("point", CrashPoint)
def test_every_point_can_be_named(point: CrashPoint) -> None:
    assert isinstance(from_environment({VARIABLE: point}), KillAt)
    assert isinstance(from_environment({VARIABLE: f"{point}:3"}), KillAt)


def test_a_point_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        from_environment({VARIABLE: "nowhere:1"})
