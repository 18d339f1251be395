"""Holders of leases on a real cluster, and what they were promised.

A holder is granted a lease, puts two keys under it, keeps it alive for a while, and lets it run out. Whatever breaks
meanwhile: a lease lives for its time from when its last answered grant or renewal was asked for, by the clock of the
holder, who cannot know of more; its keys are there together or not at all, and go at one revision; and once the cluster
is whole again every lease ends in time.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import grpc

from proto.etcd import rpc_pb2 as etcd
from tests.integration.clients import OPTIONS
from tests.stubs import stub
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

TTLS_S: Final = (2, 3, 5)
RENEWALS_MAX: Final = 6
CALL_TIMEOUT_S: Final = 10.0
LATE_S_MAX: Final = 15.0
"""Once everything runs again: an election and its timeout, and what a busy machine takes."""
FIRST_ID: Final = 1 << 40


@dataclass(slots=True)
class _Held:
    """What one holder knows of his lease."""

    id: int
    ttl_s: int
    until: float
    """By the monotonic clock: it lives until then at least."""

    @property
    def prefix(self) -> bytes:
        return b"lease/%d/" % self.id


class Lessees:
    """Holders on threads of their own: the test kills processes meanwhile."""

    def __init__(self, endpoints: Sequence[str], *, holders: int, seed: int) -> None:
        self._endpoints = endpoints
        self._stop = threading.Event()
        self._wrong: list[str] = []
        self._unexpected: list[BaseException] = []
        self.leases = 0
        """That were granted, as far as their holders know."""
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(seed * 1_000 + number)))
            for number in range(holders)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(3 * CALL_TIMEOUT_S + max(TTLS_S))
        assert not any(thread.is_alive() for thread in self._threads), "holders still wait for answers"
        if self._unexpected:
            raise self._unexpected[0]

    def check(self) -> None:
        """Judge what was seen, and wait for the end of all leases. For when all processes run, and nobody holds any."""
        assert not self._wrong, f"{len(self._wrong)} promises were broken, the first: {self._wrong[0]}"
        with grpc.insecure_channel(self._endpoints[0], options=OPTIONS) as channel:
            kv, lease = stub(channel, etcd, "KV"), stub(channel, etcd, "Lease")
            everything = etcd.RangeRequest(key=b"lease/", range_end=b"lease0", count_only=True)
            wait_until(
                lambda: not lease.LeaseLeases(etcd.LeaseLeasesRequest(), timeout=CALL_TIMEOUT_S).leases,
                timeout_s=max(TTLS_S) + LATE_S_MAX,
                what="the end of every lease",
            )
            last = kv.Range(everything, timeout=CALL_TIMEOUT_S)
            assert last.count == 0
            self._check_ends(channel, last.header.revision)

    def _check_ends(self, channel: grpc.Channel, revision: int) -> None:
        """The keys of each lease went at one revision."""
        create = etcd.WatchCreateRequest(key=b"lease/", range_end=b"lease0", start_revision=1)
        ends: defaultdict[bytes, set[int]] = defaultdict(set)
        puts: set[int] = set()
        ended: set[int] = set()
        done = threading.Event()

        def say() -> Iterator[etcd.WatchRequest]:
            yield etcd.WatchRequest(create_request=create)
            done.wait(CALL_TIMEOUT_S)

        for response in stub(channel, etcd, "Watch").Watch(say(), timeout=60):
            for event in response.events:
                lease_id = int(event.kv.key.split(b"/")[1])
                if event.type == event.PUT:
                    puts.add(lease_id)
                else:
                    ends[event.kv.key.rsplit(b"/", 1)[0]].add(event.kv.mod_revision)
                    ended.add(lease_id)
            if puts and puts == ended:
                break
        done.set()
        torn = [prefix for prefix, revisions in ends.items() if len(revisions) > 1]
        assert not torn, f"leases lost their keys at several revisions: {torn[:3]}, up to {revision}"

    # ---- a holder -------------------------------------------------------------------------------------------------

    def _run(self, number: int, rng: random.Random) -> None:
        try:
            with grpc.insecure_channel(
                self._endpoints[number % len(self._endpoints)], options=OPTIONS
            ) as channel:
                holder = _Holder(channel, rng)
                turn = 0
                while not self._stop.is_set():
                    turn += 1
                    wrong = holder.hold(FIRST_ID * (number + 1) + turn, self._stop)
                    if wrong:
                        self._wrong.append(wrong)
                self.leases += holder.granted
        except BaseException as error:
            self._unexpected.append(error)


class _Holder:
    def __init__(self, channel: grpc.Channel, rng: random.Random) -> None:
        self._kv = stub(channel, etcd, "KV")
        self._lease = stub(channel, etcd, "Lease")
        self._rng = rng
        self.granted = 0

    def hold(self, lease_id: int, stop: threading.Event) -> str:
        """The life of one lease. What was wrong with it; empty if nothing was."""
        ttl_s = self._rng.choice(TTLS_S)
        asked = time.monotonic()
        try:
            self._lease.LeaseGrant(etcd.LeaseGrantRequest(ID=lease_id, TTL=ttl_s), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            stop.wait(0.2)
            return ""
        self.granted += 1
        held = _Held(lease_id, ttl_s, asked + ttl_s)
        txn = etcd.TxnRequest()
        for name in (b"a", b"b"):
            txn.success.add(request_put=etcd.PutRequest(key=held.prefix + name, lease=lease_id))
        try:
            self._kv.Txn(txn, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            gone = error.code() is grpc.StatusCode.NOT_FOUND and time.monotonic() < held.until
            return f"lease {lease_id} was gone when its keys were put" if gone else ""
        for _ in range(self._rng.randint(0, RENEWALS_MAX)):
            stop.wait(self._rng.uniform(0.1, 0.9) * ttl_s)
            wrong = self._renew(held) or self._look(held)
            if wrong or stop.is_set():
                return wrong
        stop.wait(self._rng.uniform(0.5, 1.5) * ttl_s)
        return self._look(held)

    def _renew(self, held: _Held) -> str:
        asked = time.monotonic()
        request = etcd.LeaseKeepAliveRequest(ID=held.id)
        try:
            (answer,) = self._lease.LeaseKeepAlive(iter([request]), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return ""
        if answer.TTL:
            held.until = max(held.until, asked + answer.TTL)
            return ""
        early_s = held.until - time.monotonic()
        return f"lease {held.id} was gone {early_s:.2f} s early" if early_s > 0 else ""

    def _look(self, held: _Held) -> str:
        request = etcd.RangeRequest(key=held.prefix, range_end=held.prefix[:-1] + b"0", count_only=True)
        try:
            count = self._kv.Range(request, timeout=CALL_TIMEOUT_S).count
        except grpc.RpcError:
            return ""
        early_s = held.until - time.monotonic()
        if count == 1 or (count == 0 and early_s > 0):
            return f"lease {held.id} of {held.ttl_s} s had {count} of 2 keys, {early_s:.2f} s before its end"
        return ""
