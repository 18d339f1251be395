"""Versions: what a cluster of several can't do yet, and the way back to an earlier one."""

from __future__ import annotations

from proto.errors.base import BoathouseError, Retry
from proto.errors.requests import InvalidRequest


class UpgradeInProgress(BoathouseError):
    """A voter of the shard runs a version that cannot apply this request yet; nothing was proposed."""

    frame_code = 124
    retry = Retry.CALLER


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
