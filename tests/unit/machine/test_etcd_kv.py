"""The probes of basic key-value behaviour that were observed on a real etcd, in their order on a fresh store."""

from __future__ import annotations

from proto import errors
from proto.etcd import kv_pb2, rpc_pb2
from proto.etcd.rpc_pb2 import CompactionRequest
from proto.internal import frames_pb2 as frames
from tests.unit.machine.shard import Shard, delete, get, keys, numbers, put


def compact(revision: int) -> CompactionRequest:
    return CompactionRequest(revision=revision)


def test_basic_probes_in_their_order() -> None:
    etcd = Shard()
    revision, response = etcd.range(b"a")
    assert (revision, len(response.kvs), response.count, response.more) == (1, 0, 0, False)

    assert etcd.error(compact(-1)) is errors.Compacted
    done = etcd.write(compact(0))
    assert (done.error, done.revision, done.body) == (None, 1, b"")
    assert etcd.error(compact(0)) is errors.Compacted
    assert etcd.error(compact(5)) is errors.FutureRevision

    assert etcd.error(put(b"a", ignore_value=True)) is errors.KeyNotFound
    assert etcd.error(put(b"a", ignore_value=True, lease=99)) is errors.LeaseNotFound

    assert etcd.put(b"a", b"1")[0] == 2
    revision, was = etcd.put(b"a", b"2", prev_kv=True)
    kv = was.prev_kv
    assert (revision, kv.value, kv.create_revision, kv.mod_revision, kv.version) == (3, b"1", 2, 2, 1)
    revision, was = etcd.put(b"b", b"2", prev_kv=True)
    assert revision == 4
    assert not was.HasField("prev_kv")

    revision, gone = etcd.delete(b"zz")
    assert (revision, gone.deleted) == (4, 0)
    revision, gone = etcd.delete(b"b", prev_kv=True)
    assert (revision, gone.deleted) == (5, 1)
    kv = gone.prev_kvs[0]
    assert (kv.key, kv.create_revision, kv.mod_revision, kv.version) == (b"b", 4, 4, 1)
    revision, gone = etcd.delete(b"z", b"a")
    assert (revision, gone.deleted) == (5, 0)

    assert etcd.put(b"b", b"3")[0] == 6
    assert numbers(etcd.range(b"b")[1]) == [(b"b", 6, 6, 1)]

    a1, a2 = (b"a", 2, 2, 1), (b"a", 2, 3, 2)
    past = {1: [], 2: [a1], 3: [a2], 4: [a2, (b"b", 4, 4, 1)], 5: [a2], 6: [a2, (b"b", 6, 6, 1)]}
    for asked, expected in past.items():
        revision, response = etcd.range(b"a", b"z", revision=asked)
        assert (revision, numbers(response), response.count) == (6, expected, len(expected)), asked
    assert etcd.error(get(b"a", b"z", revision=7)) is errors.FutureRevision
    assert numbers(etcd.range(b"a", b"z", revision=-5)[1]) == past[6]

    for span in ((b"a", b"a"), (b"z", b"a")):
        revision, response = etcd.range(*span)
        assert (revision, response.count, len(response.kvs)) == (6, 0, 0)
    response = etcd.range(b"\0", b"\0", count_only=True, limit=1)[1]
    assert (response.count, response.more, len(response.kvs)) == (2, False, 0)
    response = etcd.range(b"\0", b"\0", limit=1)[1]
    assert (keys(response), response.more, response.count) == ([b"a"], True, 2)
    assert keys(etcd.range(b"\0", b"\0", limit=-1)[1]) == [b"a", b"b"]


def sorted_store() -> Shard:
    etcd = Shard()
    for key, value in ((b"k1", b"z"), (b"k2", b"y"), (b"k3", b"x"), (b"k4", b"w"), (b"k5", b"v")):
        etcd.put(key, value)
    for _ in range(3):
        etcd.put(b"k2", b"m")
    assert etcd.put(b"k4", b"n")[0] == 10
    return etcd


VERSION, CREATE, MOD, VALUE = 1, 2, 3, 4
ASCEND, DESCEND = 1, 2


