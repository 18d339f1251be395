"""What every test stands on: fixed Hypothesis examples, and no child process that outlives the run."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# `make test` tries the same examples every time, so that red means this change; `make soak` sets fresh ones loose.
settings.register_profile("fixed", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("fresh", database=None, deadline=None, print_blob=True, max_examples=2_000)
settings.load_profile(os.environ.get("BOATHOUSE_EXAMPLES", "fixed"))

# A shell starts what it puts in the background with SIGINT ignored, and every child would inherit that: the tests
# that interrupt a process would depend on how the run was started.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays until the end: to look through it for garbage again and again takes a quarter of the
    time that collecting does, and some of every test's."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_child_outlives_the_tests() -> Iterator[None]:
    """Fails the run if a test left a process behind: it would hold ports and folders of later runs."""
    yield
    left = [f"{child.pid}: {' '.join(child.cmdline())}" for child in running_children()]
    assert not left, "tests left processes running:\n" + "\n".join(left)


def running_children() -> list[psutil.Process]:
    """This process's children that still run; multiprocessing's own bookkeeper lives as long as we do."""
    alive = []
    for child in psutil.Process().children(recursive=True):
        try:
            ended = child.status() == psutil.STATUS_ZOMBIE
            if not ended and "resource_tracker" not in " ".join(child.cmdline()):
                alive.append(child)
        except psutil.NoSuchProcess:
            continue
    return alive
