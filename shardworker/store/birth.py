"""What is known of a replica outside its database: that it was born, and how far it got.

A database cannot tell that it is gone, nor that somebody put an older copy in its place. Taken for a new one, a lone
voter would begin its shard anew without a word, and a member of a group would have forgotten votes. So a small file
beside the replica's folder, `shard-1.json` for `shard-1`, remembers:

- the replica's id, drawn at random when its database is made, and stored in the database as well;
- an epoch, in both, that grows when a process begins to write;
- whether the write-ahead log holds what the database file may lack: from the first write until the orderly end;
- whether the replica is all of its shard, by the membership that it has applied;
- after an orderly end, where the replica stood.

The order of the steps makes each crash between two of them a state that is accepted. At birth the database comes first,
and nothing is acknowledged before the record is durable. Before its first turn a process commits the next epoch, which
puts frames into the write-ahead log, and only then records that the log is needed. In the end it records where it
stands, and only then empties the log. A file that is to take the database's place (folder.py) brings no log with it, so
the record stops asking for one before the rename. That it is alone is recorded before the turn that makes it so, and
that it is no longer after that turn.

A member of a group may lose its database: it hears from the others what it has promised (replica/census.py). Anything
less than all of it, say a log or the last hour, it may not. A write-ahead log that is left without its database is kept
under another name (folder.py): should the database turn up, both are what they were."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from shardworker.store import database, folder
from shardworker.store.crash_points import CrashPoint
from shardworker.store.errors import DataMissing

if TYPE_CHECKING:
    from pathlib import Path

    import apsw

    from shardworker.store.crash_points import CrashPoints
    from shardworker.store.files import Files
    from shardworker.store.records import Identity, ReplicaState

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a replica stood when it ended in order."""

    term: int
    vote: int
    commit: int
    last_index: int

    @classmethod
    def of(cls, state: ReplicaState) -> Standing:
        return cls(state.term, state.vote, state.commit, state.last_index)


@dataclass(frozen=True, slots=True)
class Birth:
    """What the file says."""

    replica: str
    """The replica's id."""
    epoch: int = 0
    """The database's is this one, or the next."""
    needs_wal: bool = False
    """The write-ahead log holds what the database file may lack."""
    ended_at: Standing | None = None
    """None unless the last process to write ended in order."""
    alone: bool = False
    """No other replica votes, so none could tell this one what it has lost."""

    def written(self, epoch: int) -> Birth:
        """From the first write of a process on."""
        return replace(self, epoch=epoch, needs_wal=True, ended_at=None)

    def replaced(self) -> Birth:
        """While another file takes the database's place."""
        return replace(self, needs_wal=False, ended_at=None)

    def ended(self, epoch: int, state: ReplicaState) -> Birth:
        """At an orderly end."""
        return replace(self, epoch=epoch, needs_wal=False, ended_at=Standing.of(state))


