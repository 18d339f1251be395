"""What is told of supervisors that hang, look after look."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from config import ClusterConfig
from tests.waiting import wait_until
from tools.admin.supervisors import Supervisors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.admin.supervisors import Answer


class Scripted(Supervisors):
    """Each question is answered once the test lets it be."""

    def __init__(self, cluster: ClusterConfig, answers: Iterator[Answer]) -> None:
        super().__init__(cluster)
        self.let = threading.Semaphore(0)
        self._answers = answers

    def _ask(self, node: str) -> Answer:
        self.let.acquire(timeout=10)
        return next(self._answers)


def test_one_that_hangs_is_told_of_in_the_same_words_until_it_answers() -> None:
    cluster = ClusterConfig.model_validate({"nodes": {"n1": {}}})
    refused = "the supervisor of n1 did not answer within 3 s"
    with Scripted(cluster, iter([refused, [], None])) as supervisors:
        assert supervisors.ask(0.0) == {"n1": "the supervisor of n1 has not answered yet"}
        for answer, meanwhile in ((refused, refused), ([], "the supervisor of n1 has not answered yet")):
            supervisors.let.release()
            wait_until(lambda: supervisors.ask(0.1)["n1"] == answer, timeout_s=10, what=f"{answer}")  # noqa: B023
            assert supervisors.ask(0.0) == {"n1": meanwhile}
        supervisors.let.release()
        wait_until(lambda: supervisors.ask(0.1)["n1"] is None, timeout_s=10, what="nobody to be there")
        supervisors.let.release()