def test_sort_and_filter_probes() -> None:
    etcd = sorted_store()

    def ask(**options: int) -> tuple[str, bool, int]:
        response = etcd.range(b"k", b"l", **options)[1]
        return b" ".join(keys(response)).decode(), response.more, response.count

    assert ask(sort_target=VERSION) == ("k1 k3 k5 k4 k2", False, 5)
    assert ask(sort_target=VERSION, limit=2) == ("k1 k3", True, 5)
    assert ask(sort_target=VERSION, sort_order=DESCEND) == ("k2 k4 k1 k3 k5", False, 5)
    assert ask(sort_target=VALUE, sort_order=ASCEND, keys_only=True) == ("k2 k4 k5 k3 k1", False, 5)
    assert not any(
        kv.value for kv in etcd.range(b"k", b"l", sort_target=VALUE, sort_order=1, keys_only=1)[1].kvs
    )
    assert ask(sort_order=DESCEND, limit=2) == ("k5 k4", True, 5)
    assert ask(sort_target=MOD, sort_order=DESCEND, limit=1) == ("k4", True, 5)
    assert ask(min_mod_revision=4) == ("k2 k3 k4 k5", False, 5)
    assert ask(min_mod_revision=4, limit=1) == ("k2", True, 5)
    assert ask(max_mod_revision=4) == ("k1 k3", False, 5)
    assert ask(min_create_revision=4) == ("k3 k4 k5", False, 5)
    assert ask(max_mod_revision=-1) == ("", False, 5)
    assert ask(min_mod_revision=4, count_only=True) == ("", False, 5)


def test_an_unordered_target_with_a_limit_sorts_only_what_the_limit_let_through() -> None:
    etcd = Shard()
    for key, value in ((b"a", b"3"), (b"b", b"2"), (b"c", b"1")):
        etcd.put(key, value)
    response = etcd.range(b"a", b"d", sort_target=VALUE, limit=1)[1]
    assert (keys(response), response.more, response.count) == ([b"b"], True, 3)


def test_the_same_sorts_and_filters_of_a_past_revision() -> None:
    """The past is read key by key in Python, the present in SQL: both must agree."""
    etcd = sorted_store()
    options = [
        {"sort_target": target, "sort_order": order, "limit": limit, "keys_only": keys_only, **filters}
        for target in range(5)
        for order in (0, ASCEND, DESCEND, 7)
        for limit in (0, 1, 2, 4, 5, 6, -1)
        for keys_only in (0, 1)
        for filters in (
            {},
            {"min_mod_revision": 4},
            {"max_mod_revision": 6, "min_create_revision": 3},
            {"max_create_revision": 4},
            {"max_mod_revision": -3},
            {"min_mod_revision": -3},
            {"min_mod_revision": 1 << 62},
            {"max_mod_revision": 1 << 62, "max_create_revision": 1 << 62},
        )
    ]
    present = [etcd.range(b"k", b"l", **option)[1] for option in options]
    etcd.put(b"k0", b"later")
    etcd.put(b"k3", b"later")
    etcd.delete(b"k1")
    etcd.delete(b"k4")
    etcd.put(b"k4", b"later")
    for option, expected in zip(options, present, strict=True):
        assert etcd.range(b"k", b"l", revision=10, **option)[1] == expected, option


def test_an_unknown_sort_target_is_an_error_and_an_unknown_order_is_not() -> None:
    etcd = sorted_store()
    assert etcd.error(get(b"k", b"l", sort_target=9, sort_order=ASCEND)) is errors.InvalidSortOption
    assert keys(etcd.range(b"k", b"l", sort_target=VERSION, sort_order=9)[1]) == [
        b"k1",
        b"k2",
        b"k3",
        b"k4",
        b"k5",
    ]


def test_filters_apply_to_a_single_key_but_not_to_its_count() -> None:
    etcd = sorted_store()
    response = etcd.range(b"k1", min_mod_revision=3)[1]
    assert (len(response.kvs), response.count) == (0, 1)
    assert etcd.range(b"k1", max_mod_revision=2)[1].kvs[0].value == b"z"
    assert etcd.range(b"k1", keys_only=True)[1].kvs[0].value == b""
    assert etcd.range(b"k1", count_only=True)[1].count == 1


