"""Those who hold leases in the simulated cluster, and the ledger of what they were promised.

A lessee is granted a lease, puts two keys under it in one transaction, keeps it alive for a while, and lets it run out
or revokes it. The promises checked by name:

- lease-early: a lease that was granted or renewed lives for its time from when that was asked for, by the fastest clock
  of any replica; that the clocks of machines run at different rates is part of the simulation.
- lease-late: a lease that nobody renews ends in time, however often its leader changes by plan (mutants/scenarios.py).
- lease-kept: a lease is not gone as long as it was not ended.
- lease-atomic: the keys of a lease are there, or the lease was ended and none of them is.
- liveness: once the cluster is healed and nobody renews, every lease is gone within its time, an election and a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from coordinator.shards.request_ids import RequestIds
from coordinator.shards.shard_call import LEADER, ShardCall
from proto import errors
from proto.etcd import rpc_pb2
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access
from tests.simulation.clients import TABLE_ID
from tests.simulation.violation import Violation
from tests.simulation.world import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.simulation.cluster import Cluster
    from tests.simulation.coordinator import Coordinator

TTLS_S: Final = (1, 2)
RENEWALS_MAX: Final = 8
TIMEOUT_S: Final = 3.0
LEASES_PER_LESSEE: Final = 1 << 20


class _Applied(NamedTuple):
    """The end of leases, in the tables of one replica."""

    applied_index: int
    lease_ids: frozenset[int]
    now_us: int


class Ledger:
    """What was promised of each lease, and when it ended."""

    def __init__(self, *, rate_max: float) -> None:
        """rate_max: of the fastest clock."""
        self._rate_max = rate_max
        self._until_us: dict[int, int] = {}
        self._ended_us: dict[int, int] = {}
        self._revoked: set[int] = set()
        self._unsettled: dict[int, list[_Applied]] = {}
        """By node."""

    def promised(self, lease_id: int, asked_us: int, ttl_s: int) -> None:
        """A grant or a renewal, asked for at that time, was answered."""
        until = asked_us + int(ttl_s * SECOND / self._rate_max)
        self._until_us[lease_id] = max(until, self._until_us.get(lease_id, 0))
        if lease_id in self._ended_us:
            self._check(lease_id)

    def applied(self, node: int, index: int, lease_ids: Iterable[int], now_us: int) -> None:
        """A replica has applied the end of these leases with this entry. settle() says whether that lasts."""
        self._unsettled.setdefault(node, []).append(_Applied(index, frozenset(lease_ids), now_us))

    def settle(self, node: int, applied_index: int) -> None:
        """The replica's disk has what it applied up to this index, and nothing of what it applied after that.

        A turn may be found there that nobody heard of: whose process died once it was written."""
        for end in self._unsettled.pop(node, []):
            if end.applied_index <= applied_index:
                for lease_id in end.lease_ids:
                    self._ended_us[lease_id] = min(end.now_us, self._ended_us.get(lease_id, end.now_us))
                    self._check(lease_id)

    def check_over(self, lease_id: int, now_us: int) -> None:
        """The end of this lease is overdue."""
        if not self.is_over(lease_id):
            late_us = now_us - self._until_us[lease_id]
            raise Violation("lease-late", f"lease {lease_id} is {late_us / SECOND:.3f} s late and goes on")

    def is_over(self, lease_id: int) -> bool:
        """Whether some replica has applied its end."""
        return lease_id in self._ended_us

    def revoking(self, lease_id: int) -> None:
        """Its holder asks for its end: nothing is promised any more."""
        self._revoked.add(lease_id)

    def _check(self, lease_id: int) -> None:
        early_us = self._until_us.get(lease_id, 0) - self._ended_us[lease_id]
        if early_us > 0 and lease_id not in self._revoked:
            raise Violation("lease-early", f"lease {lease_id} ended {early_us / SECOND:.3f} s early")


class Lessee:
    """Holds one lease at a time until `stop()`."""

    def __init__(self, cluster: Cluster, coordinator: Coordinator, number: int) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._coordinator = coordinator
        self._ledger = cluster.ledger
        self._rng = cluster.world.stream(f"lessee-{number}")
        self._ids = RequestIds(self._rng.randbytes(8))
        self._lease_id = number * LEASES_PER_LESSEE
        self._ttl_s = 0
        self._renewals_left = 0
        self._attached = False
        self._stopped = False
        self._waits = False

    @property
    def idle(self) -> bool:
        """Whether it waits for no answer."""
        return not self._waits

    def start(self) -> None:
        self._later(SECOND, self._grant)

    def hold_once(self, ttl_s: int) -> int:
        """Instead of start(): ask for one lease, which is never renewed; its id."""
        self._lease_id += 1
        asked_us = self._world.now_us
        self._ask(
            frames.LEASE_GRANT,
            rpc_pb2.LeaseGrantRequest(ID=self._lease_id, TTL=ttl_s).SerializeToString(),
            lambda _reply: self._ledger.promised(self._lease_id, asked_us, ttl_s),
            lambda _error: None,
        )
        return self._lease_id

    def stop(self) -> None:
        """Hold no further lease, and renew none."""
        self._stopped = True

    # ---- the life of a lease ------------------------------------------------------------------------------------

    def _grant(self) -> None:
        self._lease_id += 1
        self._ttl_s = self._rng.choice(TTLS_S)
        self._renewals_left = self._rng.randint(0, RENEWALS_MAX)
        self._attached = False
        asked_us = self._world.now_us

        def granted(_reply: frames.Reply) -> None:
            self._cluster.count("lease")
            self._ledger.promised(self._lease_id, asked_us, self._ttl_s)
            self._put()

        request = rpc_pb2.LeaseGrantRequest(ID=self._lease_id, TTL=self._ttl_s)
        self._ask(frames.LEASE_GRANT, request.SerializeToString(), granted, lambda _error: self._next())

    def _next(self) -> None:
        self._later(SECOND // 2, self._grant)

    @property
    def _prefix(self) -> bytes:
        return b"lease/%d/" % self._lease_id

    def _put(self) -> None:
        txn = rpc_pb2.TxnRequest()
        for name in (b"a", b"b"):
            txn.success.add(request_put=rpc_pb2.PutRequest(key=self._prefix + name, lease=self._lease_id))

        def put(_reply: frames.Reply) -> None:
            self._attached = True
            self._go_on()

        def failed(error: errors.BoathouseError) -> None:
            if isinstance(error, errors.LeaseNotFound):
                self._check_over("a put")
                self._next()
            else:
                self._go_on()

        self._ask(frames.ETCD_TXN, txn.SerializeToString(), put, failed)

    def _go_on(self) -> None:
        if self._renewals_left:
            self._renewals_left -= 1
            # In time to cost no entry of the log, or perhaps once a loss was written down.
            share = self._rng.choice((0.5, 0.5, 0.75))
            self._later(int(self._ttl_s * SECOND * share), self._keep_alive)
        elif self._rng.random() < 0.3:
            self._later(SECOND // 2, self._revoke)
        else:
            self._later(2 * self._ttl_s * SECOND, self._look)

    def _keep_alive(self) -> None:
        asked_us = self._world.now_us

        def answered(reply: frames.Reply) -> None:
            ttl_s = rpc_pb2.LeaseKeepAliveResponse.FromString(reply.body).TTL
            if ttl_s:
                self._ledger.promised(self._lease_id, asked_us, ttl_s)
                self._go_on()
            else:
                self._check_over("a renewal")
                self._look()

        request = rpc_pb2.LeaseKeepAliveRequest(ID=self._lease_id)
        self._ask(
            frames.LEASE_KEEP_ALIVE, request.SerializeToString(), answered, lambda _error: self._go_on()
        )

    def _revoke(self) -> None:
        self._ledger.revoking(self._lease_id)
        body = rpc_pb2.LeaseRevokeRequest(ID=self._lease_id).SerializeToString()
        self._ask(frames.LEASE_REVOKE, body, lambda _reply: self._look(), lambda _error: self._look())

    def _look(self) -> None:
        """Look at the keys, once; then the next lease."""

        def seen(reply: frames.Reply) -> None:
            count = rpc_pb2.RangeResponse.FromString(reply.body).count
            if count == 1 or (self._attached and not count and not self._ledger.is_over(self._lease_id)):
                raise Violation("lease-atomic", f"a read found {count} of 2 keys of lease {self._lease_id}")
            self._next()

        request = rpc_pb2.RangeRequest(key=self._prefix, range_end=self._prefix[:-1] + b"0")
        self._ask(frames.ETCD_RANGE, request.SerializeToString(), seen, lambda _error: self._next())

    def _check_over(self, what: str) -> None:
        if not self._ledger.is_over(self._lease_id):
            raise Violation("lease-kept", f"{what} found no lease {self._lease_id}, which has not ended")

    # ---- calls --------------------------------------------------------------------------------------------------

    def _later(self, within_us: int, action: Callable[[], None]) -> None:
        def act() -> None:
            if not self._stopped:
                action()

        self._world.after(MS + self._rng.randrange(within_us), act)

    def _ask(
        self,
        method: frames.Method.ValueType,
        body: bytes,
        answered: Callable[[frames.Reply], None],
        failed: Callable[[errors.BoathouseError], None],
    ) -> None:
        access = COMMANDS[method].access
        is_write = access is Access.WRITE
        call = ShardCall(
            ShardId(self._cluster.shard),
            LEADER,
            access,
            method,
            TABLE_ID,
            body,
            deadline=self._coordinator.now_s() + TIMEOUT_S,
            request_id=self._ids.draw() if is_write else b"",
            linearizable=not is_write,
        )

        def ended(call: ShardCall) -> None:
            self._waits = False
            if self._stopped:
                return
            if call.error is not None:
                failed(call.error)
            else:
                assert call.reply is not None
                answered(call.reply)

        self._waits = True
        self._coordinator.ask(call, sent=lambda _node: None, ended=ended)
