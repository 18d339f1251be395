"""Every error that crosses a process boundary, defined once.

A class says three things that its reader needs to act: `frame_code`, its number in a Reply (never renumbered);
`definite`, whether the request certainly changed nothing (the question of Jepsen's error registry); and `retry`,
who may try again. The gRPC code and the exact text are each API's own and live in the coordinator's status tables.
"""

from __future__ import annotations

from proto.error_base import BoathouseError as BoathouseError
from proto.error_base import Retry as Retry

# ---- the caller's mistake ----------------------------------------------------------------------------------


class InvalidRequest(BoathouseError):
    """Base of what no retry can mend."""

    frame_code = 1


class MalformedRequest(InvalidRequest):
    """The body is no valid protobuf message of its type."""

    frame_code = 2


class EmptyKey(InvalidRequest):
    """A key is required."""

    frame_code = 3


class KeyNotFound(InvalidRequest):
    """Put with ignore_value or ignore_lease on a missing key, or a RequestOp with no request set."""

    frame_code = 4


class ValueProvided(InvalidRequest):
    """ignore_value came with a value."""

    frame_code = 5


class LeaseProvided(InvalidRequest):
    """ignore_lease came with a lease."""

    frame_code = 6


class TooManyOps(InvalidRequest):
    """A transaction has more operations than allowed."""

    frame_code = 7


class DuplicateKey(InvalidRequest):
    """A transaction puts a key twice, or puts and deletes it."""

    frame_code = 8


class RequestTooLarge(InvalidRequest):
    """The encoded request is over the limit."""

    frame_code = 9


class InvalidSortOption(InvalidRequest):
    """An unknown sort target came with a sort order."""

    frame_code = 10


class EmptyTable(InvalidRequest):
    """A Regatta request names no table."""

    frame_code = 11


class NegativeLimit(InvalidRequest):
    """A Regatta range asks for less than nothing."""

    frame_code = 12


class KeysOnlyAndCountOnly(InvalidRequest):
    """A Regatta range asks for both."""

    frame_code = 13


class KeyTooLong(InvalidRequest):
    """A Regatta key is over 1,024 bytes."""

    frame_code = 14


class ValueTooLong(InvalidRequest):
    """A Regatta value is over 2 MiB."""

    frame_code = 15


class InvalidRequestId(InvalidRequest):
    """The metadata boathouse-request-id is empty or too long."""

    frame_code = 16


class FilterNotSupported(InvalidRequest):
    """A Regatta revision filter, which upstream answers with UNIMPLEMENTED; `detail` is its field name."""

    frame_code = 17


class MessageTooLarge(InvalidRequest):
    """The message is over what the API takes at all; `detail` is "N vs. max", in bytes."""

    frame_code = 18


class AnswerTooLarge(InvalidRequest):
    """The answer would not fit into one message; the request must ask for less at a time."""

    frame_code = 19


class TooManyRows(InvalidRequest):
    """A write would visit more rows than one command may; `detail` says how many that is."""

    frame_code = 20


class RequestIdReused(InvalidRequestId):
    """The request id belongs to another request, which was applied; this one changed nothing."""

    frame_code = 21


class EmptyName(InvalidRequest):
    """A request of the Tables service names no table."""

    frame_code = 261


class TableExists(InvalidRequest):
    """There is a table of that name already."""

    frame_code = 262


class InvalidSettings(InvalidRequest):
    """A table can't be made that way: its name, its shard or another setting; `detail` says what is wrong."""

    frame_code = 263


# ---- absent ------------------------------------------------------------------------------------------------


class Absent(BoathouseError):
    """Base of what is not there."""

    frame_code = 30


class TableNotFound(Absent):
    """No table has this name, or this shard does not hold it."""

    frame_code = 31


class TableDeleted(TableNotFound):
    """The table that had this id was deleted: its shard refuses to make it again, for good."""

    frame_code = 260


class LeaseNotFound(Absent):
    """No lease has this id."""

    frame_code = 32


class CursorNotFound(Absent):
    """The cursor was closed, was idle for too long, or the worker restarted."""

    frame_code = 33
    retry = Retry.CALLER


class MethodNotServed(Absent):
    """This version does not serve the method."""

    frame_code = 34


# ---- too old, too new --------------------------------------------------------------------------------------


class OutOfRange(BoathouseError):
    """Base of revisions that cannot be read."""

    frame_code = 50


class Compacted(OutOfRange):
    """The revision was compacted away."""

    frame_code = 51


class FutureRevision(OutOfRange):
    """The revision does not exist yet."""

    frame_code = 52


# ---- no leader here ----------------------------------------------------------------------------------------


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


# ---- who belongs to a shard ----------------------------------------------------------------------------------


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


# ---- too busy, too full ------------------------------------------------------------------------------------


class QueueFull(BoathouseError):
    """A bounded queue is full; nothing was proposed."""

    frame_code = 120
    retry = Retry.CALLER


class NoSpace(BoathouseError):
    """The replica's disk is full; writes are refused, reads go on."""

    frame_code = 121
    retry = Retry.CALLER


