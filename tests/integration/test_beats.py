"""A worker says that it lives, from its loop: whoever hears nothing for long may take it to hang."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.integration.workers import Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_a_worker_beats_while_it_has_nothing_to_do(tmp_path: Path) -> None:
    with Workers(tmp_path) as workers:
        worker = workers["n1"]
        worker.start()
        wait_until(worker.leads, timeout_s=20, what="it to lead")
        began = worker.age_s()
        wait_until(lambda: worker.age_s() > began + 2.5, timeout_s=20, what="two beats and more")
        worker.stop()
        events = [json.loads(line)["event"] for line in b"".join(worker.said).splitlines()]
        assert events[0] == "ready"
        assert set(events[1:]) == {"beat"}
        assert 3 <= len(events[1:]) <= worker.age_s() + 2, "about one a second"
