"""What is found wrong in a snapshot, and what is not."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from config.tuning import LimitsConfig, RaftConfig
from proto.catalog import Lead
from tests.unit.tools.command_lines import check_can_be_given
from tests.unit.tui.clusters import NODES, NOW, copied, copying, degraded, healthy, leaderless
from tools.admin.diagnosis import CERTIFICATE_ENDS_S, COPY_BEHIND_S, REPORT_OLD_S, diagnose
from tools.admin.findings import RULES, Code, Finding, Severity, finding
from tools.admin.snapshot import Certificate, Node, TableMove, make_shard

if TYPE_CHECKING:
    from tools.admin.snapshot import Snapshot


def codes(snapshot: Snapshot) -> set[tuple[Code, str]]:
    return {(finding.code, finding.subject) for finding in diagnose(snapshot)}


def with_replica(**changes: Any) -> Snapshot:
    """Healthy, but for the replica of shard 1 on n2."""
    whole = healthy()
    first = whole.shards[0]
    replicas = [replace(each, **changes) if each.node == "n2" else each for each in first.replicas]
    return replace(whole, shards=[make_shard(1, replicas, NODES), *whole.shards[1:]])


def test_nothing_is_wrong_with_a_healthy_cluster() -> None:
    assert diagnose(healthy()) == []


def test_a_degraded_cluster() -> None:
    assert codes(degraded()) == {
        (Code.NODE_DOWN, "n3"),
        (Code.SHARD_BELOW_REPLICAS, "shard-1"),
        (Code.SHARD_BELOW_REPLICAS, "shard-2"),
        (Code.SHARD_BELOW_REPLICAS, "shard-3"),
        (Code.SHARD_NO_QUORUM, "shard-4"),
        (Code.REPLICA_TRAILS, "n2/shard-1"),
        (Code.REPLICA_SYNC_SLOW, "n2/shard-1"),
        (Code.PROCESS_STOPPED, "n2/shard-4"),
        (Code.PROCESS_CRASHED, "n2/coordinator"),
    }


def test_no_shard_misses_a_node_that_has_left() -> None:
    whole = healthy()
    left = Node(name="n4", endpoint="127.0.0.1:9", is_up=False)
    (found,) = diagnose(replace(whole, nodes=[*whole.nodes, left]), file="demo.yaml")
    assert (found.code, found.severity, found.subject) == (Code.EMPTY_NODE_DOWN, Severity.WARNING, "n4")
    shards = [*whole.shards, make_shard(len(whole.shards) + 1, [], [])]
    told = diagnose(replace(whole, nodes=[*whole.nodes, left], shards=shards), file="demo.yaml")
    assert Code.NODE_DOWN in {each.code for each in told}, "it may hold the shard of which nobody tells"


def test_the_worst_comes_first() -> None:
    found = [finding.severity for finding in diagnose(leaderless())]
    assert found == sorted(found, reverse=True)
    assert found[0] is Severity.CRITICAL


def test_a_leaderless_shard_and_why() -> None:
    found = codes(leaderless())
    assert {
        (Code.SHARD_NO_LEADER, "shard-2"),
        (Code.SHARD_NO_QUORUM, "shard-2"),
        (Code.PROCESS_FAILED, "n2/shard-2"),
    } <= found
    assert (Code.REPLICA_SILENT, "n2/shard-2") not in found, "its failed process says more"


@pytest.mark.parametrize(
    ("changes", "code", "subject"),
    [
        ({"fault": "row 7 is damaged"}, Code.REPLICA_FAULT, "n2/shard-1"),
        ({"no_space": True}, Code.REPLICA_NO_SPACE, "n2/shard-1"),
        ({"applied_index": 10_000}, Code.REPLICA_TRAILS, "n2/shard-1"),
        ({"queued": 5_001}, Code.REPLICA_QUEUES, "n2/shard-1"),
        ({"sync_p99_us": 100_001}, Code.REPLICA_SYNC_SLOW, "n2/shard-1"),
        ({"sync_p99_us": 100_001, "syncs_of_late": 100}, Code.REPLICA_SYNC_SLOW, "n2/shard-1"),
        ({"wal_bytes": (256 << 20) + 1}, Code.REPLICA_WAL_LARGE, "n2/shard-1"),
        ({"clock_skew_ms": -501}, Code.CLOCK_OFF, "n2/shard-1"),
        ({"build_level": 2}, Code.MIXED_BUILDS, "shard-1"),
        ({"is_answering": False}, Code.REPLICA_SILENT, "n2/shard-1"),
        ({"is_answering": False, "unread_protocol": 2}, Code.TOOL_TOO_OLD, "n2/shard-1"),
        ({"newer_protocol": 2}, Code.NEWER_PROTOCOL, "n2/shard-1"),
    ],
)
def test_what_a_replica_shows(changes: dict[str, Any], code: Code, subject: str) -> None:
    assert (code, subject) in codes(with_replica(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"applied_index": 11_000},
        {"queued": 5_000},
        {"sync_p99_us": 100_000},
        {"sync_p99_us": 900_000, "syncs_of_late": 99},
        {"clock_skew_ms": 500},
        {"sync_p99_us": None, "queued": None, "wal_bytes": None, "clock_skew_ms": None},
    ],
)
def test_what_is_within_bounds_or_unknown_is_not_wrong(changes: dict[str, Any]) -> None:
    assert diagnose(with_replica(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "limits", "tick_ms"),
    [
        ({"queued": 5_001}, {"pending_requests_max": 100_000}, 100),
        ({"sync_p99_us": 100_001}, {}, 200),
        ({"wal_bytes": (256 << 20) + 1}, {"cursor_wal_bytes_max": 1 << 30}, 100),
    ],
)
def test_what_the_cluster_file_allows_is_not_wrong(
    changes: dict[str, Any], limits: dict[str, int], tick_ms: int
) -> None:
    told = with_replica(**changes)
    assert diagnose(told) != []
    allowed = replace(told, limits=LimitsConfig(**limits), raft=RaftConfig(tick_ms=tick_ms))  # type: ignore[arg-type]
    assert diagnose(allowed) == []


def with_table(**changes: Any) -> Snapshot:
    """Healthy, but for the table `default`."""
    whole = healthy()
    replicas = [
        replace(each, tables=[replace(table, **changes) for table in each.tables])
        for each in whole.shards[0].replicas
    ]
    return replace(whole, shards=[make_shard(1, replicas, NODES), *whole.shards[1:]])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size_bytes": 901, "quota_bytes": 1_000}, {Code.TABLE_NEAR_QUOTA}),
        ({"size_bytes": 950, "quota_bytes": 1_000, "is_full": True}, {Code.TABLE_FULL}),
        ({"alarms": ["CORRUPT", "NOSPACE"]}, {Code.ALARM}),
        ({"size_bytes": 900, "quota_bytes": 1_000}, set()),
        ({"size_bytes": 10**12, "quota_bytes": None}, set()),
        ({"size_bytes": None, "quota_bytes": 1_000}, set()),
    ],
)
def test_what_a_table_shows(changes: dict[str, Any], expected: set[Code]) -> None:
    assert codes(with_table(**changes)) == {(code, "table default") for code in expected}


def test_a_table_on_its_way_is_no_trouble_and_is_told() -> None:
    whole = with_table(id=7, keys=90_000, move=TableMove(target=2))
    (note,) = diagnose(whole)
    assert (note.code, note.severity, note.subject) == (Code.TABLE_MOVES, Severity.NOTE, "table default")
    assert note.says == "table default is on its way from shard 1 to shard 2"
    second = whole.shards[1]
    arriving = [replace(each, arriving={7: 20_000 if each.is_leader else 19_000}) for each in second.replicas]
    there = replace(whole, shards=[whole.shards[0], make_shard(2, arriving, NODES)])
    (note,) = diagnose(there)
    assert note.says.endswith("from shard 1 to shard 2: 20,000 of 90,000 keys are there")
    (note,) = diagnose(with_table(move=TableMove(target=2, is_fenced=True)))
    assert note.says.endswith("from shard 1 to shard 2, which takes it over now")


DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("begins_s", "ends_s", "expected"),
    [
        (-DAY_S, -1.0, Code.CERTIFICATE_INVALID),
        (60.0, 900 * DAY_S, Code.CERTIFICATE_INVALID),
        (-DAY_S, 12.2 * DAY_S, Code.CERTIFICATE_ENDS),
        (-DAY_S, CERTIFICATE_ENDS_S, None),
    ],
)
def test_what_a_certificate_shows(begins_s: float, ends_s: float, expected: Code | None) -> None:
    certificate = Certificate("/etc/n1.pem", ("n1", "n2"), NOW + begins_s, NOW + ends_s)
    found = diagnose(replace(healthy(), certificates=[certificate]))
    assert [each.code for each in found] == ([] if expected is None else [expected])
    for each in found:
        assert (each.subject, each.also) == ("/etc/n1.pem", ("n1", "n2"))
        assert expected is not Code.CERTIFICATE_ENDS or each.says.endswith("in 12 days")


def test_a_follower_cluster_that_is_level_has_nothing_wrong() -> None:
    assert codes(copying(copied("default"), copied("users", 3, COPY_BEHIND_S))) == set()


@pytest.mark.parametrize(
    ("snapshot", "code", "subject"),
    [
        (copying(copied("default", 9, 40.0, stalled=True)), Code.COPY_STALLED, "n2/replicator"),
        (copying(copied("default", 9, COPY_BEHIND_S + 1)), Code.COPY_BEHIND, "n2/replicator"),
        (copying(trouble="UNAVAILABLE: no route"), Code.LEADER_CLUSTER_UNKNOWN, "n2/replicator"),
        (copying(refused={"t": "taken"}), Code.TABLE_NOT_COPIED, "n2/replicator"),
        (copying(at_s=NOW - REPORT_OLD_S - 1), Code.NOBODY_REPLICATES, "replicator"),
    ],
)
def test_what_a_follower_cluster_shows(snapshot: Snapshot, code: Code, subject: str) -> None:
    assert codes(snapshot) == {(code, subject)}


def test_a_cluster_that_has_given_way_or_has_followed_and_follows_nobody() -> None:
    (found,) = diagnose(replace(healthy(), gave_way_to=Lead(2, "island")))
    assert found.code is Code.GAVE_WAY
    assert found.says.startswith("cluster island leads since epoch 2, and the file of cluster ")


def test_a_follower_cluster_in_which_nobody_has_ever_replicated() -> None:
    whole = copying()
    assert whole.replication is not None
    never = replace(whole, replication=replace(whole.replication, report=None))
    assert codes(never) == {(Code.NOBODY_REPLICATES, "replicator")}
    assert never.replication is not None
    unknown = replace(never, replication=replace(never.replication, answered=False))
    assert codes(unknown) == set()


def remedies(snapshot: Snapshot, code: Code) -> tuple[str, ...]:
    return next(each.remedies for each in diagnose(snapshot, file="demo.yaml") if each.code is code)


def test_remedies_name_the_subject_and_the_file() -> None:
    assert remedies(degraded(), Code.NODE_DOWN) == ("boathouse up demo.yaml --node n3  # on its host",)
    assert remedies(degraded(), Code.PROCESS_STOPPED) == ("boathouse start n2/shard-4 demo.yaml",)


@pytest.mark.parametrize(
    "name", ["t u", "t;reboot", "$(reboot)", "`reboot`", "a  b", "it's", "x\ny", "# x", "--all"]
)
def test_any_name_stays_one_word_of_a_remedy(name: str) -> None:
    full = finding(Code.TABLE_FULL, f"table {name}", "full", file=name, endpoint="h:1")
    delete, restart = full.remedies
    assert shlex.split(delete, comments=True) == [
        "boathouse",
        "kv",
        "del",
        "KEY",
        "--prefix",
        "-t",
        name,
        "-e",
        "h:1",
    ]
    assert shlex.split(restart, comments=True) == ["boathouse", "restart", "--all", name]
    (listed,) = finding(Code.FOLDER_OPEN, f"/data/{name}", "open", file=name).remedies
    assert shlex.split(listed) == ["chmod", "-R", "go=", f"/data/{name}"]


def test_who_has_lost_a_quorum_is_told_who_is_away_and_who_could_go_on_alone() -> None:
    _, up, recover = remedies(degraded(), Code.SHARD_NO_QUORUM)
    assert up.startswith("boathouse up demo.yaml --node n2 ")
    assert recover.startswith("boathouse recover n1 demo.yaml --shard 4 --dry-run  # if the others are lost")


def test_remedies_of_an_etcd_cluster_are_etcds() -> None:
    found = diagnose(replace(degraded(), is_etcd=True, alarms={"n1": ["NOSPACE"]}))
    assert found
    assert all("boathouse" not in remedy for each in found for remedy in each.remedies)
    assert any(each.code is Code.ALARM for each in found)


def test_every_code_has_its_rule() -> None:
    assert set(RULES) == set(Code)
    for code, rule in RULES.items():
        assert rule.meaning.endswith("."), code
        assert rule.remedies, code


NAMES: dict[str, Any] = {
    "endpoint": "h:1", "away": "n3", "survivor": "n1", "reporter": "n2", "cluster": "c", "epoch": 2, "nodes": "n1",
    "target": 2,
    "where": "on each host",
}  # fmt: skip
PROGRAMS = {"etcdctl", "df", "iostat", "chronyc", "ls", "id", "chmod", "ss", "openssl"}
"""Of others, that remedies may name."""


@pytest.mark.parametrize("file", ["demo.yaml", ""])
@pytest.mark.parametrize("code", list(Code))
def test_every_remedy_can_be_typed_as_it_stands(code: Code, file: str) -> None:
    made: Finding = finding(code, "n2/shard-1", "it is so", file=file, **NAMES)
    for remedy in made.remedies:
        program = remedy.split()[0]
        assert program in {"boathouse", *PROGRAMS}, remedy
        if program == "boathouse":
            check_can_be_given(remedy)
