"""Random KV programs on two systems: every answer and every error must be the same, but for ids and terms."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.keyspace import EVERYTHING, ORIGIN, Answer, Keyspace
from tests.conformance.lengths import scaled, seeds
from tests.conformance.programs import Programmer
from tests.conformance.versions import (
    CHECKS_OPERATIONS_IN_ANOTHER_ORDER,
    LEAVES_OUT_LEASES_OF_KEYS,
    STREAMS_RANGES,
    TELLS_OF_THE_COMPACTION_BEFORE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

STEPS = 60
SEEDS = seeds(12)


def check_same(
    reference: Keyspace, subject: Keyspace, rng: random.Random, steps: int, *, stale_reads: bool = True
) -> None:
    """Run one program on both. Fails with the requests so far and the two answers that differ."""
    for keyspace in (reference, subject):
        keyspace.begin()
    programmer = Programmer(rng, stale_reads=stale_reads)
    done: list[str] = []
    for number in range(steps):
        request = programmer.request()
        done.append(f"{type(request).__name__} {text_format.MessageToString(request, as_one_line=True)}")
        wanted, given_ = without_time(reference.call(request)), without_time(subject.call(request))
        if not is_same(request, wanted, given_):
            program = "\n".join(done)
            pytest.fail(f"after\n{program}\nthe answer should be\n  {wanted}\nand is\n  {given_}")
        if isinstance(request, etcd.RangeRequest) and STREAMS_RANGES.is_met:
            assert is_same(request, reference.stream(request), subject.stream(request)), "\n".join(done)
        if wanted.message is not None:
            programmer.revision = max(programmer.revision, wanted.message.header.revision)
        if number % 10 == 9:
            everything = etcd.RangeRequest(key=EVERYTHING, range_end=EVERYTHING)
            assert reference.call(everything) == subject.call(everything), "\n".join(done)


def is_same(request: Message, wanted: Answer, given_: Answer) -> bool:
    """Whether two answers are equal, as far as etcds of all versions agree."""
    if LEAVES_OUT_LEASES_OF_KEYS.is_met and "keys_only: true" in str(request):
        wanted, given_ = without_leases(wanted), without_leases(given_)
    if TELLS_OF_THE_COMPACTION_BEFORE.is_met and isinstance(request, etcd.HashKVRequest) and given_.message:
        if given_.message.compact_revision == request.revision:
            return wanted.message is not None and wanted.message.header == given_.message.header
    if isinstance(request, etcd.TxnRequest) and CHECKS_OPERATIONS_IN_ANOTHER_ORDER.is_met:
        return wanted == given_ or (wanted.message is None and given_.message is None)
    return wanted == given_


def without_leases(answer: Answer) -> Answer:
    """The same, but for which lease a pair of a range has."""
    if answer.message is not None:
        ranges = [answer.message]
        while ranges:
            one = ranges.pop()
            ranges += [getattr(part, part.WhichOneof("response")) for part in getattr(one, "responses", ())]
            for pair in getattr(one, "kvs", ()):
                pair.lease = 0
    return answer


def without_time(answer: Answer) -> Answer:
    """What is left of a lease, and which of them ends first, goes by when it was asked."""
    if isinstance(answer.message, etcd.LeaseTimeToLiveResponse):
        answer.message.TTL = min(answer.message.TTL, 0)
    if isinstance(answer.message, etcd.LeaseLeasesResponse):
        answer.message.leases.sort(key=lambda lease: lease.ID)
    return answer


@pytest.fixture(scope="module")
def reference(etcd_endpoint: str) -> Iterator[Keyspace]:
    with Keyspace(etcd_endpoint) as keyspace:
        yield keyspace


@pytest.fixture(scope="module")
def second_etcd(other_etcd_endpoint: str) -> Iterator[Keyspace]:
    with Keyspace(other_etcd_endpoint) as keyspace:
        # Different absolute revisions, as between any two systems.
        for _ in range(3):
            keyspace.call(etcd.PutRequest(key=b"earlier"))
        yield keyspace


@pytest.fixture(scope="module")
def boathouse(boathouse_endpoint: str) -> Iterator[Keyspace]:
    with Keyspace(boathouse_endpoint) as keyspace:
        yield keyspace


@pytest.fixture(scope="module")
def boathouse_cluster(cluster_endpoints: tuple[str, ...]) -> Iterator[Keyspace]:
    with Keyspace(cluster_endpoints[-1]) as keyspace:
        yield keyspace


@pytest.mark.parametrize("seed", range(3))
def test_etcd_answers_as_another_etcd(reference: Keyspace, second_etcd: Keyspace, seed: int) -> None:
    """The test's own test: what differs here is not etcd's to define."""
    check_same(reference, second_etcd, random.Random(seed), STEPS)


def test_a_difference_is_found(reference: Keyspace, second_etcd: Keyspace) -> None:
    """A subject that forgets one key's value, as a broken one might."""

    class Forgetful(Keyspace):
        def call(self, request: etcd.PutRequest) -> object:  # type: ignore[override]
            if isinstance(request, etcd.PutRequest):
                request = etcd.PutRequest(key=request.key, value=b"wrong")
            return super().call(request)

    subject = Forgetful.__new__(Forgetful)
    subject.__dict__ = second_etcd.__dict__
    with pytest.raises(pytest.fail.Exception, match="the answer should be"):
        check_same(reference, subject, random.Random(1), STEPS)


@pytest.mark.parametrize("seed", SEEDS)
def test_boathouse_answers_as_etcd(reference: Keyspace, boathouse: Keyspace, seed: int) -> None:
    check_same(reference, boathouse, random.Random(seed), STEPS)


@pytest.mark.parametrize("seed", range(100, 103))
def test_a_cluster_answers_as_etcd_through_any_node(
    reference: Keyspace, boathouse_cluster: Keyspace, seed: int
) -> None:
    # A serializable read of a follower may be behind.
    check_same(reference, boathouse_cluster, random.Random(seed), STEPS, stale_reads=False)


@settings(
    max_examples=scaled(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rng=st.randoms(use_true_random=False))
def test_hypothesis_finds_no_program_that_tells_boathouse_from_etcd(
    reference: Keyspace, boathouse: Keyspace, rng: random.Random
) -> None:
    check_same(reference, boathouse, rng, 15)


def test_keys_of_one_revision_are_sorted_by_key(reference: Keyspace, boathouse: Keyspace) -> None:
    """Found by seed 1036: sorted by MOD, keys of one transaction came in the order in which it wrote them."""
    puts = [etcd.RequestOp(request_put=etcd.PutRequest(key=key)) for key in (b"b", b"c", b"a")]
    for order in (etcd.RangeRequest.ASCEND, etcd.RangeRequest.DESCEND):
        for target in (etcd.RangeRequest.MOD, etcd.RangeRequest.CREATE, etcd.RangeRequest.VERSION):
            answers = []
            for keyspace in (reference, boathouse):
                keyspace.begin()
                keyspace.call(etcd.TxnRequest(success=puts))
                sort = etcd.RangeRequest(
                    key=b"a", range_end=b"z", sort_order=order, sort_target=target, keys_only=True
                )
                answers.append(keyspace.call(sort))
            assert answers[0] == answers[1]
            assert [kv.key for kv in answers[1].message.kvs] == [b"a", b"b", b"c"]


def test_the_base_is_the_same_for_every_program(reference: Keyspace) -> None:
    reference.begin()
    first = reference.call(etcd.PutRequest(key=b"k"))
    assert first.message.header.revision == ORIGIN + 1
    reference.begin()
    assert reference.call(etcd.PutRequest(key=b"k")) == first
