"""What a request says is wrong, or is not there: the caller's mistake."""

from __future__ import annotations

from typing import Final

from proto.errors.base import BoathouseError, Retry


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


class Absent(BoathouseError):
    """Base of what is not there."""

    frame_code = 30


class CursorNotFound(Absent):
    """The cursor was closed, was idle for too long, or the worker restarted."""

    frame_code = 33
    retry = Retry.CALLER


class MethodNotServed(Absent):
    """This version does not serve the method, or not what is asked of it; `detail` says so to the client."""

    frame_code = 34


COPY_NOT_DELETED: Final = "method Delete not implemented for follower"
"""Of a table that is a copy; Regatta's words, by which its clients go."""


class OutOfRange(BoathouseError):
    """Base of revisions that cannot be read."""

    frame_code = 50


class Compacted(OutOfRange):
    """The revision was compacted away."""

    frame_code = 51


class FutureRevision(OutOfRange):
    """The revision does not exist yet."""

    frame_code = 52
