"""Tables that copy another cluster's."""

from __future__ import annotations

from proto.errors.base import BoathouseError
from proto.errors.requests import InvalidRequest


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


class TablesUnknown(BoathouseError):
    """A follower cluster asked which tables there are, and would delete what is left out; this coordinator can't tell
    of all of them, and `detail` says why."""

    frame_code = 320


class OtherCluster(BoathouseError):
    """A follower cluster meant another cluster of this name; `detail` has the identity of this one."""

    frame_code = 321
