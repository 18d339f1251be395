"""Snapshots into rows and cells, without a screen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from config.process.names import ProcessName
from config.process.report import State
from tests.unit.tui.clusters import NODES, NOW, copied, copying, degraded, healthy, leaderless
from tools.admin.snapshot import UNKNOWN, Certificate, Replica, Table, TableMove, make_shard
from tools.printable import printable
from tools.tui import units
from tools.tui.frame import frame
from tools.tui.headline import headline
from tools.tui.model import Model
from tools.tui.page import BAD, DIM, WARN, Cell, Column, Page, Row, fit, lines
from tools.tui.place import Place, View
from tools.tui.scene import POINTS, Scene, Trend, coverage
from tools.tui.views import cells
from tools.tui.views.calls import calls
from tools.tui.views.keys import readable
from tools.tui.views.nodes import overview
from tools.tui.views.processes import processes
from tools.tui.views.replicas import replicas
from tools.tui.views.replication import replication
from tools.tui.views.shards import shards
from tools.tui.views.tables import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.admin.snapshot import Snapshot


def scene(snapshot: Snapshot, *, later_s: float = 0.0) -> Scene:
    return Scene.of(snapshot, Trend(), now=snapshot.taken_at + later_s, file="demo.yaml")


def told(page: Page, key: str) -> dict[str, Cell]:
    """The cells of a row, by title; the later of two columns of one title."""
    row = next(row for row in page.rows if row.key == key)
    return {column.title: cell for column, cell in zip(page.columns, row.cells, strict=True)}


# ---- one line for everybody ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("snapshot", "line"),
    [
        (healthy(), "shards 4/4 have a leader"),
        (degraded(), "shards 4/4 have a leader, 1 has no quorum, 3 below their replicas"),
        (leaderless(), "shards 2/4 have a leader, 2 have no quorum"),
        (replace(healthy(), shards=[]), "no shard is known yet"),
    ],
)
def test_coverage(snapshot: Snapshot, line: str) -> None:
    assert coverage(snapshot) == line


def test_one_shard_below_its_replicas() -> None:
    snapshot = healthy()
    first = snapshot.shards[0]
    without = [first.replicas[0], first.replicas[1], replace(first.replicas[2], is_answering=False)]
    changed = replace(snapshot, shards=[make_shard(1, without, NODES), *snapshot.shards[1:]])
    assert coverage(changed) == "shards 4/4 have a leader, 1 below its replicas"


def test_an_old_picture_says_its_age() -> None:
    assert [cell.text for cell in headline(scene(healthy(), later_s=2.0))[0]][-1].endswith("Z")
    assert [cell.text for cell in headline(scene(healthy(), later_s=75.0))[0]][-1] == "1m15s old"


# ---- cells -----------------------------------------------------------------------------------------------------------


def test_letters_stand_beside_the_colours() -> None:
    page = replicas(scene(degraded()), "1")
    assert [row.cells[0].text for row in page.rows] == ["L", "!", "X"]
    learner = replace(healthy().shards[0].replicas[1], role="learner")
    shard = make_shard(1, [healthy().shards[0].replicas[0], learner], NODES)
    assert cells.role_letter(shard, learner).text == "~"
    assert cells.role_letter(shard, replace(learner, role="candidate")).text == "C"
    assert cells.role_letter(shard, replace(learner, fault="a row is damaged")).text == "X"
    assert cells.role_letter(shard, replace(learner, no_space=True)).text == "!"


def test_what_does_not_answer_shows_what_it_said_last_and_when() -> None:
    row = told(replicas(scene(degraded()), ""), "n3/shard-1")
    assert (row["SEEN"].text, row["SEEN"].style) == ("42s ago", WARN)
    assert (row["TERM"].text, row["TERM"].style) == ("3", DIM)


def test_what_never_answered_is_unknown_and_not_zero() -> None:
    row = told(replicas(scene(leaderless()), "2"), "n2/shard-2")
    assert (row["SEEN"].text, row["SEEN"].style) == ("never", BAD)
    assert {row[title].text for title in ("TERM", "COMMIT", "QUEUE", "SYNC P99", "DATA", "WAL")} == {"-"}


def test_a_follower_trails_its_leader_and_a_leader_nobody() -> None:
    page = replicas(scene(degraded()), "1")
    assert told(page, "n2/shard-1")["TRAILS"] == Cell("10.0k", WARN, sort=10_000.0)
    assert told(page, "n1/shard-1")["TRAILS"].text == "-"


def test_nodes_sum_up_what_is_on_them() -> None:
    row = told(overview(scene(degraded())), "n2")
    assert (row["UP"].text, row["REPLICAS"].text, row["SYNC P99"].text) == ("4/5", "3/4", "310ms")
    down = told(overview(scene(degraded())), "n3")
    assert (down["UP"].text, down["UP"].style, down["DATA"].text) == ("no", BAD, "-")
    whole = healthy()
    begun = [replace(process, state="starting") for process in whole.processes]
    nodes = [replace(node, is_up=None) for node in whole.nodes]
    page = overview(scene(replace(whole, processes=begun, nodes=nodes)))
    assert (told(page, "n1")["UP"].text, told(page, "n1")["UP"].style) == ("0/5", WARN)


def test_shards_say_who_leads_and_who_is_left() -> None:
    page = shards(scene(leaderless()))
    assert (told(page, "shard-2")["LEADER"].text, told(page, "shard-2")["VOTERS"].text) == ("none", "1/3")
    assert (told(page, "shard-1")["LEADER"].text, told(page, "shard-1")["VOTERS"].text) == ("n1", "3/3")


def test_a_leader_that_does_not_answer_is_doubted() -> None:
    shard = healthy().shards[0]
    silent = [replace(each, is_answering=not each.is_leader) for each in shard.replicas]
    snapshot = replace(healthy(), shards=[make_shard(1, silent, NODES)])
    assert told(shards(scene(snapshot)), "shard-1")["LEADER"] == Cell("n1?", WARN)


def test_processes_of_a_node() -> None:
    page = processes(scene(degraded()), "n2")
    assert [row.key for row in page.rows] == [
        "n2/shard-1", "n2/shard-2", "n2/shard-3", "n2/shard-4", "n2/coordinator",
    ]  # fmt: skip
    crashed = told(page, "n2/coordinator")
    assert (crashed["RESTARTS"].text, crashed["LAST ERROR"].text) == ("3", "exited with code 1")
    assert told(page, "n2/shard-4")[" "].text == "X"


def in_states(*states: str) -> Snapshot:
    """Healthy, but for the first processes of n1, which are in these."""
    whole = healthy(shards=len(states))
    changed = [replace(process, state=state) for process, state in zip(whole.processes, states, strict=False)]
    return replace(whole, processes=[*changed, *whole.processes[len(states) :]])


ALARMING = {WARN, BAD}
RESTARTED = [replace(process, restarts=3, last_error="exited with code 1") for process in healthy().processes]
ENDING = Certificate("/etc/n1.pem", ("n1",), NOW - 900, NOW + 900)
FULL = Table(name="default", shard=1, revision=10**6, size_bytes=99, quota_bytes=99, is_full=True)
UNHEALTHY = {
    "certificate": replace(healthy(), certificates=[ENDING]),
    "full": replace(healthy(), shards=[replace(healthy().shards[0], tables=[FULL])]),
    "restarted": replace(degraded(), processes=RESTARTED),
    "degraded": degraded(),
    "leaderless": leaderless(),
    "processes": in_states(*(state for state in State if state is not State.RUNNING), UNKNOWN),
    "copies": copying(
        copied("default", 9, 40.0, stalled=True),
        copied("users", 3, 60.0),
        copied("events", 1, 0.5, backoff_s=2.0),
        refused={"other": "no"},
    ),
}


@pytest.mark.parametrize("snapshot", UNHEALTHY.values(), ids=UNHEALTHY)
def test_every_unhealthy_row_has_an_explanation_with_a_command(snapshot: Snapshot) -> None:
    seen = scene(snapshot)
    pages = (
        overview(seen),
        processes(seen, ""),
        shards(seen),
        replicas(seen, ""),
        tables(seen),
        replication(seen),
    )
    rows = [row for page in pages for row in page.rows if any(cell.style in ALARMING for cell in row.cells)]
    assert rows
    assert [row.key for row in rows if not row.findings] == []
    assert all(finding.meaning and finding.remedies for row in rows for finding in row.findings)


def test_an_explanation_begins_with_the_row_itself() -> None:
    row = next(row for row in replicas(scene(degraded()), "1").rows if row.key == "n2/shard-1")
    assert [finding.subject for finding in row.findings] == ["n2/shard-1", "n2/shard-1", "shard-1"]


# ---- rates -----------------------------------------------------------------------------------------------------------


def test_sparklines_grow_with_the_looks_and_forget_the_oldest() -> None:
    model = Model()
    for second in range(POINTS + 5):
        model.observe(healthy(seconds=second))
    assert len(model.trend.cluster) == POINTS
    made = model.scene(NOW + POINTS)
    assert made is not None
    assert told(tables(made), "default")["CHANGES/S"].text == "450"
    assert told(shards(made), "shard-1")["OPS/S"].text == "5,400"
    assert told(tables(made), "default")["LATELY"].text == "█" * 12


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], "    "),
        ([0.0, 0.0], "  ▁▁"),
        ([1.0, None, 8.0], " ▁ █"),
        ([9.0, 1.0, 2.0, 4.0, 8.0], "▁▂▄█"),
    ],
)
def test_sparkline(values: Sequence[float | None], bars: str) -> None:
    assert units.sparkline(values, 4) == bars


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.count(9_999), "9,999"),
        (units.count(12_345), "12.3k"),
        (units.count(3_000_000), "3.0M"),
        (units.rate(0.25), "0.2"),
        (units.rate(0), "0"),
        (units.size(512), "512B"),
        (units.size(1_536), "1.5K"),
        (units.size(180 << 20), "180M"),
        (units.size(5 << 40), "5.0T"),
        (units.span(59), "59s"),
        (units.span(75), "1m15s"),
        (units.span(7_200), "2h"),
        (units.span(90_061), "1d1h"),
        (units.milliseconds(3_796), "3.8ms"),
        (units.milliseconds(310_000), "310ms"),
    ],
)
def test_figures_in_few_characters(text: str, expected: str) -> None:
    assert text == expected


# ---- the page --------------------------------------------------------------------------------------------------------

PAGE = Page(
    "t",
    (Column("A"), Column("B", rank=3, is_number=True), Column("C", rank=2), Column("REST", takes_rest=True)),
    [Row("r", (Cell("aaaa"), Cell("12"), Cell("cccccc"), Cell("a long text that goes on and on")))],
)


@pytest.mark.parametrize(("width", "columns"), [(80, [0, 1, 2, 3]), (35, [0, 2, 3]), (30, [0, 3]), (5, [0])])
def test_columns_go_by_rank_where_there_is_little_room(width: int, columns: list[int]) -> None:
    assert list(fit(PAGE, width).columns) == columns
    assert all(len(line) <= max(width, 4) for line in lines(PAGE, width))


def test_what_is_cut_says_so() -> None:
    assert lines(PAGE, 40) == ["A      B  C       REST", "aaaa  12  cccccc  a long text that goes…"]


def test_wide_characters_keep_the_columns_straight() -> None:
    page = Page(
        "t",
        (Column("A"), Column("B")),
        [Row("1", (Cell("鍵鍵"), Cell("x"))), Row("2", (Cell("k"), Cell("y")))],
    )
    assert lines(page, 20) == ["A     B", "鍵鍵  x", "k     y"]


def test_a_filter_and_an_order() -> None:
    model = Model()
    model.observe(healthy())
    made = model.scene(NOW)
    assert made is not None
    model.open(Place(View.REPLICAS))
    page = model.page(made)
    for _ in range([column.title for column in page.columns].index("COMMIT") + 1):
        model.sort_next(page, range(len(page.columns)))
    assert model.page(made).rows[0].key.endswith("shard-4"), "the largest first"
    model.sort_other_way()
    assert model.page(made).rows[0].key.endswith("shard-1")
    titles = [column.title for column in page.columns]
    model.sort_next(page, [0, titles.index("COMMIT"), titles.index("DATA")])
    assert model.here.sort is not None
    assert titles[model.here.sort.column] == "DATA", "what there is no room for is passed over"
    model.sort_next(page, [0, titles.index("COMMIT")])
    assert model.here.sort is None
    model.filter_by("LEADER")
    assert {row.cells[2].text for row in model.page(made).rows} == {"leader"}
    assert model.back()
    assert len(model.page(made).rows) == 12
    assert model.back()
    assert not model.back(), "the overview is where all begins"


# ---- keys and values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "line"),
    [(b"plain", "plain"), (b"a\nb", "a\\nb"), (b"\xff\x00", "\\xff\\x00"), ("ü".encode(), "ü")],
)
def test_bytes_on_a_line(raw: bytes, line: str) -> None:
    assert printable(raw) == line


def test_values_are_read_as_text_or_as_a_dump() -> None:
    assert readable(b"two\nlines") == "two\nlines"
    assert readable(b"\x00A\xff") == "00000000  00 41 ff" + " " * 41 + ".A."


# ---- one frame -------------------------------------------------------------------------------------------------------


def test_a_frame_holds_everything_and_the_remedies() -> None:
    text = "\n".join(frame(scene(degraded()), 120))
    assert "1 has no quorum" in text
    assert "n2/shard-1 trails its leader by 10,000 entries" in text
    assert "boathouse up demo.yaml --node n3" in text
    assert all(len(line) <= 160 for line in frame(scene(healthy()), 80))


def test_an_unknown_process_of_a_replica_is_no_error() -> None:
    bare = replace(healthy(), processes=[], shards=[make_shard(1, [Replica(shard=1, node="n1")], ["n1"])])
    row = replicas(scene(bare), "").rows[0]
    assert (row.process, row.opens) == (None, None)
    assert processes(scene(bare), "").rows == []
    assert ProcessName.replica("n1", 1) not in {row.process for row in replicas(scene(bare), "").rows}


def test_tables_of_a_follower_cluster_say_how_far_behind_they_are() -> None:
    snapshot = copying(copied("default", 7, 1.25), copied("users", 9, 50.0, stalled=True))
    page = tables(scene(snapshot))
    default = told(page, "default")
    assert (default["BEHIND"].text, default["LAG"].text, default["COPY"].text) == ("7", "1.2s", "follows")
    users = told(page, "users")
    assert (users["COPY"].text, users["COPY"].style) == ("X stalled", BAD)
    assert told(page, "events")["LAG"].text == "-"
    assert "LAG" not in {column.title for column in tables(scene(healthy())).columns}


def test_the_replication_of_a_follower_cluster() -> None:
    snapshot = copying(
        copied("default", 7, 1.25, backoff_s=0.5, trouble="UNAVAILABLE"),
        copied("users", 9, 50.0, stalled=True),
        refused={"other": "its name is taken"},
        at_s=NOW - 3,
    )
    page = replication(scene(snapshot))
    assert page.title == "replication, follows cluster harbour at h:1: n2 said 3s ago"
    default, users = told(page, "from default"), told(page, "from users")
    assert (default["BEHIND"].text, default["LAG"].text, default["DOES"].text) == (
        "7",
        "1.2s",
        "follows, waits 0.5 s",
    )
    assert (default[" "].text, users[" "].text, users["DOES"].text) == (" ", "X", "X stalled")
    other = told(page, "from other")
    assert (other["DOES"].text, other["TROUBLE"].text) == ("is not copied", "its name is taken")
    assert page.rows[0].opens == Place(View.LOG, "n2/replicator")


def with_table(**changes: Any) -> Snapshot:
    """Healthy, but for the table `default`."""
    whole = healthy()
    table = replace(whole.shards[0].tables[0], **changes)
    return replace(whole, shards=[replace(whole.shards[0], tables=[table]), *whole.shards[1:]])


def test_the_replication_of_a_cluster_that_others_follow() -> None:
    snapshot = with_table(revision=100, followers={"island": 60, "reef": 100})
    page = replication(scene(snapshot))
    assert [row.key for row in page.rows] == ["to island default", "to reef default"]
    row = told(page, "to island default")
    assert (row["COPIED"].text, row["POSITION"].text, row["BEHIND"].text) == ("by island", "60", "40")
    assert "by island" in "\n".join(frame(scene(snapshot), 120))
    assert replication(scene(healthy())).rows == []


def test_a_table_on_its_way_shows_where_to_and_how_far() -> None:
    assert "MOVES TO" not in {column.title for column in tables(scene(healthy())).columns}
    moving = tables(scene(with_table(id=7, keys=200, move=TableMove(target=2))))
    assert (told(moving, "default")["MOVES TO"].text, told(moving, "users")["MOVES TO"].text) == ("2", "")
    assert told(moving, "default")[" "].text == "i"
    whole = with_table(id=7, keys=200, move=TableMove(target=2))
    arriving = [replace(each, arriving={7: 50}) for each in whole.shards[1].replicas]
    there = replace(whole, shards=[whole.shards[0], replace(whole.shards[1], replicas=arriving)])
    assert told(tables(scene(there)), "default")["MOVES TO"].text == "2 25%"
    fenced = tables(scene(with_table(move=TableMove(target=2, is_fenced=True))))
    assert told(fenced, "default")["MOVES TO"].text == "2, writes wait"


# ---- calls of clients ------------------------------------------------------------------------------------------------


def looked_twice() -> Scene:
    model = Model(file="demo.yaml")
    for seconds in (0.0, 2.0):
        model.observe(healthy(seconds=seconds))
    made = model.scene(NOW + 2)
    assert made is not None
    return made


def test_calls_are_shown_by_method_and_table_and_shard() -> None:
    seen = looked_twice()
    page = calls(seen)
    assert [row.key for row in page.rows] == [
        f"/etcdserverpb.KV/{method} {table}"
        for method in ("Put", "Range")
        for table in ("default", "events", "users")
    ]
    row = told(page, "/etcdserverpb.KV/Put default")
    assert (row["METHOD"].text, row["CALLS/S"].text) == ("KV.Put", "100")
    assert row["P99"].text == "37.5ms", "halfway into the range of the slow ones"
    assert told(tables(seen), "default")["CALLS/S"].text == "600"
    shard = {
        column.title: cell.text
        for column, cell in zip(shards(seen).columns, shards(seen).rows[0].cells, strict=True)
        if column.title == "P99"
    }
    assert shard == {"P99": told(tables(seen), "default")["P99"].text}


def test_who_was_not_asked_has_no_percentile() -> None:
    seen = scene(healthy())
    assert calls(seen).rows == []
    assert told(tables(seen), "default")["P99"].text == "-"