class QuotaExceeded(NoSpace):
    """The table holds as much as it may; what makes it grow is refused until something is deleted and compacted."""

    frame_code = 242
    retry = Retry.CALLER


class TooManyCursors(BoathouseError):
    """All read cursors of the replica are in use."""

    frame_code = 122
    retry = Retry.CALLER


class ShardBusy(BoathouseError):
    """The requests that are to be applied together would keep the shard from answering; this one changed nothing."""

    frame_code = 123
    retry = Retry.CALLER


class UpgradeInProgress(BoathouseError):
    """A voter of the shard runs a version that cannot apply this request yet; nothing was proposed."""

    frame_code = 124
    retry = Retry.CALLER


# ---- downgrades ---------------------------------------------------------------------------------------------


class WrongVersionFormat(InvalidRequest):
    """The version to go back to is no version."""

    frame_code = 244


class InvalidDowngradeVersion(InvalidRequest):
    """A cluster goes back by one minor version, and to no other."""

    frame_code = 245


class NoDowngrade(InvalidRequest):
    """There is no downgrade under way that could be cancelled."""

    frame_code = 246


class UnknownAction(InvalidRequest):
    """The request asks for an action that has no such number."""

    frame_code = 247


# ---- nobody knows ------------------------------------------------------------------------------------------


class LeaderLost(BoathouseError):
    """The leader stepped down after it had proposed; the request may still be applied."""

    frame_code = 140
    definite = False
    retry = Retry.SAME_REQUEST_ID


class TimedOut(BoathouseError):
    """The server's time limit passed with the outcome unknown."""

    frame_code = 141
    definite = False
    retry = Retry.SAME_REQUEST_ID


class ReadTimedOut(BoathouseError):
    """A read could not be confirmed within the server's time limit."""

    frame_code = 142
    retry = Retry.CALLER


# ---- known, but not how it was answered ---------------------------------------------------------------------


class AnswerForgotten(BoathouseError):
    """The request was applied, exactly once; its answer is no longer kept, or was too large to keep."""

    frame_code = 150
    definite = False


# ---- our bug, a bad disk -----------------------------------------------------------------------------------


class InvariantBroken(BoathouseError):
    """boathouse has a bug; the worker stops rather than go on."""

    frame_code = 160
    definite = False


class Corrupt(BoathouseError):
    """Stored bytes fail their checksum or contradict each other, or another replica's; this one does not serve them."""

    frame_code = 161
    definite = False
    retry = Retry.OTHER_REPLICA


class CorruptAlarm(BoathouseError):
    """Somebody has raised the alarm CORRUPT for the table: it takes no writes until that is cleared."""

    frame_code = 243


class TableContradicted(BoathouseError):
    """The catalog says one thing of a table, and its shard another: whose data it is, is not known, and it is not
    served."""

    frame_code = 162


# ---- locks and elections: what etcd's own client library says, and nobody repeats ----------------------------


class SessionExpired(BoathouseError):
    """The lease of somebody who waited for a lock ran out."""

    frame_code = 180


class NoElectionLeader(BoathouseError):
    """Nobody has been elected under that name."""

    frame_code = 181


class NotElectionLeader(BoathouseError):
    """The key and revision that were given do not lead, or lead no longer."""

    frame_code = 182


class LeaderKeyMissing(BoathouseError):
    """Proclaim and Resign need the key that Campaign answered."""

    frame_code = 183


# ---- who may do what ---------------------------------------------------------------------------------------


class AuthError(BoathouseError):
    """Base of what users, roles and permissions are about."""

    frame_code = 210


class UserEmpty(AuthError):
    """The request needs a user and brought none, or a user without a name was to be made."""

    frame_code = 211


class InvalidAuthToken(AuthError):
    """The token is unknown, expired, or none at all."""

    frame_code = 212


class PermissionDenied(AuthError):
    """The user may not do this."""

    frame_code = 213


class AuthOldRevision(AuthError):
    """Users or permissions have changed since this request's user was looked at; who he is has to be proved anew."""

    frame_code = 214


class AuthNotEnabled(AuthError):
    """There is nothing to log in to."""

    frame_code = 215


class AuthFailed(AuthError):
    """No such user, or not his password."""

    frame_code = 216


class NoPasswordUser(AuthError):
    """The user was made without a password: he is known by his certificate."""

    frame_code = 217


class RootUserNotExist(AuthError):
    """Authentication needs a user root, or nobody could end it."""

    frame_code = 218


class RootRoleNotExist(AuthError):
    """As RootUserNotExist: user root needs the role root."""

    frame_code = 219


class UserAlreadyExist(AuthError):
    """The name is taken."""

    frame_code = 220


class UserNotFound(AuthError):
    """No user has this name."""

    frame_code = 221


class RoleAlreadyExist(AuthError):
    """The name is taken."""

    frame_code = 222


class RoleNotFound(AuthError):
    """No role has this name."""

    frame_code = 223


class RoleEmpty(AuthError):
    """A role needs a name."""

    frame_code = 224


