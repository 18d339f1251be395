"""Who may copy tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from config.access import ReplicationConfig
from config.changed_files import LOOK_INTERVAL_S
from coordinator.replication.gate import Gate
from coordinator.replication.token_key import TOKEN_KEY
from proto import errors

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.api.call import Call

OLD, NEW = "old-old-old-old-old", "new-new-new-new-new"


@dataclass
class Shows:
    metadata: dict[str, str] = field(default_factory=dict)


def call(token: str | None) -> Call:
    """By who shows this."""
    return cast("Call", Shows({} if token is None else {TOKEN_KEY: token}))


def check(gate: Gate, token: str | None) -> bool:
    """Whether who shows this may copy."""
    try:
        gate.check(call(token))
    except errors.BadReplicationToken:
        return False
    return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(OLD)
    path.chmod(0o600)
    return path


def test_without_tokens_everybody_may() -> None:
    assert check(Gate(ReplicationConfig(), lambda: 0.0), None)


def test_with_tokens_only_who_shows_one_may(file: Path) -> None:
    gate = Gate(ReplicationConfig(token_file=file), lambda: 0.0)
    assert check(gate, OLD)
    assert not any(check(gate, token) for token in (None, "", NEW, OLD[:-1], OLD + " ", "ö"))


@pytest.mark.parametrize(("shown", "is_named"), [(None, False), ("", False), (NEW, True)])
def test_a_token_that_is_not_good_is_told_from_none(file: Path, shown: str | None, is_named: bool) -> None:
    gate = Gate(ReplicationConfig(token_file=file), lambda: 0.0)
    with pytest.raises(errors.BadReplicationToken) as refused:
        gate.check(call(shown))
    assert ("the one shown is none of this cluster's" in refused.value.detail) is is_named


def test_tokens_are_renewed_while_it_runs_and_a_bad_file_changes_nothing(file: Path) -> None:
    now = 0.0
    gate = Gate(ReplicationConfig(token_file=file), lambda: now)
    file.write_text(f"{OLD}\n{NEW}")
    now += LOOK_INTERVAL_S
    assert check(gate, NEW)
    assert check(gate, OLD)
    file.write_text("")
    now += LOOK_INTERVAL_S
    assert check(gate, OLD)
    file.write_text(NEW)
    now += LOOK_INTERVAL_S
    assert check(gate, NEW)
    assert not check(gate, OLD)