def test_ignore_value_and_ignore_lease_keep_what_is_there() -> None:
    etcd = Shard()
    etcd.put(b"a", b"1")
    etcd.put(b"a", ignore_value=True)
    kv = etcd.range(b"a")[1].kvs[0]
    assert (kv.value, kv.version, kv.mod_revision) == (b"1", 2, 3)
    etcd.put(b"a", b"2", ignore_lease=True)
    etcd.put(b"a", ignore_value=True, ignore_lease=True)
    kv = etcd.range(b"a")[1].kvs[0]
    assert (kv.value, kv.version, kv.lease) == (b"2", 4, 0)
    assert etcd.error(put(b"b", b"1", ignore_lease=True)) is errors.KeyNotFound
    assert etcd.error(put(b"a", b"1", lease=7)) is errors.LeaseNotFound


def test_an_empty_value_is_a_value() -> None:
    etcd = Shard()
    etcd.put(b"a", b"")
    response = etcd.range(b"a")[1]
    assert (response.count, response.kvs[0].value) == (1, b"")
    etcd.put(b"a", ignore_value=True)
    assert etcd.range(b"a")[1].kvs[0].version == 2


def test_a_range_of_all_keys_at_or_after_one() -> None:
    etcd = Shard()
    for key in (b"\0", b"a", b"b\xff", b"\xff\xff"):
        etcd.put(key, b"v")
    assert keys(etcd.range(b"a", b"\0")[1]) == [b"a", b"b\xff", b"\xff\xff"]
    assert keys(etcd.range(b"\0", b"\0")[1]) == [b"\0", b"a", b"b\xff", b"\xff\xff"]
    revision, gone = etcd.delete(b"b", b"\0", prev_kv=True)
    assert (revision, gone.deleted, [kv.key for kv in gone.prev_kvs]) == (6, 2, [b"b\xff", b"\xff\xff"])


def test_rows_with_any_bytes_survive_being_glued_together() -> None:
    """Rows are concatenated as text inside SQLite, where a zero byte or bad UTF-8 must not matter."""
    etcd = Shard()
    expected = {}
    for number in range(700):
        key = bytes([number % 256, 0, 255, number // 256, 0x80])
        expected[key] = bytes(range(256)) * (number % 3) + b"\0"
        etcd.put(key, expected[key])
    response = etcd.range(b"\0", b"\0")[1]
    assert [(kv.key, kv.value) for kv in response.kvs] == sorted(expected.items())
    for limit in (1, 63, 64, 65, 192, 193, 699, 700, 701):
        response = etcd.range(b"\0", b"\0", limit=limit)[1]
        assert keys(response) == sorted(expected)[:limit]
        assert (response.count, response.more) == (700, limit < 700)


def test_compaction_keeps_the_compacted_revision_readable() -> None:
    etcd = Shard()
    for value in b"1234":
        etcd.put(b"a", bytes([value]))
    assert etcd.write(compact(4)).revision == 5
    assert etcd.error(get(b"a", revision=3)) is errors.Compacted
    assert etcd.range(b"a", revision=4)[1].kvs[0].value == b"3"
    assert etcd.error(compact(4)) is errors.Compacted
    assert etcd.error(compact(3)) is errors.Compacted
    assert etcd.error(compact(6)) is errors.FutureRevision
    etcd.sweep()
    assert etcd.range(b"a", revision=4)[1].kvs[0].value == b"3"
    assert etcd.range(b"a", revision=5)[1].kvs[0].value == b"4"


def test_shape_errors_that_slip_through_are_answers_too() -> None:
    etcd = Shard()
    assert etcd.error(put(b"")) is errors.EmptyKey
    assert etcd.error(get(b"")) is errors.EmptyKey
    assert etcd.error(delete(b"")) is errors.EmptyKey


def test_a_pair_without_its_value_has_every_other_field() -> None:
    """A field that etcd adds to KeyValue would be dropped with the value, unless it is added there, too."""
    whole = {(f.name, f.number, f.type) for f in kv_pb2.KeyValue.DESCRIPTOR.fields if f.name != "value"}
    assert {(f.name, f.number, f.type) for f in frames.PairWithoutValue.DESCRIPTOR.fields} == whole
    field = frames.PairsWithoutValues.DESCRIPTOR.fields_by_name["kvs"]
    assert field.number == rpc_pb2.RangeResponse.DESCRIPTOR.fields_by_name["kvs"].number