class RoleNotGranted(AuthError):
    """The user does not have the role that is to be taken from him."""

    frame_code = 225


class PermissionNotGiven(AuthError):
    """A grant without a permission."""

    frame_code = 226


class PermissionNotGranted(AuthError):
    """The role has no permission on exactly this span."""

    frame_code = 227


class InvalidAuthMgmt(AuthError):
    """What would leave nobody in charge, or a permission on no keys at all."""

    frame_code = 228


class PasswordTooLong(AuthError):
    """bcrypt looks at 72 bytes and no further."""

    frame_code = 229


# ---- leases ---------------------------------------------------------------------------------------------------


class LeaseExists(InvalidRequest):
    """A lease was to be granted under an id that is in use."""

    frame_code = 200


class LeaseTTLTooLarge(InvalidRequest):
    """A lease was to live for longer than any may."""

    frame_code = 201


# ---- tables that copy another cluster's ---------------------------------------------------------------------


class TableReplicated(BoathouseError):
    """The table copies one of the leader cluster, which alone takes its writes; `detail` says where that is."""

    frame_code = 300


class ReplicationRefused(BoathouseError):
    """Base of why changes of the leader cluster's table were not applied; the copy is as it was."""

    frame_code = 301


class OtherOrigin(ReplicationRefused):
    """They are changes of another table than the one that this one copies."""

    frame_code = 302


class ReplicationGap(ReplicationRefused):
    """They do not begin where the copy ends; it has to be told from there on."""

    frame_code = 303


class Diverged(ReplicationRefused):
    """They do not fit what the copy holds: it has to be replaced by a snapshot."""

    frame_code = 304


class SnapshotInterrupted(ReplicationRefused):
    """The part is not the next one of the snapshot that is being taken over: that has to begin anew."""

    frame_code = 305


class NoLeaderIndex(InvalidRequest):
    """A follower cluster asked for the log from index 0 on; the first one is 1."""

    frame_code = 306


class SnapshotUnavailable(BoathouseError):
    """A follower cluster asked for a snapshot that can't be had; `detail` names the table, and says why."""

    frame_code = 307


class BadReplicationToken(BoathouseError):
    """A follower cluster showed no token that this cluster knows; `detail` names the metadata that it belongs in."""

    frame_code = 308


class RestoreRefused(InvalidRequest):
    """What should be restored no table can have held, or its backup says otherwise; the table is as it was."""

    frame_code = 370


class RestoreInterrupted(BoathouseError):
    """What came is not the rest of what is being restored; the table is as it was, and has to be restored anew."""

    frame_code = 371


class BackupOutdated(BoathouseError):
    """What has changed since an earlier backup can't be told any more; `detail` says why. A full one can be made."""

    frame_code = 372


class NoRestoreInfo(InvalidRequest):
    """A restore began with something else than the name of its table."""

    frame_code = 373


class NoRestoreChunk(InvalidRequest):
    """Something else than a piece of the backup came in the middle of it."""

    frame_code = 374


class BearerMissing(BoathouseError):
    """The API of who runs the cluster needs a token, as `authorization: Bearer TOKEN`; none was shown."""

    frame_code = 375


class BadAuthorization(BearerMissing):
    """What was shown is no scheme with a token behind it."""

    frame_code = 376


class WrongBearer(BearerMissing):
    """The token that was shown is another one."""

    frame_code = 377


class Unguarded(BearerMissing):
    """Others can reach this cluster, and nothing tells who may run it; `detail` says what to write where."""

    frame_code = 378


# ---- tables that move to another shard ------------------------------------------------------------------------


class TableAway(BoathouseError):
    """Base of why a shard does not serve a table that the cluster has; nobody remembers such an answer."""

    frame_code = 310


class TableElsewhere(TableAway):
    """Another shard serves the table, or is about to; `detail` is its number."""

    frame_code = 311
    retry = Retry.OTHER_SHARD


class TableArriving(TableAway):
    """The table is on its way to this shard, and is served in a moment."""

    frame_code = 312
    retry = Retry.SOON


class MoveRefused(InvalidRequest):
    """A step of a move that does not fit what the shard knows of it; `detail` says why."""

    frame_code = 313


def _concrete(base: type[BoathouseError]) -> dict[int, type[BoathouseError]]:
    found: dict[int, type[BoathouseError]] = {}
    for cls in base.__subclasses__():
        assert cls.frame_code not in found, f"frame code {cls.frame_code} is taken twice"
        found[cls.frame_code] = cls
        found.update(_concrete(cls))
    return found


BY_FRAME_CODE: dict[int, type[BoathouseError]] = _concrete(BoathouseError)
"""All error classes by the number that a Reply carries."""


def from_frame(frame_code: int, detail: str) -> BoathouseError:
    """The error that a Reply with this code and detail stands for.

    Raises InvariantBroken for a number that this version does not know."""
    try:
        return BY_FRAME_CODE[frame_code](detail)
    except KeyError:
        raise InvariantBroken(f"a reply carries the unknown error code {frame_code}: {detail}") from None
