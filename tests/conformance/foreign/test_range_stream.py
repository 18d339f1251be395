"""KV.RangeStream beside the etcd that brought it, 3.7, asked raw and by its Go client: the same pairs in the same
order, the same revision and count with the last of them, the same refusals. How many pairs a message has is each one's
own."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.conftest import running
from tests.stubs import stub
from tools.bench import systems

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN_S: Final = 200
"""A little more than the program gives itself."""
CALL_TIMEOUT_S: Final = 20.0
LARGE: Final = 2_000
"""Pairs of 10 kB: more than what may be on its way to who does not read."""

Range = etcd.RangeRequest
ORDER, TARGET = Range.SortOrder, Range.SortTarget

EXTENTS: Final[tuple[dict[str, Any], ...]] = (
    {"key": b"\0", "range_end": b"\0"},
    {"key": b"k010", "range_end": b"k150"},
    {"key": b"k001"},
    {"key": b"x"},
    {"key": b"x", "range_end": b"y"},
    {"key": b"z", "range_end": b"a"},
    {},
)
OPTIONS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"limit": 1},
    {"limit": 77},
    {"limit": 200},
    {"limit": -1},
    {"keys_only": True},
    {"count_only": True},
    {"count_only": True, "limit": 3},
    {"serializable": True},
    {"revision": 100},
    {"revision": -3},
    {"revision": 5},
    {"revision": 240, "limit": 50, "keys_only": True},
    {"revision": 1_000_000},
    {"sort_order": ORDER.ASCEND},
    {"sort_order": ORDER.ASCEND, "limit": 20},
    {"sort_order": ORDER.DESCEND},
    {"sort_order": ORDER.DESCEND, "count_only": True},
    {"sort_order": ORDER.ASCEND, "sort_target": TARGET.MOD},
    {"sort_order": ORDER.DESCEND, "sort_target": TARGET.VALUE, "min_mod_revision": 3},
    {"sort_order": 9},
    {"sort_target": 9},
    {"min_mod_revision": 90},
    {"max_mod_revision": 90},
    {"min_create_revision": 90},
    {"max_create_revision": -1},
)
"""Left out is a target without an order: etcd 3.7.3 sorts each message for itself then, and goes on after the pair that
is last in it, so that pairs are missing and come twice. Here all are sorted, in one message, as Range does."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A range in one piece again; the error, if it ended with one."""

    kvs: list[Any]
    last: tuple[int, bool, int] | None
    error: tuple[str, str] | None


class Side:
    """KV of one system."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint, options=[("grpc.max_receive_message_length", -1)])
        self.kv: Any = stub(self.channel, etcd, "KV")

    def stream(self, request: etcd.RangeRequest) -> Any:
        return self.kv.RangeStream(request, timeout=CALL_TIMEOUT_S)


def merged(parts: Any) -> Streamed:
    """Asserts that only the last part knows of the whole."""
    heard = []
    try:
        heard += [part.range_response for part in parts]
    except grpc.RpcError as error:
        return Streamed([], None, (error.code().name, error.details() or ""))
    for part in heard[:-1]:
        assert part.kvs
        assert not part.HasField("header")
        assert not part.more
        assert not part.count
    last = heard[-1]
    kvs = list(itertools.chain.from_iterable(part.kvs for part in heard))
    return Streamed(kvs, (last.header.revision, last.more, last.count), None)


@pytest.fixture(scope="module")
def endpoints(etcd_3_7: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Of etcd and boathouse, after the same writes: many, of which a part is compacted."""
    theirs = systems.Etcd(tmp_path_factory.mktemp("etcd"), 1, program=etcd_3_7)
    folder = tmp_path_factory.mktemp("boathouse")
    ours = systems.Boathouse(folder, nodes=1, shards=1, replicas=1, tables=("default",))
    with running(theirs), running(ours):
        found = theirs.endpoints[0], ours.endpoints[0]
        for endpoint in found:
            fill(Side(endpoint))
        yield found


def fill(side: Side) -> None:
    with side.channel:
        for number in range(200):
            side.kv.Put(etcd.PutRequest(key=b"k%03d" % number, value=bytes(100)))
        for number in range(0, 200, 3):
            side.kv.DeleteRange(etcd.DeleteRangeRequest(key=b"k%03d" % number))
        for number in range(0, 200, 5):
            side.kv.Put(etcd.PutRequest(key=b"k%03d" % number, value=b"again"))
        side.kv.Compact(etcd.CompactionRequest(revision=20))


