"""Keys on the screen, by Textual's pilot: where they lead, what they do, and what they leave alone."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from textual import events
from textual.widgets import Input, Static

from tests.unit.coordinator.running import in_loop
from tests.unit.tui.clusters import NOW, Attached, degraded, healthy
from tests.waiting import wait_until_async
from tools.tui.app import Top
from tools.tui.dialogs import Question, Reader
from tools.tui.grid import Grid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from textual.pilot import Pilot

    from tools.admin.snapshot import Snapshot


@asynccontextmanager
async def running(
    attached: Attached, *, read_only: bool = False, refresh_s: float = 3_600
) -> AsyncIterator[Pilot[None]]:
    app = Top(attached, refresh_s=refresh_s, read_only=read_only, clock=lambda: NOW + 1)
    async with app.run_test(size=(120, 30)) as pilot:
        await wait_until_async(lambda: attached.looks > 0, timeout_s=10, what="a first look")
        await settled(pilot)
        yield pilot


async def settled(pilot: Pilot[None]) -> None:
    await pilot.pause()
    await wait_until_async(
        lambda: all(worker.is_finished or question_is_open(pilot) for worker in pilot.app.workers),
        timeout_s=10,
        what="everything that was begun to end",
    )
    await pilot.pause()


def question_is_open(pilot: Pilot[None]) -> bool:
    return isinstance(pilot.app.screen, Question)


async def pressed(pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await settled(pilot)


def text(pilot: Pilot[None], widget: str) -> str:
    return str(pilot.app.screen_stack[0].query_one(widget, Static).render())


def rows(pilot: Pilot[None]) -> list[str]:
    """The lines of the grid, without its heading."""
    grid = pilot.app.screen_stack[0].query_one(Grid)
    return [grid.render_line(y).text.strip() for y in range(1, grid.size.height)]


# ---- going about -------------------------------------------------------------------------------------------------


@in_loop
async def test_enter_leads_from_the_cluster_to_a_value_and_escape_all_the_way_back() -> None:
    async with running(Attached([healthy()])) as pilot:
        await pressed(pilot, "5", "enter")
        assert text(pilot, "#title").startswith("keys of default: 200 of 300")
        await pressed(pilot, "down", "enter")
        assert text(pilot, "#title").startswith("default: key-001")
        await pressed(pilot, "enter")
        assert isinstance(pilot.app.screen, Reader)
        await pressed(pilot, "escape", "escape", "escape", "escape")
        assert text(pilot, "#title").startswith("overview")


@in_loop
async def test_the_next_page_of_keys_begins_behind_the_last() -> None:
    async with running(Attached([healthy()])) as pilot:
        await pressed(pilot, "5", "enter", "n")
        assert rows(pilot)[0].endswith("key-200")
        await pressed(pilot, "n", "escape")
        assert rows(pilot)[0].endswith("key-000")


@in_loop
async def test_a_table_that_nobody_serves_says_why() -> None:
    async with running(Attached([healthy()])) as pilot:
        await pressed(pilot, "5", "down", "enter")
        grid = pilot.app.screen_stack[0].query_one(Grid)
        assert "no replica answers" in grid.render_line(1).text


@in_loop
async def test_the_selection_stays_with_its_row_when_the_order_changes() -> None:
    async with running(Attached([healthy()])) as pilot:
        await pressed(pilot, "3", "down")
        grid = pilot.app.query_one(Grid)
        assert grid.row is not None
        assert grid.row.key == "shard-2"
        await pressed(pilot, "s", "s")  # by its number, the largest first
        assert (grid.row.key, rows(pilot)[0].split()[0]) == ("shard-2", "4")
        await pressed(pilot, "S")
        assert rows(pilot)[0].split()[0] == "1"


@in_loop
async def test_the_mouse_on_a_heading_sorts_by_that_column() -> None:
    async with running(Attached([healthy()])) as pilot:
        await pressed(pilot, "3")
        grid = pilot.app.query_one(Grid)
        heading = grid.render_line(0).text
        for title, first in (("LEADER", "LEADER▲"), ("LEADER", "LEADER▼"), ("COMMIT", "COMMIT▼")):
            at = heading.index(title) + 1  # behind the padding
            await pilot.click(Grid, offset=(at, 0))
            await settled(pilot)
            assert first in grid.render_line(0).text
        assert rows(pilot)[0].split()[0] == "4"


@in_loop
async def test_what_was_said_of_a_row_goes_with_it() -> None:
    async with running(Attached([degraded()])) as pilot:
        await pressed(pilot, "1", "e")
        assert text(pilot, "#foot") == "nothing is wrong with this row; 6 lists what was found"
        await pressed(pilot, "down")
        assert "Enter look" in text(pilot, "#foot")


@in_loop
async def test_a_filter_shows_what_has_it_and_escape_takes_it_away() -> None:
    async with running(Attached([healthy()])) as pilot:
        await pressed(pilot, "4", "slash", *"N2/", "enter")
        assert len([line for line in rows(pilot) if line]) == 4
        assert "N2/" in text(pilot, "#title")
        await pressed(pilot, "escape")
        assert len([line for line in rows(pilot) if line]) == 12
        await pressed(pilot, "slash", *"zzz")
        assert rows(pilot)[0] == "no row has 'zzz'" or "zzz" in text(pilot, "#title")
        await pressed(pilot, "escape")
        assert not pilot.app.query_one(Input).has_focus
        assert len([line for line in rows(pilot) if line]) == 12


@in_loop
async def test_what_is_typed_fast_behind_the_slash_is_all_filter() -> None:
    async with running(Attached([healthy()])) as pilot:
        await pressed(pilot, "4")
        for key in ("slash", *"n1/shard-1", "enter"):
            event_key = {"/": "slash", "-": "minus"}.get(key, key)
            pilot.app.post_message(events.Key(event_key, key if len(key) == 1 else None))
        await settled(pilot)
        await wait_until_async(
            lambda: (
                [line for line in rows(pilot) if line] == [rows(pilot)[0]] and "n1/shard-1" in rows(pilot)[0]
            ),
            timeout_s=10,
            what="one row",
        )
        assert "with 'n1/shard-1'" in text(pilot, "#title")


@in_loop
async def test_a_log_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "shard-1.log"
    file.write_text("one\ntwo\n")
    snapshot = healthy()
    processes = [replace(process, log=str(file)) for process in snapshot.processes]
    attached = Attached([replace(snapshot, processes=processes)])
    async with running(attached, refresh_s=0.05) as pilot:
        await pilot.press("2", "enter")
        await wait_until_async(lambda: rows(pilot)[:2] == ["one", "two"], timeout_s=10, what="two lines")
        with file.open("a") as log:
            log.write("three\nhalf a l")
        await wait_until_async(lambda: "three" in rows(pilot), timeout_s=10, what="a third line")
        assert not any("half" in line for line in rows(pilot))


@in_loop
async def test_the_palette_offers_views_and_verbs() -> None:
    async with running(Attached([healthy()])) as pilot:
        titles = [command.title for command in pilot.app.get_system_commands(pilot.app.screen)]
        assert {"shards", "findings", "restart", "move leader", "quit"} <= set(titles)
        await pressed(pilot, "colon")
        assert type(pilot.app.screen).__name__ == "CommandPalette"


# ---- acting ------------------------------------------------------------------------------------------------------


@in_loop
async def test_an_action_asks_first_and_says_what_it_does_to_the_quorum() -> None:
    attached = Attached([healthy()])
    async with running(attached) as pilot:
        await pressed(pilot, "4", "r")
        assert isinstance(pilot.app.screen, Question)
        shown = str(pilot.app.screen.query_one(Static).render())
        assert "shard 1 keeps 2 of 3 voters" in shown
        await pressed(pilot, "n")
        assert attached.done == []
        await pressed(pilot, "r", "y")
        assert attached.done == [("restart", "n1/shard-1", "n1", False)]
        assert "restarted" in text(pilot, "#foot")


@in_loop
async def test_what_costs_the_quorum_takes_a_capital() -> None:
    attached = Attached([degraded()])
    async with running(attached) as pilot:
        await pressed(pilot, "4", "x", "y")
        assert isinstance(pilot.app.screen, Question)
        assert attached.done == []
        await pressed(pilot, "Y")
        assert attached.done == [("stop", "n1/shard-1", "n1", True)]


@in_loop
async def test_a_refusal_is_told() -> None:
    attached = Attached([healthy()], refuses="its shard could not serve without it")
    async with running(attached) as pilot:
        await pressed(pilot, "4", "m", "y")
        assert "not done: its shard could not serve" in text(pilot, "#foot")


@pytest.mark.parametrize(("can_act", "read_only"), [(True, True), (False, False)])
@in_loop
async def test_read_only_changes_nothing(*, can_act: bool, read_only: bool) -> None:
    attached = Attached([healthy()], can_act=can_act)
    async with running(attached, read_only=read_only) as pilot:
        await pressed(pilot, "4", "r")
        assert not isinstance(pilot.app.screen, Question)
        assert "read-only" in text(pilot, "#foot")


@in_loop
async def test_what_is_to_be_done_on_another_host_is_told() -> None:
    whole = healthy()
    remote = replace(whole, processes=[replace(process, is_here=False) for process in whole.processes])
    attached = Attached([remote])
    async with running(attached) as pilot:
        await pressed(pilot, "4", "r")
        assert "on the host of n1; there: boathouse restart n1/shard-1 demo.yaml" in text(pilot, "#foot")
        await pressed(pilot, "l")
        grid = pilot.app.screen_stack[0].query_one(Grid)
        assert "on the host of n1; there: boathouse logs n1/shard-1 demo.yaml" in grid.render_line(1).text
        await pressed(pilot, "escape", "m", "y")
        assert attached.done == [("move leader", "n1/shard-1", "n1", False)]


@in_loop
async def test_an_unhealthy_row_explains_itself() -> None:
    async with running(Attached([degraded()])) as pilot:
        await pressed(pilot, "4", "down", "e")
        assert isinstance(pilot.app.screen, Reader)
        shown = str(pilot.app.screen.query_one(Static).render())
        assert "n2/shard-1 trails its leader by 10,000 entries" in shown
        assert "boathouse restart n2/shard-1 demo.yaml" in shown


# ---- a dead node -------------------------------------------------------------------------------------------------


@dataclass
class Stuck(Attached):
    """The second look hangs until it is let go."""

    goes_on: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> Snapshot:
        snapshot = super().poll()
        if self.looks > 1:
            assert self.goes_on.wait(20)
        return snapshot


@in_loop
async def test_a_look_that_hangs_leaves_the_screen_alive_and_shows_its_age() -> None:
    attached = Stuck([healthy()])
    now = [NOW + 1]
    app = Top(attached, refresh_s=0.05, read_only=False, clock=lambda: now[0])
    async with app.run_test(size=(120, 30)) as pilot:
        await wait_until_async(lambda: attached.looks == 2, timeout_s=10, what="a second look")
        now[0] += 40
        await pilot.press("3")
        try:
            await wait_until_async(lambda: "41s old" in text(pilot, "#head"), timeout_s=5, what="its age")
            assert text(pilot, "#title").startswith("shards")
            assert attached.looks == 2
        finally:
            attached.goes_on.set()
