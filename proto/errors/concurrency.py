"""Locks and elections: what etcd's own client library says, and nobody repeats."""

from __future__ import annotations

from proto.errors.base import BoathouseError


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