@pytest.fixture
def sides(endpoints: tuple[str, str]) -> Iterator[tuple[Side, Side]]:
    theirs, ours = Side(endpoints[0]), Side(endpoints[1])
    with theirs.channel, ours.channel:
        yield theirs, ours


def test_every_request_is_answered_the_same(sides: tuple[Side, Side]) -> None:
    differing = {}
    for extent, options in itertools.product(EXTENTS, OPTIONS):
        request = Range(**extent, **options)
        theirs, ours = (merged(side.stream(request)) for side in sides)
        if theirs != ours:
            differing[str(request)] = theirs, ours
        # And together they are what Range answers.
        if ours.error is None:
            whole = sides[1].kv.Range(request)
            assert ours == Streamed(list(whole.kvs), (whole.header.revision, whole.more, whole.count), None)
    assert differing == {}


def large(side: Side) -> etcd.RangeRequest:
    """What asks for the large pairs, written if they are not there yet."""
    request = Range(key=b"large/", range_end=b"large0")
    if not side.kv.Range(Range(key=b"large/", range_end=b"large0", count_only=True)).count:
        for number in range(LARGE):
            side.kv.Put(etcd.PutRequest(key=b"large/%04d" % number, value=bytes(10_000)))
    return request


def test_what_is_written_meanwhile_is_not_in_it(sides: tuple[Side, Side]) -> None:
    heard = []
    for side in sides:
        request = large(side)
        revision = side.kv.Range(Range(key=b"x")).header.revision
        parts = side.stream(request)
        first = next(parts)
        side.kv.DeleteRange(etcd.DeleteRangeRequest(key=b"large/1999"))
        side.kv.Put(etcd.PutRequest(key=b"large/1500", value=b"new"))
        side.kv.Put(etcd.PutRequest(key=b"large/2000", value=b"more"))
        heard.append(merged(itertools.chain([first], parts)))
        side.kv.DeleteRange(etcd.DeleteRangeRequest(key=b"large/", range_end=b"large0"))
        assert heard[-1].last == (revision, False, LARGE)
    assert heard[0] == heard[1]


def test_what_is_compacted_meanwhile_ends_etcds_and_not_ours(sides: tuple[Side, Side]) -> None:
    """etcd reads each part anew; boathouse reads all of them from one view."""
    ends = []
    for side in sides:
        request = large(side)
        parts = side.stream(request)
        first = next(parts)
        revision = side.kv.DeleteRange(etcd.DeleteRangeRequest(key=b"large/0000")).header.revision
        side.kv.Compact(etcd.CompactionRequest(revision=revision, physical=True))
        ends.append(merged(itertools.chain([first], parts)))
        side.kv.DeleteRange(etcd.DeleteRangeRequest(key=b"large/", range_end=b"large0"))
    theirs, ours = ends
    assert theirs.error == ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")
    assert ours.error is None
    assert len(ours.kvs) == LARGE


def test_who_goes_in_the_middle_leaves_nothing(sides: tuple[Side, Side]) -> None:
    """Not even what each stream keeps open: so many would be refused."""
    for side in sides:
        request = large(side)
        for _ in range(100):
            parts = side.stream(request)
            next(parts)
            parts.cancel()
            with pytest.raises(grpc.RpcError) as gone:
                list(parts)
            assert gone.value.code() is grpc.StatusCode.CANCELLED
        assert len(merged(side.stream(request)).kvs) == LARGE


def test_etcds_go_client_sees_the_same(getstream: Path, etcd_3_7: Path, tmp_path: Path) -> None:
    said = []
    for system in (
        systems.Etcd(tmp_path / "etcd", 1, program=etcd_3_7),
        systems.Boathouse(tmp_path / "boathouse", nodes=1, shards=1, replicas=1, tables=("default",)),
    ):
        with running(system):
            command = [str(getstream), system.endpoints[0]]
            done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
            assert done.returncode == 0, f"{system.name}: {done.stdout}{done.stderr}"
            said.append(done.stdout.splitlines())
    theirs, ours = said
    assert ours == theirs
    assert len(theirs) == 16
    assert all("as Get: true; chunks that know too early: 0" in line for line in theirs if "pairs" in line)
