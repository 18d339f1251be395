from __future__ import annotations

import pytest

from coordinator.api import outcomes
from proto import errors
from proto.codes import Code
from proto.internal import frames_pb2 as frames

ALL = sorted(errors.BY_FRAME_CODE.values(), key=lambda cls: cls.frame_code)
REGATTA_ONLY = {
    errors.EmptyTable,
    errors.NegativeLimit,
    errors.KeysOnlyAndCountOnly,
    errors.KeyTooLong,
    errors.ValueTooLong,
    errors.FilterNotSupported,
    errors.NoLeaderIndex,
    errors.EmptyName,
    errors.TableExists,
    errors.InvalidSettings,
    errors.NoRestoreInfo,
    errors.NoRestoreChunk,
    errors.BadAuthorization,
    errors.WrongBearer,
    errors.Unguarded,
}
ETCD_ONLY = {
    errors.KeyNotFound,
    errors.ValueProvided,
    errors.LeaseProvided,
    errors.TooManyOps,
    errors.DuplicateKey,
    errors.InvalidSortOption,
    errors.LeaseNotFound,
    errors.AuthNotEnabled,
    errors.AuthFailed,
    errors.NoPasswordUser,
    errors.RootUserNotExist,
    errors.RootRoleNotExist,
    errors.UserAlreadyExist,
    errors.UserNotFound,
    errors.RoleAlreadyExist,
    errors.RoleNotFound,
    errors.RoleEmpty,
    errors.RoleNotGranted,
    errors.PermissionNotGiven,
    errors.PermissionNotGranted,
    errors.InvalidAuthMgmt,
    errors.PasswordTooLong,
    errors.LeaseExists,
    errors.LeaseTTLTooLarge,
    errors.MemberNotLeader,
    errors.WrongVersionFormat,
    errors.InvalidDowngradeVersion,
    errors.NoDowngrade,
    errors.UnknownAction,
    errors.MemberExists,
    errors.PeerUrlExists,
    errors.NotEnoughStarted,
    errors.BadMemberUrls,
    errors.MemberNotFound,
    errors.MemberNotLearner,
    errors.LearnerNotReady,
    errors.TooManyLearners,
    errors.ChangeUnderWay,
    errors.Unhealthy,
    errors.TooManyLogins,
}

CONCURRENCY: set[type[errors.BoathouseError]] = {
    errors.SessionExpired,
    errors.NoElectionLeader,
    errors.NotElectionLeader,
    errors.LeaderKeyMissing,
}
"""Of etcd's Lock and Election, whose errors all have the same code."""

MAINTENANCE = {errors.TransferTooSlow, errors.UnknownAction}
"""Of etcd's Maintenance, which are no writes."""


@pytest.mark.parametrize("error_class", sorted(CONCURRENCY, key=repr))
def test_errors_of_locks_and_elections_leave_as_etcds_do(error_class: type[errors.BoathouseError]) -> None:
    assert outcomes.to_status(outcomes.ETCD_CONCURRENCY, error_class()).code.name == "UNKNOWN"
    assert outcomes.to_status(outcomes.ETCD_CONCURRENCY, errors.LeaseNotFound()) == (
        Code.UNKNOWN,
        "etcdserver: requested lease not found",
    )
    malformed = errors.MalformedRequest("cut off")
    status = outcomes.to_status(outcomes.ETCD_CONCURRENCY, malformed)
    assert status.code == Code.INTERNAL, "as of any method"


@pytest.mark.parametrize("error_class", [one for one in ALL if one not in CONCURRENCY])
def test_each_error_has_a_row_for_each_api_that_raises_it(error_class: type[errors.BoathouseError]) -> None:
    if error_class not in REGATTA_ONLY:
        assert error_class in outcomes.ETCD
    if error_class not in ETCD_ONLY:
        assert error_class in outcomes.REGATTA
    # And none is without any row where it is not expected.
    assert outcomes.find_row(outcomes.ETCD, error_class)
    assert outcomes.find_row(outcomes.REGATTA, error_class)


@pytest.mark.parametrize("error_class", ALL)
def test_each_error_survives_the_trip_over_frames(error_class: type[errors.BoathouseError]) -> None:
    error = error_class("shard 3: näher erklärt")
    wire = frames.Envelope(
        replies=[frames.Reply(call=7, error=error.frame_code, detail=error.detail)]
    ).SerializeToString()
    reply = frames.Envelope.FromString(wire).replies[0]
    arrived = errors.from_frame(reply.error, reply.detail)
    assert type(arrived) is error_class
    assert arrived.detail == error.detail


def test_rows_are_found_along_the_mro() -> None:
    class OddKey(errors.EmptyKey):
        frame_code = 9_001

    class Odd(errors.InvalidRequest):
        frame_code = 9_002

    assert outcomes.to_status(outcomes.ETCD, OddKey()) == outcomes.ETCD[errors.EmptyKey]
    row = outcomes.to_status(outcomes.REGATTA, Odd("the third ear"))
    assert (row.code.name, row.text) == ("INVALID_ARGUMENT", "invalid request: the third ear")


@pytest.mark.parametrize("table", [outcomes.ETCD, outcomes.REGATTA], ids=["etcd", "regatta"])
def test_an_unknown_fate_is_never_told_in_words_that_clients_retry_writes_for(table: outcomes.Table) -> None:
    for error_class in ALL:
        if error_class in {*CONCURRENCY, *MAINTENANCE, errors.NoPasswordUser, errors.NotEnoughStarted}:
            continue
        code = outcomes.find_row(table, error_class).code.name
        assert code not in {"CANCELLED", "DEADLINE_EXCEEDED", "UNKNOWN"}
        if not error_class.definite and error_class.retry is errors.Retry.SAME_REQUEST_ID:
            assert code == "UNAVAILABLE"


def test_a_detail_is_put_in_once_and_never_read_as_a_template() -> None:
    row = outcomes.to_status(outcomes.REGATTA, errors.FilterNotSupported("{detail} of {x}"))
    assert row.text == "{detail} of {x} not implemented"


@pytest.mark.parametrize("table", [outcomes.ETCD, outcomes.REGATTA], ids=["etcd", "regatta"])
def test_a_status_leads_back_to_an_error_that_looks_the_same(table: outcomes.Table) -> None:
    for error_class in table:
        status = outcomes.to_status(table, error_class("what: 3"))
        if outcomes.find_row(table, error_class).text == "{detail}":
            continue  # says nothing of what it is
        error = outcomes.from_status(table, *status)
        assert error is not None, error_class
        assert outcomes.to_status(table, error) == status
        assert outcomes.find_row(table, type(error)) == outcomes.find_row(table, error_class)
    assert outcomes.from_status(table, Code.INTERNAL, "never heard of") is None
