"""Asks the supervisors of this machine how their processes are, all at once, and waits for none of them long."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Self

from tools.admin.control_client import NodeControl, RequestRefused, SupervisorUnreachable

if TYPE_CHECKING:
    from config import ClusterConfig
    from config.process.report import ProcessReport

Answer = list["ProcessReport"] | str | None
"""Reports, or a sentence why there are none, or None if nobody is there to ask."""


class Supervisors:
    """One question at a time to each. Use as a context manager."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster
        self._pool = ThreadPoolExecutor(max_workers=len(cluster.nodes), thread_name_prefix="supervisors")
        self._asked: dict[str, Future[Answer]] = {}
        self._complaints: dict[str, str] = {}
        """Why one that hangs gave no reports last time: who looks every second is not told two things in turn."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, timeout_s: float) -> dict[str, Answer]:
        """By node. One that hangs is not asked again before it answers."""
        for node in self._cluster.nodes:
            if node not in self._asked:
                self._asked[node] = self._pool.submit(self._ask, node)
        done, _ = wait(self._asked.values(), timeout_s)
        answers = {node: asked.result() for node, asked in self._asked.items() if asked in done}
        for node, answer in answers.items():
            del self._asked[node]
            if isinstance(answer, str):
                self._complaints[node] = answer
            else:
                self._complaints.pop(node, None)
        late = {
            node: self._complaints.get(node, f"the supervisor of {node} has not answered yet")
            for node in self._asked
        }
        return answers | late

    def _ask(self, node: str) -> Answer:
        try:
            return NodeControl(self._cluster, node).status()
        except SupervisorUnreachable:
            return None
        except RequestRefused as error:
            return str(error)
