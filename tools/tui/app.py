"""`boathouse top` on a terminal: looks at the cluster once a refresh, and turns keys into events of the model.

Nothing here waits. Looks run in one thread, one at a time: while a dead node holds one up, the picture stays and its
age is shown. What is fetched for a place, and what is done to processes, has a thread each."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static

from tools.admin.attachment import NotDone
from tools.admin.quorum import Verb, effect
from tools.tui.details import LOADED_VIEWS, DetailsLoader
from tools.tui.dialogs import HELP, Question, Reader, explanation
from tools.tui.grid import Grid
from tools.tui.headline import headline
from tools.tui.model import Model
from tools.tui.place import TOP_VIEWS, Place, View
from tools.tui.scene import is_here
from tools.tui.theme import STYLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from textual.app import ComposeResult
    from textual.screen import Screen

    from config.process.names import ProcessName
    from tools.admin.attachment import Attachment
    from tools.tui.page import Cell, Page
    from tools.tui.scene import Scene

KEYS_SHOWN = "Enter look  Esc back  / filter  s sort  e explain  : commands  ? help  q quit"


class Top(App[None]):
    """See the module."""

    TITLE = "boathouse top"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "colon"
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    #head, #title, #foot { text-wrap: nowrap; text-overflow: ellipsis; }
    #head { height: 2; padding: 0 1; }
    #title { height: 1; padding: 0 1; text-style: bold; }
    Grid { height: 1fr; padding: 0 1; }
    #filter { height: 1; border: none; padding: 0 1; background: ansi_default; }
    #foot { height: 1; padding: 0 1; }
    Reader, Question { align: center middle; background: ansi_default 60%; }
    #dialog { width: 90%; max-width: 110; height: auto; max-height: 90%; border: round ansi_cyan; padding: 1 2;
              background: ansi_default; }
    #dialog Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"jump('{view}')", view) for number, view in enumerate(TOP_VIEWS, 1)),
        Binding("escape", "go_back", "Back"),
        # Before anything else sees it: what is typed behind it may be here already, and goes to whoever has the focus.
        Binding("slash", "filter", "Filter", priority=True),
        Binding("s", "sort", "Sort"),
        Binding("S", "turn", "Turn the order round"),
        Binding("e", "explain", "Explain"),
        Binding("l", "log", "Log"),
        Binding("n", "next_keys", "Next keys"),
        Binding("R", "reload", "Look again"),
        Binding("p", "hold", "Hold the picture"),
        Binding("r", "act('restart')", "Restart"),
        Binding("x", "act('stop')", "Stop"),
        Binding("a", "act('start')", "Start"),
        Binding("m", "act('move leader')", "Move leader"),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        attachment: Attachment,
        *,
        refresh_s: float,
        read_only: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(ansi_color=True)
        self._attachment = attachment
        self._refresh_s = refresh_s
        self._can_act = attachment.can_act and not read_only
        self._read_only = read_only
        self._clock = clock
        self._model = Model(file=attachment.file)
        self._scene: Scene | None = None
        self._page: Page | None = None
        self._details = DetailsLoader(attachment)
        self._looks = ThreadPoolExecutor(1, "looks")
        self._fetches = ThreadPoolExecutor(1, "fetches")
        self._acts = ThreadPoolExecutor(1, "acts")
        self._is_looking = False
        self._is_fetching = False
        self._is_held = False
        self._is_acting = False
        self._said = ""

    def compose(self) -> ComposeResult:
        self._head, self._title, self._foot = Static(id="head"), Static(id="title"), Static(id="foot")
        self._grid = Grid()
        self._filter = Input(placeholder="filter", id="filter")
        self._filter.display = False
        yield from (self._head, self._title, self._grid, self._filter, self._foot)

    def on_mount(self) -> None:
        self._grid.focus()
        self._tick()
        self.set_interval(self._refresh_s, self._tick)

    def on_unmount(self) -> None:
        for pool in (self._looks, self._fetches, self._acts):
            pool.shutdown(wait=False, cancel_futures=True)

    # ---- looking ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._is_looking or self._is_held:
            self._draw()  # ages go on
        else:
            self._is_looking = True
            self.run_worker(self._look(), exit_on_error=True)
        if self._model.here.place.view is View.LOG:
            self._fetch()

    async def _look(self) -> None:
        try:
            snapshot = await asyncio.get_running_loop().run_in_executor(self._looks, self._attachment.poll)
        finally:
            self._is_looking = False
        if not self._is_held:
            self._model.observe(snapshot)
            self._draw()

    def _fetch(self) -> None:
        """Fetch what the place where the user is shows beside the snapshot."""
        if not self._is_fetching and self._model.here.place.view in LOADED_VIEWS:
            self._is_fetching = True
            self.run_worker(self._fetch_details(self._model.here.place), exit_on_error=True)

    async def _fetch_details(self, place: Place) -> None:
        load, path = self._details.load, self._log_path(place)
        try:
            details = await asyncio.get_running_loop().run_in_executor(self._fetches, load, place, path)
        finally:
            self._is_fetching = False
        if self._model.here.place != place:
            self._fetch()  # he has gone on meanwhile
            return
        follows = place.view is View.LOG and (self._grid.at_end or not self._model.details.lines)
        self._model.details = details
        if follows and details.lines:
            self._model.here.selected = str(details.lines[-1][0])
        self._draw()

    def _log_path(self, place: Place) -> str:
        if place.view is not View.LOG or self._model.snapshot is None:
            return ""
        return next(
            (process.log for process in self._model.snapshot.processes if str(process.name) == place.subject),
            "",
        )

    # ---- drawing ----------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        """Make the page of the place where the user is, and show it."""
        self._scene = scene = self._model.scene(self._clock())
        if scene is None:
            self._head.update("looking at the cluster …")
            return
        self._page = page = self._model.page(scene)
        here = self._model.here
        first, second = headline(scene)
        self._head.update(Text("\n").join([_text(first), _text(second)]))
        title = page.title if not here.filter else f"{page.title}, with {here.filter!r}"
        self._title.update(Text(f"{title} ({len(page.rows)})", no_wrap=True))
        self._grid.show(page, here.sort, here.selected)
        modes = ["read-only"] * self._read_only + ["held"] * self._is_held
        self._foot.update(
            Text("  ".join([*(f"[{mode}]" for mode in modes), self._said or KEYS_SHOWN]), no_wrap=True)
        )

    def _say(self, text: str) -> None:
        self._said = text
        self._draw()

    # ---- going about ------------------------------------------------------------------------------------------------

    def _gone(self) -> None:
        """The place is another one."""
        self._said = ""
        self._draw()
        self._fetch()

    def on_grid_opened(self) -> None:
        row = self._grid.row
        if row is None:
            return
        if row.opens is not None:
            self._model.open(row.opens)
            self._gone()
        elif row.reads:
            self.push_screen(Reader(self._page.title if self._page else "", row.reads))
        else:
            self.action_explain()

    def on_grid_selected(self, event: Grid.Selected) -> None:
        self._model.here.selected = event.key
        if self._said and not self._is_acting:
            self._say("")  # it was about the row before

    def action_jump(self, view: str) -> None:
        self._model.jump(View(view))
        self._gone()

    def action_go_back(self) -> None:
        if isinstance(self.focused, Input):
            self._model.filter_by("")
            self._close_filter()
        elif self._model.back():
            self._gone()

    def action_log(self) -> None:
        row = self._grid.row
        if row is None or row.process is None:
            self._say("this row is no process with a log here")
            return
        self._model.open(Place(View.LOG, str(row.process)))
        self._gone()

    def action_next_keys(self) -> None:
        place, details = self._model.here.place, self._model.details
        if place.view is View.KEYS and details.keys is not None and details.keys.after is not None:
            self._model.open(Place(View.KEYS, place.subject, details.keys.after))
            self._gone()

    def action_reload(self) -> None:
        self._fetch()

    def action_hold(self) -> None:
        self._is_held = not self._is_held
        self._draw()

    def action_sort(self) -> None:
        if self._page is not None:
            self._model.sort_next(self._page, self._grid.columns_shown)
            self._draw()

    def on_grid_heading_clicked(self, event: Grid.HeadingClicked) -> None:
        if self._page is not None:
            self._model.sort_by(self._page, event.column)
            self._draw()

    def action_turn(self) -> None:
        self._model.sort_other_way()
        self._draw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A slash in a text that is typed is a slash."""
        return action != "filter" or not (isinstance(self.focused, Input) or len(self.screen_stack) > 1)

    def action_filter(self) -> None:
        self._filter.value = self._model.here.filter
        self._filter.display = True
        self.screen.set_focus(self._filter)

    def on_input_changed(self, event: Input.Changed) -> None:
        self._model.filter_by(event.value)
        self._draw()

    def on_input_submitted(self) -> None:
        self._close_filter()

    def _close_filter(self) -> None:
        self._filter.display = False
        self.screen.set_focus(self._grid)
        self._draw()

    # ---- explaining and acting --------------------------------------------------------------------------------------

    def action_explain(self) -> None:
        row = self._grid.row
        if row is None or not row.findings:
            elsewhere = "; 6 lists what was found" if self._scene is not None and self._scene.findings else ""
            self._say(f"nothing is wrong with this row{elsewhere}")
        else:
            self.push_screen(Reader(row.key, explanation(row.findings)))

    def action_help(self) -> None:
        self.push_screen(Reader("boathouse top", HELP))

    def action_act(self, verb: str) -> None:
        """Ask whether to do this to the selected process, and do it."""
        chosen, row = Verb(verb), self._grid.row
        if not self._can_act:
            self._say("read-only: nothing is changed from here")
        elif row is None or row.process is None or self._scene is None:
            self._say("select a process or a replica first")
        elif chosen is Verb.MOVE_LEADER and row.process.shard is None:
            self._say(f"{row.process} is no replica: it has no leader to move")
        elif chosen is not Verb.MOVE_LEADER and not is_here(self._scene.snapshot, row.process):
            command = f"boathouse {chosen} {row.process} {self._attachment.file}".rstrip()
            self._say(f"its supervisor is on the host of {row.process.node}; there: {command}")
        else:
            self.run_worker(self._ask_and_act(chosen, row.process), exit_on_error=True)

    async def _ask_and_act(self, verb: Verb, name: ProcessName) -> None:
        assert self._scene is not None
        snapshot = self._scene.snapshot
        what = f"{verb} to {name}" if verb is Verb.MOVE_LEADER else f"{verb} {name}"
        expected = effect(snapshot, verb, name)
        if not await self.push_screen_wait(Question(what, expected)):
            return
        shard = snapshot.shard(name.shard) if name.shard is not None else None
        leader = shard.leader if shard is not None else None
        self._say(f"{what} …")
        # Whoever was told that it is harmful has said that he wants it all the same.
        act = partial(self._attachment.act, verb, name, leader, force=expected.is_harmful)
        self._is_acting = True
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._acts, act)
        except NotDone as error:
            done = f"not done: {error}"
        finally:
            self._is_acting = False
        self._say(done)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the palette offers."""
        for view in TOP_VIEWS:
            yield SystemCommand(view.value, f"go to {view}", lambda view=view: self.action_jump(view))
        for verb in Verb:
            yield SystemCommand(
                verb.value, f"{verb} what is selected", lambda verb=verb: self.action_act(verb)
            )
        yield SystemCommand("explain", "what is wrong with it, and what mends it", self.action_explain)
        yield SystemCommand("log", "of the selected process", self.action_log)
        yield SystemCommand("hold", "hold the picture, or let it go on", self.action_hold)
        yield SystemCommand("help", "all keys", self.action_help)
        yield SystemCommand("quit", "leave", self.exit)


def _text(cells: Iterable[Cell]) -> Text:
    text = Text(no_wrap=True)
    for position, cell in enumerate(cells):
        text.append("   " if position else "")
        text.append(cell.text, STYLES[cell.style])
    return text
