"""`boathouse fence`: what it prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Self

from config import ClusterConfig
from proto.catalog import Lead
from tools.admin.promotion import Promotion
from tools.output import Output
from tools.promote import fence

if TYPE_CHECKING:
    import pytest

HARBOUR = ClusterConfig.model_validate({"cluster": "harbour", "nodes": {"n1": {}}})


class GivesWay:
    """A Promotion of a cluster that gives way at once."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def give_way(self, lead: Lead) -> None:
        assert lead == Lead(3, "island")


def test_a_fence_is_told_to_programs_as_a_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Promotion, "opened", lambda cluster: GivesWay())
    fence(HARBOUR, "island", 3, Output.JSON, yes=True)
    assert json.loads(capsys.readouterr().out) == {"cluster": "harbour", "leader": "island", "epoch": 3}
    fence(HARBOUR, "island", 3, Output.TABLE, yes=True)
    assert "harbour has given way to cluster island" in capsys.readouterr().out
