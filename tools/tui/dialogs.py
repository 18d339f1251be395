"""What opens over a view: an explanation, a question, a text, the help."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from tools.tui.page import BAD, DIM, LEAD
from tools.tui.theme import STYLES
from tools.tui.views.cells import of_severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from tools.admin.findings import Finding
    from tools.admin.quorum import Effect

HELP = """\
1 … 8   overview, processes, shards, replicas, tables, findings,
        calls, replication
Enter   look into what is selected
Esc     back, or take the filter away
/       filter
s S     sort by the next column, turn the order round; so does
        the mouse on a heading
e       explain what is wrong, and what mends it
l       log of the process
r x a   restart, stop, start the process
m       move the shard's leader to it; from the leader: away
n R     next page of keys; look at keys or a history again
p       hold the picture
: ? q   commands, this help, quit

L leader   F follower   ~ learner   C candidate
! behind, full or degraded   X down, or serving nothing
i a note: nothing is wrong   - not known here

OPS/S   writes applied and reads served; also boathouse's own,
        which reads its list of tables every few seconds
TRAILS  entries that the leader has committed and this replica
        has not applied; LAG is the most of a shard
SYNC P99  within this time 99 of 100 syncs were durable
SEEN    how old a row is that does not answer"""


class Reader(ModalScreen[None]):
    """A text to read. Esc closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,enter,question_mark,e", "dismiss", "Close"),
        ("up,k", "scroll(-1)", "Up"),
        ("down,j", "scroll(1)", "Down"),
    ]

    def __init__(self, title: str, text: Text | str) -> None:
        super().__init__()
        self._title = title
        self._text = text if isinstance(text, Text) else Text(text)

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="dialog") as box:
            box.border_title = self._title
            box.border_subtitle = "Esc closes"
            yield Static(self._text)

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


def explanation(findings: Sequence[Finding]) -> Text:
    """What is wrong, what it means, and the command that mends it, one after the other."""
    text = Text()
    for position, finding in enumerate(findings):
        style = STYLES[of_severity(finding.severity).style]
        text.append("\n\n" if position else "")
        text.append(finding.says, style)
        text.append(f"\n{finding.meaning}\n")
        for number, remedy in enumerate(finding.remedies):
            command, _, comment = remedy.partition("  # ")
            text.append("\n      " if number else "mend: ", STYLES[DIM])
            text.append(command, STYLES[LEAD])
            text.append(f"  # {comment}" if comment else "", STYLES[DIM])
    return text


class Question(ModalScreen[bool]):
    """Whether to do something, with what it does to the quorum. What clients would notice takes a capital Y."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "answer(False)", "Yes"),
        ("Y", "answer(True)", "Yes, though it is harmful"),
        ("n,escape,q", "refuse", "No"),
    ]

    def __init__(self, what: str, effect: Effect) -> None:
        super().__init__()
        self._what = what
        self._effect = effect

    def compose(self) -> ComposeResult:
        text = Text(f"{self._effect.text}.\n\n", STYLES[BAD] if self._effect.is_harmful else STYLES[""])
        text.append(
            "press Y (a capital) to do it all the same" if self._effect.is_harmful else "press y to do it"
        )
        text.append(", n or Esc to leave it")
        with VerticalScroll(id="dialog") as box:
            box.border_title = f"{self._what}?"
            yield Static(text)

    def action_answer(self, is_capital: bool) -> None:
        if is_capital or not self._effect.is_harmful:
            self.dismiss(True)

    def action_refuse(self) -> None:
        self.dismiss(False)
