"""Starting a replica over that cannot trust its data, without forgetting what it promised.

What it begins with is identity, term and vote, no membership and no log: the leader sends such a replica a snapshot. A
mark in `meta` says up to which entry it once acknowledged them. Until it has applied that one it must not vote
(shardworker/replica/rebuild.py), so the mark survives restarts and installed snapshots. That entry itself may never
come, since it need not have been committed: one of a later term, once it is applied, shows that all came that was.

`python -m shardworker.store.rebuild FOLDER` does this to a stopped replica that refuses to start. It needs the term and
the vote: a replica that does not know whom it voted for must never start again under its name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from proto.errors import Corrupt
from shardworker.raft.types import LogIndex, Term
from shardworker.store import database, folder, snapshot
from shardworker.store.birth import Birth, BirthRecord
from shardworker.store.context import StoreContext
from shardworker.store.crash_points import NO_CRASH_POINTS
from shardworker.store.database import Role, StoreSettings
from shardworker.store.errors import StoreError, translated
from shardworker.store.files import REAL_FILES
from shardworker.store.records import (
    STATE_ROW,
    Identity,
    LogEnd,
    Promises,
    RebuildMark,
    ReplicaState,
    checked_entry,
)

if TYPE_CHECKING:
    from shardworker.store.files import Files


class CannotRebuild(StoreError):
    """The replica cannot be started over; nothing was changed."""


def start_over(
    context: StoreContext, generation: int, old: Promises, mark: RebuildMark, birth: Birth, epoch: int
) -> None:
    """Make the generation after `generation`: nothing but identity, term, vote and mark. Durable on return.

    A crash leaves the old replica or the new one."""
    path = context.path / "receive-nothing.tmp"
    snapshot.remove_copy(context.files, path)
    context.files.create(path)
    copy = snapshot.open_copy(context, path, Role.WRITER)
    try:
        copy.execute(f"PRAGMA page_size = {context.settings.page_bytes}")
        snapshot.drop_journal(copy)
        database.create_tables(copy, context.identity, NO_CRASH_POINTS)
        copy.execute("BEGIN IMMEDIATE")
        database.put_row(copy, STATE_ROW, ReplicaState(term=old.term, vote=old.vote).encode())
        database.put_rebuild_mark(copy, mark)
        database.put_epoch(copy, epoch)
        copy.execute("COMMIT")
    finally:
        copy.close()
    context.files.sync(path)
    BirthRecord(context.path, context.files).write(birth.replaced(), context.identity)
    snapshot.switch_generation(context, path, generation + 1)


def advice(path: Path) -> str:
    """What an operator can do about a replica in this folder that is found damaged."""
    return (
        "A damaged replica serves nothing. If the shard has other replicas, it works on without this one: check this "
        f"node's disk, run `{Path(sys.executable).name} -m shardworker.store.rebuild {path}` here, then start the "
        "worker again; it is rebuilt from the leader. Do not move the folder away unless that command says so: the "
        "replica would have to hear from the others what it has promised, and a shard can spare one replica's memory, "
        "not two. A shard with this one replica has to be restored from a backup"
    )


def rebuild_stopped(path: Path, reason: str, files: Files = REAL_FILES) -> RebuildMark:
    """Start a stopped replica over, to be rebuilt when it runs.

    Raises CannotRebuild, StoreInUse, and DiskFull or StorageFailed: then the old replica is there, or the new one."""
    if not path.is_dir() or (generation := folder.current_generation(path, files)) is None:
        raise CannotRebuild(f"{path} is no replica's folder: it holds no replica-<number>.db")
    lock = files.lock(path)
    try:
        record = BirthRecord(path, files)
        recorded = record.read()
        if recorded is not None:
            record.check_wal(recorded, generation, alone=False)
        folder.clean_up(path, files)
        identity, state, mark, found = _read(folder.database_file(path, generation), reason)
        promised = Promises(state.hard_state.term, state.hard_state.vote, mark.until)
        if recorded is not None:
            record.check_database(recorded, found, state, alone=False)
        context = StoreContext(path, identity, StoreSettings(), None, files, NO_CRASH_POINTS)
        start_over(context, generation, promised, mark, recorded or found, found.epoch)
        return mark
    except (apsw.Error, OSError) as error:
        raise translated(error, f"starting the replica in {path} over") from error
    finally:
        files.unlock(lock)


def _read(file: Path, reason: str) -> tuple[Identity, ReplicaState, RebuildMark, Birth]:
    try:
        connection = database.connect(file, StoreSettings(), vfs=None, role=Role.WRITER)
        try:
            database.check_format(connection, file)
            identity, state = database.read_identity(connection), database.read_state(connection)
            others = {*database.read_membership(connection).nodes()} - {identity.node}
            earlier = database.read_rebuild_mark(connection)
            birth = Birth(identity.replica, database.read_epoch(connection))
            last = _last(connection, state)
        finally:
            connection.close()
    except (apsw.Error, Corrupt, ValueError, KeyError) as error:
        raise CannotRebuild(
            f"{file}: its identity, term and vote, and its membership cannot all be read "
            f"({translated(error, 'reading them')}). If all other replicas of the shard are sound, move this folder "
            "away and start the worker: they tell it what it has promised, and it is rebuilt from the leader. "
            "Otherwise leave it stopped"
        ) from error
    if not others and earlier is None:
        raise CannotRebuild(
            f"{file} is the shard's only replica: there is nobody to rebuild it from. Restore it from a backup"
        )
    until = last if earlier is None else max(last, earlier.until)
    return identity, state, RebuildMark(until, reason), birth


def _last(connection: apsw.Connection, state: ReplicaState) -> LogEnd:
    """The log's last entry. Where it cannot be read, its term may be any up to the replica's."""
    index = LogIndex(state.last_index)
    if index == state.truncated_index:
        return LogEnd(Term(state.truncated_term), index)
    try:
        row = connection.execute(
            "SELECT idx, term, kind, crc, data FROM log WHERE idx = ?", (index,)
        ).fetchone()
        term = Term(state.term) if row is None else checked_entry(*row).term
    except (apsw.Error, Corrupt):
        term = Term(state.term)
    return LogEnd(term, index)


def main(path: str) -> None:
    try:
        mark = rebuild_stopped(Path(path), "its data was found damaged")
    except StoreError as error:
        sys.exit(str(error))
    sys.stdout.write(
        f"The replica in {path} starts over; it serves again once it has {mark.until}, or a later term's\n"
    )


if __name__ == "__main__":
    main(sys.argv[1])
