"""The numbers of errors, which Replies and remembered results carry.

A row is never given to another error. The row of one that is gone stays, so that no new one gets its number.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = """
      1 InvalidRequest
      2 MalformedRequest
      3 EmptyKey
      4 KeyNotFound
      5 ValueProvided
      6 LeaseProvided
      7 TooManyOps
      8 DuplicateKey
      9 RequestTooLarge
     10 InvalidSortOption
     11 EmptyTable
     12 NegativeLimit
     13 KeysOnlyAndCountOnly
     14 KeyTooLong
     15 ValueTooLong
     16 InvalidRequestId
     17 FilterNotSupported
     18 MessageTooLarge
     19 AnswerTooLarge
     20 TooManyRows
     21 RequestIdReused
     30 Absent
     31 TableNotFound
     32 LeaseNotFound
     33 CursorNotFound
     34 MethodNotServed
     50 OutOfRange
     51 Compacted
     52 FutureRevision
    103 NotLeader
    104 NoLeader
    105 ShuttingDown
    106 NoSuccessor
    107 BadTransferee
    120 QueueFull
    121 NoSpace
    122 TooManyCursors
    123 ShardBusy
    124 UpgradeInProgress
    125 TooManyLogins
    140 LeaderLost
    141 TimedOut
    142 ReadTimedOut
    150 AnswerForgotten
    160 InvariantBroken
    161 Corrupt
    162 TableContradicted
    180 SessionExpired
    181 NoElectionLeader
    182 NotElectionLeader
    183 LeaderKeyMissing
    200 LeaseExists
    201 LeaseTTLTooLarge
    210 AuthError
    211 UserEmpty
    212 InvalidAuthToken
    213 PermissionDenied
    214 AuthOldRevision
    215 AuthNotEnabled
    216 AuthFailed
    217 NoPasswordUser
    218 RootUserNotExist
    219 RootRoleNotExist
    220 UserAlreadyExist
    221 UserNotFound
    222 RoleAlreadyExist
    223 RoleNotFound
    224 RoleEmpty
    225 RoleNotGranted
    226 PermissionNotGiven
    227 PermissionNotGranted
    228 InvalidAuthMgmt
    229 PasswordTooLong
    240 MemberNotLeader
    241 TransferTooSlow
    242 QuotaExceeded
    243 CorruptAlarm
    244 WrongVersionFormat
    245 InvalidDowngradeVersion
    246 NoDowngrade
    247 UnknownAction
    260 TableDeleted
    261 EmptyName
    262 TableExists
    263 InvalidSettings
    300 TableReplicated
    301 ReplicationRefused
    302 OtherOrigin
    303 ReplicationGap
    304 Diverged
    305 SnapshotInterrupted
    306 NoLeaderIndex
    307 SnapshotUnavailable
    308 BadReplicationToken
    310 TableAway
    311 TableElsewhere
    312 TableArriving
    313 MoveRefused
    320 TablesUnknown
    321 OtherCluster
    370 RestoreRefused
    371 RestoreInterrupted
    372 BackupOutdated
    373 NoRestoreInfo
    374 NoRestoreChunk
    375 BearerMissing
    376 BadAuthorization
    377 WrongBearer
    378 Unguarded
    400 MembershipError
    401 MemberExists
    402 PeerUrlExists
    403 NotEnoughStarted
    404 BadMemberUrls
    405 MemberNotFound
    406 MemberNotLearner
    407 LearnerNotReady
    408 TooManyLearners
    409 ChangeUnderWay
    410 Unhealthy
"""


def numbered() -> dict[str, int]:
    return {name: int(number) for number, name in (row.split() for row in NUMBERS.split("\n") if row)}


def below(base: type[errors.BoathouseError]) -> Iterator[type[errors.BoathouseError]]:
    for cls in base.__subclasses__():
        if cls.__module__.startswith("proto."):  # other tests have errors of their own
            yield cls
        yield from below(cls)


ALL = list(below(errors.BoathouseError))


def test_no_number_is_given_out_twice() -> None:
    numbers = sorted(numbered().values())
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("error_class", ALL)
def test_an_error_has_the_number_that_it_was_given(error_class: type[errors.BoathouseError]) -> None:
    assert numbered().get(error_class.__name__) == error_class.frame_code
    assert errors.BY_FRAME_CODE[error_class.frame_code] is error_class


@pytest.mark.parametrize("error_class", ALL)
def test_an_error_is_found_under_its_name(error_class: type[errors.BoathouseError]) -> None:
    assert inspect.getattr_static(errors, error_class.__name__) is error_class
