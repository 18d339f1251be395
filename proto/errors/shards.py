"""Shards: who leads one, and who belongs to it."""

from __future__ import annotations

from proto.errors.base import BoathouseError, Retry
from proto.errors.requests import InvalidRequest


class NotLeader(BoathouseError):
    """This replica does not lead its shard; Reply.leader may. Raft thesis, chapter 6."""

    frame_code = 103
    retry = Retry.OTHER_REPLICA


class NoLeader(BoathouseError):
    """The shard has no leader now; nothing was proposed."""

    frame_code = 104
    retry = Retry.CALLER


class ShuttingDown(BoathouseError):
    """The worker is stopping and takes no new requests."""

    frame_code = 105
    retry = Retry.OTHER_REPLICA


class NoSuccessor(BoathouseError):
    """No other voter answers: nobody can take over, and this replica goes on leading."""

    frame_code = 106
    retry = Retry.CALLER


class BadTransferee(BoathouseError):
    """Leadership was to go to a node that has no replica of the shard, or one that does not vote."""

    frame_code = 107


class MemberNotLeader(InvalidRequest):
    """Only the member that leads can do this, and this one does not."""

    frame_code = 240


class TransferTooSlow(BoathouseError):
    """The member that was to lead did not take over in time; the old leader goes on, or another was elected."""

    frame_code = 241
    definite = False


class MembershipError(BoathouseError):
    """The membership cannot be changed in this way."""

    frame_code = 400


class MemberExists(MembershipError):
    """There is such a member already, and it is another one."""

    frame_code = 401


class PeerUrlExists(MembershipError):
    """Another member is reached at this address."""

    frame_code = 402


class NotEnoughStarted(MembershipError):
    """Of the voters that there would be, too few have answered lately: the shard would lose its quorum."""

    frame_code = 403


class BadMemberUrls(InvalidRequest):
    """A member is added without a usable peer URL."""

    frame_code = 404


class MemberNotFound(MembershipError):
    """There is no such member, or there is none any more."""

    frame_code = 405


class MemberNotLearner(MembershipError):
    """It votes already."""

    frame_code = 406


class LearnerNotReady(MembershipError):
    """The learner lacks too much of what the leader has."""

    frame_code = 407


class TooManyLearners(MembershipError):
    """There is a learner already."""

    frame_code = 408


class ChangeUnderWay(MembershipError):
    """Another change has to take effect first; nothing was proposed."""

    frame_code = 409
    retry = Retry.CALLER


class Unhealthy(MembershipError):
    """A voter is out of reach that the change would need."""

    frame_code = 410
