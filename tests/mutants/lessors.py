"""Known bugs of who counts the time of leases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proto.internal import frames_pb2 as frames
from shardworker.replica.admission import Admission
from shardworker.replica.deadlines import Deadlines, Key
from shardworker.replica.lease_checkpoints import LeaseCheckpoints
from shardworker.replica.leases import LeaseClock

if TYPE_CHECKING:
    from shardworker.machine.leases import Lease


class CountsOn(LeaseClock):
    """Whoever leads again ends leases by what it counted before it was deposed."""

    def _notice_leadership(self) -> None:
        super()._notice_leadership()
        self._deadlines.restart = lambda: None  # type: ignore[method-assign]


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
