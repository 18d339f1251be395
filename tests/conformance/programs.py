"""Random KV programs: few keys and values, so that their requests meet each other.

One generator serves seeds and Hypothesis, which brings a `random.Random` whose draws it can shrink. Left out
is only what real etcd can't be asked or doesn't define, and what the one at hand does otherwise (`versions.py`): a
certain transaction kills it (see `txn`), and with more than six keys Go's sort no longer leaves equal elements in
the order of their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.keyspace import EVERYTHING, MEMBER, ORIGIN
from tests.conformance.versions import (
    DIES_OF_UNKNOWN_TARGETS,
    REFUSES_HASHES_AT_COMPACTION,
    REFUSES_UNKNOWN_ORDERS,
)

if TYPE_CHECKING:
    import random

    from google.protobuf.message import Message

KEYS = (b"a", b"aa", b"b", b"b\0", b"c", b"\xff")
ENDS = (*KEYS, EVERYTHING, EVERYTHING, b"", b"")
LEASES = (-1, 7, 21)
VALUES = (b"", b"1", b"2", b"x" * 40)
DEPTH_MAX = 2


class Programmer:
    """Draws requests; `revision` is a guess of the keyspace's current one, in relative numbers."""

    def __init__(self, rng: random.Random, *, stale_reads: bool = True) -> None:
        self.rng = rng
        self.stale_reads = stale_reads
        self.ignoring = True
        """Whether puts may ignore the value or the lease."""
        self.open_ended_deletes = True
        self.revision = ORIGIN
        self.alarm_raised: etcd.AlarmType.ValueType = etcd.NONE

    def request(self) -> Message:
        """Any request, writes more often than reads: state is what makes reads interesting."""
        if self.alarm_raised and self.one_in(4):
            return self.alarm()
        draw = self.rng.randrange(100)
        if draw < 30:
            return self.put()
        if draw < 40:
            return self.delete_range()
        if draw < 65:
            return self.range()
        if draw < 88:
            return self.txn(0)
        if draw < 95:
            return self.lease()
        if draw < 97:
            return self.alarm()
        if draw < 98:
            return self.hash()
        return etcd.CompactionRequest(revision=self.some_revision(), physical=self.one_in(2))

    def lease(self) -> Message:
        """A request of Lease. None runs out while a program runs."""
        lease_id = self.rng.choice(LEASES)
        draw = self.rng.randrange(10)
        if draw < 5:
            return etcd.LeaseGrantRequest(ID=lease_id, TTL=10**10 if self.one_in(20) else 10_000)
        if draw < 7:
            return etcd.LeaseRevokeRequest(ID=lease_id)
        if draw < 8:
            return etcd.LeaseKeepAliveRequest(ID=lease_id)
        if draw < 9:
            return etcd.LeaseTimeToLiveRequest(ID=lease_id, keys=self.one_in(2))
        return etcd.LeaseLeasesRequest()

    def alarm(self) -> etcd.AlarmRequest:
        """A look at the alarms, or one that is raised or ended; soon, as little is done meanwhile. Never two kinds at
        once: etcd heeds only the newer then, and neither as soon as one of them has ended."""
        action = etcd.AlarmRequest
        draw = self.rng.randrange(4)
        if draw == 0:
            return action(action=action.GET, alarm=self.rng.choice((etcd.NONE, etcd.NOSPACE, etcd.CORRUPT)))
        if self.alarm_raised and draw < 3:
            ended, self.alarm_raised = self.alarm_raised, etcd.NONE
            return action(action=action.DEACTIVATE, memberID=MEMBER, alarm=ended)
        alarm = self.alarm_raised or self.rng.choice((etcd.NONE, etcd.NOSPACE, etcd.CORRUPT))
        self.alarm_raised = alarm
        return action(action=action.ACTIVATE, memberID=MEMBER, alarm=alarm)

    def hash(self) -> etcd.HashKVRequest:
        """Of what is there now, or was."""
        now = REFUSES_HASHES_AT_COMPACTION.is_met or self.one_in(3)
        return etcd.HashKVRequest(revision=0 if now else self.some_revision())

    def put(self) -> etcd.PutRequest:
        """A put; some with ignored value or lease, some with a lease that does not exist, some without a
        key."""
        return etcd.PutRequest(
            key=b"" if self.one_in(40) else self.rng.choice(KEYS),
            value=self.rng.choice(VALUES),
            lease=self.rng.choice(LEASES) if self.one_in(4) else 0,
            prev_kv=self.one_in(3),
            ignore_value=self.one_in(8) and self.ignoring,
            ignore_lease=self.one_in(10) and self.ignoring,
        )

    def delete_range(self) -> etcd.DeleteRangeRequest:
        """A delete of a key or a range, now and then an empty or inverted one."""
        key, end = self.span()
        if end == EVERYTHING and not self.open_ended_deletes:
            end = b"\xff\xff"
        return etcd.DeleteRangeRequest(key=key, range_end=end, prev_kv=self.one_in(2))

    def range(self) -> etcd.RangeRequest:
        """A read with any options together."""
        key, end = self.span()
        request = etcd.RangeRequest(key=key, range_end=end)
        if self.one_in(3):
            request.limit = self.rng.choice((-1, 1, 2, 3, 100))
        if self.one_in(3):
            request.revision = self.some_revision()
        if self.one_in(2):
            unknown_order = 0 if REFUSES_UNKNOWN_ORDERS.is_met else 9
            unknown_target = 0 if DIES_OF_UNKNOWN_TARGETS.is_met else 9
            request.sort_order = self.rng.choice((0, 1, 2, 2, 1, unknown_order))  # type: ignore[assignment]
            request.sort_target = self.rng.choice((0, 0, 1, 1, 2, 2, 3, 3, 4, unknown_target))  # type: ignore[assignment]
        for bound in ("min_mod", "max_mod", "min_create", "max_create"):
            if self.one_in(10):
                setattr(request, f"{bound}_revision", self.some_revision())
        request.keys_only = self.one_in(6)
        request.count_only = self.one_in(8)
        request.serializable = self.one_in(4) and self.stale_reads
        return request

    def txn(self, depth: int) -> etcd.TxnRequest:
        """A transaction, nested ones included; many are refused for a key that is put twice.

        A put that ignores the value of a key which an open-ended delete of the same transaction removes gets
        past etcd's checks and ends the process. So a transaction has the one or the other."""
        if depth == 0:
            self.ignoring = self.one_in(2)
            self.open_ended_deletes = not self.ignoring
            drawn = self._txn(depth)
            self.ignoring = self.open_ended_deletes = True
            return drawn
        return self._txn(depth)

    def _txn(self, depth: int) -> etcd.TxnRequest:
        return etcd.TxnRequest(
            compare=[self.compare() for _ in range(self.rng.choice((0, 0, 1, 1, 2)))],
            success=self.operations(depth),
            failure=self.operations(depth),
        )

    def operations(self, depth: int) -> list[etcd.RequestOp]:
        """Some operations of one branch."""
        return [self.operation(depth) for _ in range(self.rng.choice((0, 1, 1, 2, 3, 4)))]

    def operation(self, depth: int) -> etcd.RequestOp:
        """One operation; rarely one without a request."""
        draw = self.rng.randrange(100)
        if draw < 35:
            return etcd.RequestOp(request_put=self.put())
        if draw < 60:
            return etcd.RequestOp(request_range=self.range())
        if draw < 80:
            return etcd.RequestOp(request_delete_range=self.delete_range())
        if draw < 98 and depth < DEPTH_MAX:
            return etcd.RequestOp(request_txn=self.txn(depth + 1))
        return etcd.RequestOp()

    def compare(self) -> etcd.Compare:
        """A comparison, of a range at times, with another target's operand at times."""
        key, end = self.span()
        compare = etcd.Compare(key=key, range_end=end if self.one_in(5) else b"")
        compare.result = self.rng.choice((0, 1, 2, 3))  # type: ignore[assignment]
        compare.target = self.rng.choice((0, 1, 2, 3, 4))  # type: ignore[assignment]
        match self.rng.randrange(7):
            case 0:
                compare.version = self.rng.choice((0, 1, 2))
            case 1:
                compare.create_revision = self.rng.choice((0, self.some_revision()))
            case 2:
                compare.mod_revision = self.rng.choice((0, self.some_revision()))
            case 3 | 4:
                compare.value = self.rng.choice(VALUES)
            case 5:
                compare.lease = self.rng.choice((0, 7))
        return compare

    def span(self) -> tuple[bytes, bytes]:
        """A key and a range end; empty keys are rare."""
        key = b"" if self.one_in(40) else self.rng.choice((*KEYS, EVERYTHING))
        return key, self.rng.choice(ENDS)

    def some_revision(self) -> int:
        """Mostly one around the recent past; sometimes one ahead, compacted, zero or negative."""
        if self.one_in(8):
            return self.rng.choice((0, -1, -5, 1))
        return self.revision + self.rng.choice((-8, -5, -3, -2, -1, -1, 0, 0, 1, 2))

    def one_in(self, count: int) -> bool:
        """True once in `count` draws."""
        return self.rng.randrange(count) == 0
