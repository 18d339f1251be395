"""What has changed in a table, as its log tells it: for those who ask for more than is kept in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import history, oldest
from shardworker.machine.snapshot import snapshot
from shardworker.machine.tables import load_table
from shardworker.replica import telling

if TYPE_CHECKING:
    import apsw


def tell_history(
    connection: apsw.Connection, table_id: int, first: int, revision: int, *, prev: bool, exact: bool
) -> frames.TableChanges:
    """What the table's log says from first on, or where its floor is. revision: where the table stood when this was
    asked for; it may stand higher now. exact: see frames.ChangesRequest. Raises TableNotFound."""
    with snapshot(connection):
        table = load_table(connection, table_id)
        if table is None:
            raise errors.TableNotFound
        if first < oldest(table, exact=exact):
            return telling.compacted(first, table.floor)
        told = frames.TableChanges(first=first, prev=prev, compacted=max(0, table.compacted))
        size_bytes = 0
        for change in history(connection, table_id, first, previous=prev, exact=exact):
            if not told.revisions or told.revisions[-1].revision != change.revision:
                told.revisions.add(revision=change.revision)
            # As in etcd, where a pair before is read at the revision before: that must not be compacted.
            telling.add(told.revisions[-1], change, with_prev=change.revision > table.floor)
            size_bytes += change.size_bytes
            if size_bytes >= telling.PART_BYTES_MAX and not change.more:
                told.through = change.revision
                return told
        told.through = max(table.revision, revision)
        if told.through == table.revision:
            told.checksum = table.checksum
        return told