class BirthRecord:
    """The file. Its methods raise OSError where the disk fails them."""

    def __init__(self, replica_folder: Path, files: Files) -> None:
        self.path: Final = replica_folder.with_name(replica_folder.name + ".json")
        self._folder = replica_folder
        self._files = files

    def read(self) -> Birth | None:
        """None if there is no record: nobody was born here, or somebody wants it forgotten. Raises DataMissing if it
        cannot be read."""
        if not self._files.exists(self.path):
            return None
        try:
            fields: dict[str, Any] = json.loads(self._files.read(self.path, 0, self._files.size(self.path)))
            known = fields["format"]
            if known == FORMAT:
                ended_at = fields["ended_at"]
                return Birth(
                    replica=fields["replica"],
                    epoch=fields["epoch"],
                    needs_wal=fields["needs_wal"],
                    ended_at=None if ended_at is None else Standing(**ended_at),
                    alone=fields.get("alone", False),  # not known yet to the version that wrote it
                )
        except (ValueError, KeyError, TypeError):
            raise DataMissing(
                f"{self.path} is damaged: it says whether the database in {self._folder} is the newest one of this "
                "replica. If you know that it is, remove the file"
            ) from None
        raise DataMissing(
            f"{self.path} has format {known}, this boathouse reads format {FORMAT}; start the replica with the version "
            "that wrote it"
        )

    def write(self, birth: Birth, identity: Identity) -> None:
        """Durable on return; after a crash the file is the old one or the new one."""
        fields = {
            "format": FORMAT,
            "cluster": identity.cluster_name,
            "cluster_id": f"{identity.cluster_id:016x}",
            "node": identity.node,
            "shard": identity.shard,
            **asdict(birth),
        }
        passing = self.path.with_name(self.path.name + ".new")
        self._files.create(passing)
        self._files.write(passing, 0, (json.dumps(fields, indent=2) + "\n").encode())
        self._files.sync(passing)
        self._files.rename(passing, self.path)
        self._files.sync_folder(self.path.parent)

    # ---- what contradicts it ------------------------------------------------------------------------------------

    def has_lost_database(self, generation: int | None, *, alone: bool) -> bool:
        """Whether a replica was born here and its database is gone: a member of a group begins on an empty disk. Raises
        DataMissing for one that is all of its shard."""
        file = folder.database_file(self._folder, generation or 1)
        if self._files.size(file):
            return False
        if alone:
            raise DataMissing(
                f"{file} is missing or empty, but {self.path} tells that this replica was born and has data. It is its "
                "shard's only voter: if it started, the shard would begin anew and all its data be gone. Put the "
                f"database back, with its -wal. To begin empty all the same, remove {self.path}"
            )
        return True

    def check_wal(self, birth: Birth, generation: int, *, alone: bool) -> None:
        """Before SQLite opens the database, and makes what it misses. Raises DataMissing if the write-ahead log is gone
        that holds the newest turns."""
        wal = folder.wal_of(folder.database_file(self._folder, generation))
        if birth.needs_wal and not self._files.size(wal):
            raise DataMissing(
                f"{wal} is missing or empty, but this replica did not end in order, so what it acknowledged last is in "
                f"that file. Put it back. {self._way_out(alone)}"
            )

    def check_database(self, birth: Birth, found: Birth, state: ReplicaState, *, alone: bool) -> None:
        """Raises DataMissing unless the open database is the newest one of the recorded replica. found: id and epoch as
        the database has them."""
        if found.replica != birth.replica:
            told = (
                f"is the database of another replica ({found.replica or 'none'} instead of {birth.replica})"
            )
        elif found.epoch not in (birth.epoch, birth.epoch + 1):
            told = f"is a copy from another time (epoch {found.epoch}, the newest is {birth.epoch})"
        elif birth.ended_at not in (None, Standing.of(state)):
            told = f"is at {Standing.of(state)}, but the replica ended at {birth.ended_at}"
        else:
            return
        raise DataMissing(
            f"The database in {self._folder} {told}, says {self.path}. Put the newest one back, with its -wal. "
            f"{self._way_out(alone)}"
        )

    def _way_out(self, alone: bool) -> str:
        if alone:
            return f"To go on with what is there and lose what is missing, remove {self.path}"
        return (
            f"Or, if all other replicas of the shard are sound, move {self._folder} away and start the worker: they "
            "tell it what it has promised, and it is rebuilt from the leader"
        )


class Lifetime:
    """What one process does to the record while it has the replica open."""

    def __init__(self, record: BirthRecord, identity: Identity, crash_points: CrashPoints) -> None:
        self._record = record
        self._identity = identity
        self._crash_points = crash_points
        self._birth: Birth
        self.epoch = 0
        """The database's."""
        self.is_writing = False
        """Whether the record knows that this process writes to this database."""

    @property
    def birth(self) -> Birth:
        """What the record says."""
        return self._birth

    def opened(self, epoch: int) -> None:
        """A database was opened, the first or the one that took its place."""
        self.epoch, self.is_writing = epoch, False

    def stands(self, *, alone: bool) -> None:
        """Whether the replica is all of its shard from now on. Raises OSError."""
        if alone is not self._birth.alone:
            self._set(replace(self._birth, alone=alone))

    def resume(self, birth: Birth) -> None:
        """The record says this, and the database agrees."""
        self._birth = birth

    def begin(self, identity: Identity) -> None:
        """There was no record, now there is one. Raises OSError."""
        self._identity = identity
        self._set(Birth(identity.replica, self.epoch))

    def begin_to_write(self, writer: apsw.Connection) -> None:
        """Before the first turn. Raises OSError and what SQLite raises; then it is to be called again."""
        if self.epoch == self._birth.epoch:
            writer.execute("BEGIN IMMEDIATE")
            try:
                database.put_epoch(writer, self.epoch + 1)
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise
            self.epoch += 1
            self._crash_points.reach(CrashPoint.EPOCH_COMMITTED)
        self._set(self._birth.written(self.epoch))
        self.is_writing = True

    def replace_database(self) -> None:
        """Before another file takes the database's place. Raises OSError."""
        self._set(self._birth.replaced())

    def end(self, state: ReplicaState) -> None:
        """In the end, with everything that state says on disk. Raises OSError."""
        self._set(self._birth.ended(self.epoch, state))

    def _set(self, birth: Birth) -> None:
        self._record.write(birth, self._identity)
        self._birth = birth
        self._crash_points.reach(CrashPoint.BIRTH_RECORDED)
