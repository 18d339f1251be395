"""What became of a request is not known, or how it was answered."""

from __future__ import annotations

from proto.errors.base import BoathouseError, Retry


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


class AnswerForgotten(BoathouseError):
    """The request was applied, exactly once; its answer is no longer kept, or was too large to keep."""

    frame_code = 150
    definite = False
