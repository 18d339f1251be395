"""Known bugs of who counts the time of leases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from shardworker.replica.admission import Admission
from shardworker.replica.deadlines import Deadlines, Key
from shardworker.replica.lease_checkpoints import LeaseCheckpoints
from shardworker.replica.leases import LeaseClock, _Waiter

if TYPE_CHECKING:
    from shardworker.machine.leases import Lease


class CountsOn(LeaseClock):
    """Whoever leads again ends leases by what it counted before it was deposed."""

    def _notice_leadership(self) -> None:
        super()._notice_leadership()
        self._deadlines.restart = lambda: None  # type: ignore[method-assign]


class KnowsItsOwnAlone(LeaseClock):
    """Who leads renews what was granted since, and tells the holders of all else that it is gone."""

    _since = 0
    """The index that it had applied when it noticed that it leads."""

    def _notice_leadership(self) -> None:
        before = self._led_term
        super()._notice_leadership()
        if self._led_term != before:
            self._since = self._store.applied_index

    def _keep_alive(self, identity: bytes, request: frames.Request) -> None:
        key = (self.table(request).id, rpc_pb2.LeaseKeepAliveRequest.FromString(request.body).ID)
        lease = self._machine.leases.get(*key)
        if lease is not None and lease.granted_at <= self._since:
            self._answer_gone(_Waiter(identity, request.call), key)
        else:
            super()._keep_alive(identity, request)


class TakesRenewalsOnTrust(Admission):
    """A keep-alive is answered by whoever takes himself for the leader."""

    def _route(self, identity: bytes, request: frames.Request) -> None:
        if request.method != frames.LEASE_KEEP_ALIVE:
            super()._route(identity, request)
            return
        self._leadership.check_leads()
        request.linearizable = False
        self._reads.admit(identity, request)


class RenewsOnTrust(LeaseCheckpoints):
    """A renewal is answered although the next leader knows of less."""

    def is_whole(self, key: Key, lease: Lease) -> bool:
        return True


class WritesNothingDown(LeaseCheckpoints):
    """The next leader has to begin anew."""

    def take_before_hand_over(self) -> dict[int, frames.LeaseCheckpoints]:
        return {}


class TellsAtOnce(Deadlines):
    """What is left goes back to what it was when the loss was written down, however long ago that was proposed."""

    def _settle(self, timer: Any) -> None:
        pass
