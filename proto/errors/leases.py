"""Leases."""

from __future__ import annotations

from proto.errors.requests import Absent, InvalidRequest


class LeaseNotFound(Absent):
    """No lease has this id."""

    frame_code = 32


class LeaseExists(InvalidRequest):
    """A lease was to be granted under an id that is in use."""

    frame_code = 200


class LeaseTTLTooLarge(InvalidRequest):
    """A lease was to live for longer than any may."""

    frame_code = 201
