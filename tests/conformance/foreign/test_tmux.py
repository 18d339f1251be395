"""`boathouse top` in tmux, as its user has it: real terminal, real processes, keys that somebody types."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.cluster import BOATHOUSE, ROOT, Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Tmux:
    """A server of its own, with one window of 100 columns and 30 lines."""

    def __init__(self, socket: Path, command: str) -> None:
        self._program = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        self._run("new-session", "-d", "-x", "100", "-y", "30", "-c", str(ROOT), command)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._program, *arguments], capture_output=True, check=True, timeout=20)
        return done.stdout.decode()

    def type(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def wait_shows(self, text: str) -> str:
        class NotShown(Exception):
            """With what is shown instead."""

        def screen() -> str:
            shown = self._run("capture-pane", "-p")
            if text not in shown:
                raise NotShown(shown)
            return shown

        what = f"{text!r} on the screen"
        return wait_until(screen, timeout_s=30, what=what, interval_s=0.1, not_yet=(NotShown,))

    def end(self) -> None:
        subprocess.run([*self._program, "kill-server"], capture_output=True, check=False, timeout=20)


@pytest.fixture(name="cluster")
def _cluster(tmp_path: Path) -> Iterator[Cluster]:
    if shutil.which("tmux") is None:
        pytest.fail("there is no `tmux` on the PATH: install tmux", pytrace=False)
    with Cluster(tmp_path, nodes=3, shards=2) as cluster:
        cluster.wait_leaders()
        yield cluster


def test_a_leader_is_restarted_from_the_screen(cluster: Cluster, tmp_path: Path) -> None:
    leader = cluster.leader(1)
    tmux = Tmux(tmp_path / "tmux", shlex.join([*BOATHOUSE, "top", str(cluster.file), "--refresh", "0.3"]))
    try:
        tmux.wait_shows("shards 2/2 have a leader")
        tmux.type("4")
        tmux.wait_shows(str(leader))
        tmux.type("/", str(leader), "Enter")
        tmux.wait_shows("(1)")
        tmux.type("r")
        tmux.wait_shows("keeps 2 of 3 voters")
        tmux.type("y")
        tmux.wait_shows("was restarted")
        tmux.type("e")
        tmux.wait_shows("shards 2/2 have a leader")
        tmux.type("q")
    finally:
        tmux.end()
