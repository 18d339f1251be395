"""What an error looks like from outside: one table per API, read by one function.

A row holds for a class and all below it that have none of their own. Texts are each API's own, byte for byte, because
etcd's Go client recognises an error by its text alone. Where an API has no such error the text says what happened, to
what, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from proto import errors
from proto.codes import Code


class Row(NamedTuple):
    """A gRPC code and the text beside it, in which {detail} stands for the error's own."""

    code: Code
    text: str


Table = Mapping[type[errors.BoathouseError], Row]

ETCD: Final[Table] = {
    errors.InvalidRequest: Row(Code.INVALID_ARGUMENT, "etcdserver: invalid request: {detail}"),
    errors.MalformedRequest: Row(Code.INTERNAL, "grpc: error unmarshalling request: {detail}"),
    errors.MessageTooLarge: Row(Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max ({detail})"),
    errors.EmptyKey: Row(Code.INVALID_ARGUMENT, "etcdserver: key is not provided"),
    errors.KeyNotFound: Row(Code.INVALID_ARGUMENT, "etcdserver: key not found"),
    errors.ValueProvided: Row(Code.INVALID_ARGUMENT, "etcdserver: value is provided"),
    errors.LeaseProvided: Row(Code.INVALID_ARGUMENT, "etcdserver: lease is provided"),
    errors.TooManyOps: Row(Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"),
    errors.DuplicateKey: Row(Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
    errors.RequestTooLarge: Row(Code.INVALID_ARGUMENT, "etcdserver: request is too large"),
    errors.InvalidSortOption: Row(Code.INVALID_ARGUMENT, "etcdserver: invalid sort option"),
    errors.AnswerTooLarge: Row(Code.RESOURCE_EXHAUSTED, "etcdserver: answer is too large: {detail}"),
    errors.TooManyRows: Row(Code.RESOURCE_EXHAUSTED, "etcdserver: request visits too many keys: {detail}"),
    errors.InvalidRequestId: Row(Code.INVALID_ARGUMENT, "etcdserver: {detail}, must be 1 to 128"),
    errors.RequestIdReused: Row(
        Code.INVALID_ARGUMENT, "etcdserver: boathouse-request-id belongs to another request"
    ),
    errors.Absent: Row(Code.NOT_FOUND, "etcdserver: not found: {detail}"),
    errors.TableNotFound: Row(Code.NOT_FOUND, "etcdserver: table not found"),
    errors.TableDeleted: Row(Code.NOT_FOUND, "etcdserver: table not found"),
    errors.LeaseNotFound: Row(Code.NOT_FOUND, "etcdserver: requested lease not found"),
    errors.LeaseExists: Row(Code.FAILED_PRECONDITION, "etcdserver: lease already exists"),
    errors.LeaseTTLTooLarge: Row(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL"),
    errors.CursorNotFound: Row(Code.UNAVAILABLE, "etcdserver: leader changed"),
    errors.MethodNotServed: Row(Code.UNIMPLEMENTED, "{detail}"),
    errors.OutOfRange: Row(Code.OUT_OF_RANGE, "etcdserver: mvcc: {detail}"),
    errors.Compacted: Row(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"),
    errors.FutureRevision: Row(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"),
    errors.NotLeader: Row(Code.UNAVAILABLE, "etcdserver: leader changed"),
    errors.NoLeader: Row(Code.UNAVAILABLE, "etcdserver: no leader"),
    errors.ShuttingDown: Row(Code.UNAVAILABLE, "etcdserver: server stopped"),
    errors.NoSuccessor: Row(Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee"),
    errors.BadTransferee: Row(Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee"),
    errors.MemberNotLeader: Row(Code.FAILED_PRECONDITION, "etcdserver: not leader"),
    errors.TransferTooSlow: Row(Code.UNKNOWN, "etcdserver: request timed out, leader transfer took too long"),
    errors.WrongVersionFormat: Row(
        Code.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"
    ),
    errors.InvalidDowngradeVersion: Row(
        Code.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"
    ),
    errors.NoDowngrade: Row(Code.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job"),
    errors.UnknownAction: Row(Code.UNKNOWN, "etcdserver: unknown method"),
    errors.MembershipError: Row(
        Code.FAILED_PRECONDITION, "etcdserver: the membership cannot be changed so: {detail}"
    ),
    errors.MemberExists: Row(Code.FAILED_PRECONDITION, "etcdserver: member ID already exist"),
    errors.PeerUrlExists: Row(Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"),
    # The one that etcd lists as FAILED_PRECONDITION and sends as UNKNOWN.
    errors.NotEnoughStarted: Row(
        Code.UNKNOWN, "etcdserver: re-configuration failed due to not enough started members"
    ),
    errors.Unhealthy: Row(Code.UNAVAILABLE, "etcdserver: unhealthy cluster"),
    errors.BadMemberUrls: Row(Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid"),
    errors.MemberNotFound: Row(Code.NOT_FOUND, "etcdserver: member not found"),
    errors.MemberNotLearner: Row(Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member"),
    errors.LearnerNotReady: Row(
        Code.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader",
    ),
    errors.TooManyLearners: Row(Code.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"),
    errors.ChangeUnderWay: Row(Code.UNAVAILABLE, "etcdserver: another change of the membership is under way"),
    errors.CorruptAlarm: Row(Code.DATA_LOSS, "etcdserver: corrupt cluster"),
    errors.QueueFull: Row(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    # Whoever logs in anew has to come again, which clients do for no other code.
    errors.TooManyLogins: Row(Code.UNAVAILABLE, "etcdserver: too many passwords are being checked"),
    errors.NoSpace: Row(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    errors.QuotaExceeded: Row(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    errors.TooManyCursors: Row(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    errors.ShardBusy: Row(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    # As an etcd server answers what its cluster's version does not have yet.
    errors.UpgradeInProgress: Row(
        Code.UNAVAILABLE, "etcdserver: not supported yet by every member: {detail}"
    ),
    # What the client asked for exists, once. No client repeats a request over this code.
    errors.AnswerForgotten: Row(
        Code.ALREADY_EXISTS, "etcdserver: the request was applied before, and its answer is no longer kept"
    ),
    # The fate of these is unknown. UNAVAILABLE with a text that etcd's Go client does not repeat writes for; it
    # would repeat them for CANCELLED and DEADLINE_EXCEEDED.
    errors.LeaderLost: Row(
        Code.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure"
    ),
    errors.TimedOut: Row(Code.UNAVAILABLE, "etcdserver: request timed out"),
    errors.ReadTimedOut: Row(Code.UNAVAILABLE, "etcdserver: request timed out"),
    errors.InvariantBroken: Row(Code.INTERNAL, "boathouse: internal error: {detail}"),
    errors.Corrupt: Row(Code.DATA_LOSS, "etcdserver: corrupt cluster"),
    errors.TableContradicted: Row(Code.DATA_LOSS, "etcdserver: corrupt cluster: {detail}"),
    errors.AuthError: Row(Code.FAILED_PRECONDITION, "etcdserver: {detail}"),
    errors.UserEmpty: Row(Code.INVALID_ARGUMENT, "etcdserver: user name is empty"),
    errors.InvalidAuthToken: Row(Code.UNAUTHENTICATED, "etcdserver: invalid auth token"),
    errors.PermissionDenied: Row(Code.PERMISSION_DENIED, "etcdserver: permission denied"),
    errors.AuthOldRevision: Row(Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"),
    errors.AuthNotEnabled: Row(Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"),
    errors.AuthFailed: Row(
        Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"
    ),
    # The one that etcd forgot to translate.
    errors.NoPasswordUser: Row(
        Code.UNKNOWN, "auth: authentication failed, password was given for no password user"
    ),
    errors.RootUserNotExist: Row(Code.FAILED_PRECONDITION, "etcdserver: root user does not exist"),
    errors.RootRoleNotExist: Row(Code.FAILED_PRECONDITION, "etcdserver: root user does not have root role"),
    errors.UserAlreadyExist: Row(Code.FAILED_PRECONDITION, "etcdserver: user name already exists"),
    errors.UserNotFound: Row(Code.FAILED_PRECONDITION, "etcdserver: user name not found"),
    errors.RoleAlreadyExist: Row(Code.FAILED_PRECONDITION, "etcdserver: role name already exists"),
    errors.RoleNotFound: Row(Code.FAILED_PRECONDITION, "etcdserver: role name not found"),
    errors.RoleEmpty: Row(Code.INVALID_ARGUMENT, "etcdserver: role name is empty"),
    errors.RoleNotGranted: Row(Code.FAILED_PRECONDITION, "etcdserver: role is not granted to the user"),
    errors.PermissionNotGiven: Row(Code.INVALID_ARGUMENT, "etcdserver: permission not given"),
    errors.PermissionNotGranted: Row(
        Code.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role"
    ),
    errors.InvalidAuthMgmt: Row(Code.INVALID_ARGUMENT, "etcdserver: invalid auth management"),
    errors.PasswordTooLong: Row(Code.INVALID_ARGUMENT, "etcdserver: a password has at most 72 bytes"),
    errors.SnapshotUnavailable: Row(Code.UNAVAILABLE, "etcdserver: unable to stream from table {detail}"),
    errors.TablesUnknown: Row(Code.UNAVAILABLE, "etcdserver: not all tables are known: {detail}"),
    errors.OtherCluster: Row(Code.FAILED_PRECONDITION, "etcdserver: this is another cluster: {detail}"),
    errors.BadReplicationToken: Row(
        Code.UNAUTHENTICATED, "etcdserver: replication needs a token, in metadata {detail}"
    ),
    errors.TableReplicated: Row(
        Code.FAILED_PRECONDITION, "etcdserver: table is replicated from another cluster: {detail}"
    ),
    errors.ReplicationRefused: Row(Code.FAILED_PRECONDITION, "etcdserver: changes are not applied: {detail}"),
    errors.OtherOrigin: Row(Code.FAILED_PRECONDITION, "etcdserver: changes of another table: {detail}"),
    errors.ReplicationGap: Row(Code.FAILED_PRECONDITION, "etcdserver: changes are missing: {detail}"),
    errors.Diverged: Row(Code.FAILED_PRECONDITION, "etcdserver: copy has diverged: {detail}"),
    errors.SnapshotInterrupted: Row(
        Code.FAILED_PRECONDITION, "etcdserver: snapshot was interrupted: {detail}"
    ),
    errors.RestoreRefused: Row(Code.INVALID_ARGUMENT, "etcdserver: can't be restored: {detail}"),
    errors.RestoreInterrupted: Row(Code.FAILED_PRECONDITION, "etcdserver: restore was interrupted: {detail}"),
    errors.BackupOutdated: Row(Code.FAILED_PRECONDITION, "etcdserver: backup is outdated: {detail}"),
    errors.BearerMissing: Row(Code.UNAUTHENTICATED, "etcdserver: no token of who runs the cluster"),
    # A client sees these only if a table moves on faster than its request follows.
    errors.TableAway: Row(Code.UNAVAILABLE, "etcdserver: table is moving to another shard"),
    errors.TableElsewhere: Row(Code.UNAVAILABLE, "etcdserver: table has moved to shard {detail}"),
    errors.TableArriving: Row(Code.UNAVAILABLE, "etcdserver: table is arriving"),
    errors.MoveRefused: Row(Code.FAILED_PRECONDITION, "boathouse: table is not moved: {detail}"),
    errors.InvalidSettings: Row(Code.INVALID_ARGUMENT, "boathouse: {detail}"),
    errors.EmptyName: Row(Code.INVALID_ARGUMENT, "boathouse: table is not named"),
}

ETCD_ADMIN: Final[Table] = {
    # etcd's Defragment, Hash, HashKV and Snapshot tell what the store of users says as it is.
    **ETCD,
    errors.UserEmpty: Row(Code.UNKNOWN, "auth: user name is empty"),
    errors.UserNotFound: Row(Code.UNKNOWN, "auth: user not found"),
    errors.PermissionDenied: Row(Code.UNKNOWN, "auth: permission denied"),
    errors.InvalidAuthToken: Row(Code.UNKNOWN, "auth: invalid auth token"),
    errors.AuthOldRevision: Row(Code.UNKNOWN, "auth: revision in header is old"),
}

ETCD_CONCURRENCY: Final[Table] = {
    # etcd's Lock and Election run over a client inside the server, and whatever that client reports leaves as UNKNOWN.
    **{error: Row(Code.UNKNOWN, row.text) for error, row in ETCD.items()},
    # But for what the server says by itself: before anything is run, when it stops, and to who insists on a leader.
    **{
        error: ETCD[error]
        for error in (
            errors.MalformedRequest,
            errors.MessageTooLarge,
            errors.MethodNotServed,
            errors.ShuttingDown,
            errors.NoLeader,
        )
    },
    errors.SessionExpired: Row(Code.UNKNOWN, "mutex: session is expired"),
    errors.NoElectionLeader: Row(Code.UNKNOWN, "election: no leader"),
    errors.NotElectionLeader: Row(Code.UNKNOWN, "election: not leader"),
    errors.LeaderKeyMissing: Row(Code.UNKNOWN, '"leader" field must be provided'),
}

REGATTA: Final[Table] = {
    errors.InvalidRequest: Row(Code.INVALID_ARGUMENT, "invalid request: {detail}"),
    errors.MalformedRequest: Row(Code.INTERNAL, "grpc: error unmarshalling request: {detail}"),
    errors.MessageTooLarge: Row(Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max ({detail})"),
    errors.EmptyKey: Row(Code.INVALID_ARGUMENT, "key must be set"),
    errors.EmptyTable: Row(Code.INVALID_ARGUMENT, "table must be set"),
    errors.NegativeLimit: Row(Code.INVALID_ARGUMENT, "limit must be a positive number"),
    errors.KeysOnlyAndCountOnly: Row(
        Code.INVALID_ARGUMENT, "keys_only and count_only must not be set at the same time"
    ),
    errors.KeyTooLong: Row(Code.FAILED_PRECONDITION, "key length exceeded max allowed value"),
    errors.ValueTooLong: Row(Code.FAILED_PRECONDITION, "value length exceeded max allowed value"),
    errors.RequestTooLarge: Row(Code.FAILED_PRECONDITION, "payload is too big"),
    errors.FilterNotSupported: Row(Code.UNIMPLEMENTED, "{detail} not implemented"),
    errors.AnswerTooLarge: Row(Code.RESOURCE_EXHAUSTED, "answer is too large: {detail}"),
    errors.TooManyRows: Row(Code.RESOURCE_EXHAUSTED, "request visits too many keys: {detail}"),
    errors.InvalidRequestId: Row(Code.INVALID_ARGUMENT, "{detail}, must be 1 to 128"),
    errors.RequestIdReused: Row(Code.INVALID_ARGUMENT, "boathouse-request-id belongs to another request"),
    errors.Absent: Row(Code.NOT_FOUND, "not found: {detail}"),
    errors.TableNotFound: Row(Code.NOT_FOUND, "table not found"),
    errors.TableDeleted: Row(Code.NOT_FOUND, "table not found"),
    errors.EmptyName: Row(Code.INVALID_ARGUMENT, "name must be set"),
    errors.TableExists: Row(Code.INVALID_ARGUMENT, "table already exists"),
    errors.InvalidSettings: Row(Code.INVALID_ARGUMENT, "{detail}"),
    errors.CursorNotFound: Row(Code.UNAVAILABLE, "request aborted"),
    errors.MethodNotServed: Row(Code.UNIMPLEMENTED, "{detail}"),
    errors.OutOfRange: Row(Code.OUT_OF_RANGE, "{detail}"),
    errors.Compacted: Row(Code.OUT_OF_RANGE, "required revision has been compacted"),
    errors.FutureRevision: Row(Code.OUT_OF_RANGE, "required revision is a future revision"),
    errors.NotLeader: Row(Code.UNAVAILABLE, "request dropped as the shard is not ready"),
    errors.NoLeader: Row(Code.UNAVAILABLE, "request dropped as the shard is not ready"),
    errors.ShuttingDown: Row(Code.UNAVAILABLE, "raft shard already closed"),
    errors.NoSuccessor: Row(Code.FAILED_PRECONDITION, "no other replica can take over"),
    errors.BadTransferee: Row(Code.FAILED_PRECONDITION, "no voter of the shard"),
    errors.TransferTooSlow: Row(Code.UNAVAILABLE, "leader transfer took too long"),
    errors.MembershipError: Row(Code.FAILED_PRECONDITION, "the membership cannot be changed so: {detail}"),
    errors.CorruptAlarm: Row(Code.DATA_LOSS, "the table is marked as corrupt"),
    errors.QuotaExceeded: Row(Code.RESOURCE_EXHAUSTED, "database space exceeded"),
    errors.QueueFull: Row(Code.UNAVAILABLE, "system is too busy try again later"),
    errors.NoSpace: Row(Code.RESOURCE_EXHAUSTED, "database space exceeded"),
    errors.TooManyCursors: Row(Code.UNAVAILABLE, "system is too busy try again later"),
    errors.ShardBusy: Row(Code.UNAVAILABLE, "system is too busy try again later"),
    errors.UpgradeInProgress: Row(Code.UNAVAILABLE, "not supported yet by every replica: {detail}"),
    errors.AnswerForgotten: Row(
        Code.ALREADY_EXISTS, "the request was applied before, and its answer is no longer kept"
    ),
    errors.LeaderLost: Row(Code.UNAVAILABLE, "timeout"),
    errors.TimedOut: Row(Code.UNAVAILABLE, "timeout"),
    errors.ReadTimedOut: Row(Code.UNAVAILABLE, "timeout"),
    errors.InvariantBroken: Row(Code.INTERNAL, "internal error: {detail}"),
    errors.Corrupt: Row(Code.DATA_LOSS, "corrupt data: {detail}"),
    errors.TableContradicted: Row(Code.DATA_LOSS, "{detail}"),
    errors.AuthError: Row(Code.FAILED_PRECONDITION, "{detail}"),
    errors.UserEmpty: Row(Code.UNAUTHENTICATED, "this table needs a token, in the metadata authorization"),
    errors.InvalidAuthToken: Row(Code.UNAUTHENTICATED, "invalid auth token"),
    errors.PermissionDenied: Row(Code.PERMISSION_DENIED, "permission denied"),
    errors.AuthOldRevision: Row(Code.UNAUTHENTICATED, "users or permissions have changed: get a new token"),
    errors.NoLeaderIndex: Row(
        Code.INVALID_ARGUMENT, "invalid leaderIndex: leaderIndex must be greater than 0"
    ),
    errors.SnapshotUnavailable: Row(Code.UNAVAILABLE, "unable to stream from table {detail}"),
    errors.TablesUnknown: Row(Code.UNAVAILABLE, "not all tables are known: {detail}"),
    errors.OtherCluster: Row(Code.FAILED_PRECONDITION, "this is another cluster: {detail}"),
    errors.BadReplicationToken: Row(Code.UNAUTHENTICATED, "replication needs a token, in metadata {detail}"),
    errors.TableReplicated: Row(
        Code.FAILED_PRECONDITION, "table is replicated from another cluster: {detail}"
    ),
    errors.ReplicationRefused: Row(Code.FAILED_PRECONDITION, "changes are not applied: {detail}"),
    errors.OtherOrigin: Row(Code.FAILED_PRECONDITION, "changes of another table: {detail}"),
    errors.ReplicationGap: Row(Code.FAILED_PRECONDITION, "changes are missing: {detail}"),
    errors.Diverged: Row(Code.FAILED_PRECONDITION, "copy has diverged: {detail}"),
    errors.SnapshotInterrupted: Row(Code.FAILED_PRECONDITION, "snapshot was interrupted: {detail}"),
    errors.RestoreRefused: Row(Code.INVALID_ARGUMENT, "the backup can't be restored: {detail}"),
    errors.RestoreInterrupted: Row(Code.FAILED_PRECONDITION, "the restore was interrupted: {detail}"),
    errors.BackupOutdated: Row(Code.FAILED_PRECONDITION, "the earlier backup is outdated: {detail}"),
    errors.NoRestoreInfo: Row(Code.INVALID_ARGUMENT, "first message should contain info"),
    errors.NoRestoreChunk: Row(Code.INVALID_ARGUMENT, "chunk expected"),
    errors.BearerMissing: Row(Code.UNAUTHENTICATED, "Request unauthenticated with bearer"),
    errors.BadAuthorization: Row(Code.UNAUTHENTICATED, "Bad authorization string"),
    errors.WrongBearer: Row(Code.UNAUTHENTICATED, "Invalid token"),
    errors.Unguarded: Row(Code.UNAUTHENTICATED, "{detail}"),
    errors.TableAway: Row(Code.UNAVAILABLE, "table is moving to another shard"),
    errors.TableElsewhere: Row(Code.UNAVAILABLE, "table has moved to shard {detail}"),
    errors.TableArriving: Row(Code.UNAVAILABLE, "table is arriving"),
    errors.MoveRefused: Row(Code.FAILED_PRECONDITION, "table is not moved: {detail}"),
}

REGATTA_TABLES: Final[Table] = {
    # Create and Delete answer a shard in trouble with FAILED_PRECONDITION, where every other method of Regatta says
    # UNAVAILABLE, and an unknown table with INVALID_ARGUMENT.
    **{
        error: Row(Code.FAILED_PRECONDITION, row.text)
        if row.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
        else row
        for error, row in REGATTA.items()
    },
    errors.TableNotFound: Row(Code.INVALID_ARGUMENT, "table not found"),
    errors.TableDeleted: Row(Code.INVALID_ARGUMENT, "table not found"),
    errors.MessageTooLarge: REGATTA[errors.MessageTooLarge],
    # From a coordinator that stops: another one serves the call.
    errors.ShuttingDown: REGATTA[errors.ShuttingDown],
}

GRPC: Final[Table] = {
    errors.BoathouseError: Row(Code.UNAVAILABLE, "{detail}"),
    errors.InvalidRequest: Row(Code.INVALID_ARGUMENT, "{detail}"),
    errors.MalformedRequest: Row(Code.INTERNAL, "grpc: error unmarshalling request: {detail}"),
    errors.MessageTooLarge: Row(Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max ({detail})"),
    errors.Absent: Row(Code.NOT_FOUND, "{detail}"),
    errors.MethodNotServed: Row(Code.UNIMPLEMENTED, "{detail}"),
    errors.ShuttingDown: Row(Code.UNAVAILABLE, "the server is stopping"),
    errors.QueueFull: Row(Code.RESOURCE_EXHAUSTED, "the server is too busy, try again later"),
    errors.InvariantBroken: Row(Code.INTERNAL, "internal error: {detail}"),
}
"""Of gRPC's own services, which touch no shard."""


def find_row(table: Table, error_class: type[errors.BoathouseError]) -> Row:
    """The row of the nearest class that has one, along the method resolution order."""
    for cls in error_class.__mro__:
        row = table.get(cls)
        if row is not None:
            return row
    raise AssertionError(f"{error_class.__name__} has no row")


def to_status(table: Table, error: errors.BoathouseError) -> Row:
    """The code and the finished text for an error."""
    row = find_row(table, type(error))
    return Row(row.code, row.text.replace("{detail}", error.detail))


def from_status(table: Table, code: Code, text: str) -> errors.BoathouseError | None:
    """The error that to_status() made this of, or one that looks the same from outside; None if there is none. Of
    several, that of the row which says most by itself."""
    best: tuple[int, errors.BoathouseError] | None = None
    for cls, row in table.items():
        head, detail, tail = row.text.partition("{detail}")
        if row.code is not code or not text.startswith(head) or not text.endswith(tail):
            continue
        said = len(head) + len(tail)
        fits = 0 < said <= len(text) if detail else text == head
        if fits and (best is None or said > best[0]):
            best = said, cls(text[len(head) : len(text) - len(tail)]) if detail else cls()
    return None if best is None else best[1]
