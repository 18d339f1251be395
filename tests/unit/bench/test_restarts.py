"""What the scenario of restarts says when its load does not run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tools.bench import restarts
from tools.bench.systems import NotReady
from tools.bench.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path


def test_what_kept_the_load_from_running_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_benchmark(*_: Any) -> NoReturn:
        raise NotReady("no benchmark here")

    system = SimpleNamespace(start=lambda: None, stop=lambda: None, cluster_file=tmp_path)
    monkeypatch.setattr(restarts, "_system", lambda _: (system, {"bench-1": ["127.0.0.1:1"]}))
    monkeypatch.setattr(restarts, "_put", no_benchmark)
    monkeypatch.setattr(restarts, "_restart_all", lambda *_: 21.0)
    monkeypatch.setattr(restarts, "LEAD_S", 0.0)
    with pytest.raises(NotReady, match="no benchmark here"):
        restarts.restarts(SimpleNamespace(), Workload())  # type: ignore[arg-type]
