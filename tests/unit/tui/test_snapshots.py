"""What is on the screen, as pictures: three clusters on a small and a large terminal, at a fixed clock.

`pytest tests/unit/tui --snapshot-update` takes the pictures anew; look at them before you commit them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.tui.clusters import NOW, Attached, copied, copying, degraded, healthy, leaderless
from tools.tui.app import Top

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.pilot import Pilot

    from tools.admin.snapshot import Snapshot

CLUSTERS: dict[str, Callable[[], Snapshot]] = {
    "healthy": healthy,
    "degraded": degraded,
    "leaderless": leaderless,
}
SIZES = {"small": (80, 24), "large": (160, 50)}


async def looked(pilot: Pilot[None]) -> None:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def screen(snapshot: Snapshot) -> Top:
    return Top(Attached([snapshot]), refresh_s=3_600, read_only=False, clock=lambda: NOW + 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_overview(snap_compare: Callable[..., bool], cluster: str, size: str) -> None:
    assert snap_compare(screen(CLUSTERS[cluster]()), terminal_size=SIZES[size], run_before=looked)


@pytest.mark.parametrize("size", SIZES)
def test_replicas_of_a_degraded_cluster(snap_compare: Callable[..., bool], size: str) -> None:
    async def go(pilot: Pilot[None]) -> None:
        await looked(pilot)
        await pilot.press("4")

    assert snap_compare(screen(degraded()), terminal_size=SIZES[size], run_before=go)


@pytest.mark.parametrize("size", SIZES)
def test_replication_of_a_follower_cluster(snap_compare: Callable[..., bool], size: str) -> None:
    copies = copying(
        copied("users", 9, 50.0, stalled=True, trouble="UNAVAILABLE: no route to host"),
        copied("default", 7, 1.25),
        at_s=NOW - 1,
        refused={"jobs": "a table of that name is this cluster's own"},
    )

    async def go(pilot: Pilot[None]) -> None:
        await looked(pilot)
        await pilot.press("8")

    assert snap_compare(screen(copies), terminal_size=SIZES[size], run_before=go)


def test_explanation(snap_compare: Callable[..., bool]) -> None:
    async def go(pilot: Pilot[None]) -> None:
        await looked(pilot)
        await pilot.press("3", "down", "e")

    assert snap_compare(screen(leaderless()), terminal_size=SIZES["small"], run_before=go)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", ["3", "7"], ids=["shards", "calls"])
def test_latency_of_calls(snap_compare: Callable[..., bool], key: str, size: str) -> None:
    looks = [healthy(seconds=seconds) for seconds in (0.0, 0.5)]
    app = Top(Attached(looks), refresh_s=3_600, read_only=False, clock=lambda: NOW + 1)

    async def go(pilot: Pilot[None]) -> None:
        await looked(pilot)
        app._tick()
        await looked(pilot)
        await pilot.press(key)

    assert snap_compare(app, terminal_size=SIZES[size], run_before=go)
