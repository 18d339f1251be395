"""What is in a replica's database, and is it sound? Reads only, beside a worker or without one.

`python -m shardworker.inspection PATH` prints it as one JSON document. The CLI runs that as a process of its
own, because tools reach workers only through files and processes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import sqlite_utils
from google.protobuf.message import DecodeError

from proto.errors import Corrupt
from proto.node_records import in_record
from shardworker.machine.tables import load_tables
from shardworker.store import database, folder
from shardworker.store.database import StoreSettings
from shardworker.store.errors import IdentityMismatch, StoreError, translated
from shardworker.store.files import REAL_FILES
from shardworker.store.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotADatabase(StoreError):
    """There is nothing to inspect at this path."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything there is to say, ready for JSON."""

    file: str
    size_bytes: int
    wal_bytes: int
    replica: dict[str, Any]
    """Identity, hard state, positions and membership; empty if they cannot be read."""
    members: list[dict[str, Any]]
    """Where the shard's log says that members are, of those that it was told of."""
    tables: list[dict[str, Any]]
    """The key-value tables of the shard."""
    storage: list[dict[str, Any]]
    """SQLite's tables with their row counts."""
    problems: list[str]
    """A sentence each; empty for a sound database."""


def inspect_database(path: Path) -> Inspection:
    """Read and check a database. What is wrong with it is in `problems`; raises NotADatabase only if there is none."""
    file = database_file(path)
    wal_bytes = REAL_FILES.size(folder.wal_of(file))
    problems: list[str] = []
    replica: dict[str, Any] = {}
    members: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    storage: list[dict[str, Any]] = []
    try:
        connection = database.connect(file, StoreSettings(), vfs=None, role=database.Role.READER)
    except apsw.Error as error:
        raise NotADatabase(f"{file} cannot be opened: {error}") from error
    try:
        # One read transaction: a worker that runs beside us may go on writing, what we see stays one state.
        connection.execute("BEGIN")
        database.check_format(connection, file)
        problems = verify(connection)
        replica = _replica(connection)
        members = list(_members(connection, problems))
        storage = list(_storage(connection))
        tables = list(_tables(connection, problems))
    except (apsw.Error, StoreError, Corrupt) as error:
        if isinstance(error, IdentityMismatch):
            raise NotADatabase(str(error)) from error
        problems.append(str(translated(error, "reading the database")))
    finally:
        connection.close()
    return Inspection(
        file=str(file),
        size_bytes=REAL_FILES.size(file),
        wal_bytes=wal_bytes,
        replica=replica,
        members=members,
        tables=tables,
        storage=storage,
        problems=list(dict.fromkeys(problems)),
    )


def database_file(path: Path) -> Path:
    """The database at a path, which may be its replica's folder. Raises NotADatabase."""
    if not path.is_dir():
        if not path.exists():
            raise NotADatabase(f"there is no {path}")
        return path
    generation = folder.current_generation(path, REAL_FILES)
    if generation is None:
        raise NotADatabase(f"{path} is no replica's folder: it holds no replica-<number>.db")
    return folder.database_file(path, generation)


def _replica(connection: apsw.Connection) -> dict[str, Any]:
    identity = database.read_identity(connection)
    state = database.read_state(connection)
    membership = database.read_membership(connection)
    mark = database.read_rebuild_mark(connection)
    log_bytes = connection.execute("SELECT coalesce(sum(length(data)), 0) FROM log").get
    return {
        "cluster": identity.cluster_name,
        "cluster_id": f"{identity.cluster_id:016x}",
        "node": identity.node,
        "shard": identity.shard,
        "term": state.term,
        "vote": state.vote,
        "commit_index": state.commit,
        "applied_index": state.applied_index,
        "applied_term": state.applied_term,
        "first_index": state.truncated_index + 1,
        "last_index": state.last_index,
        "log_bytes": log_bytes,
        "rebuild_until": None if mark is None else mark.until.index,
        "voters": sorted(membership.voters),
        "voters_outgoing": sorted(membership.voters_outgoing),
        "learners": sorted(membership.learners),
        "generation": membership.generation,
    }


def _members(connection: apsw.Connection, problems: list[str]) -> Iterator[dict[str, Any]]:
    for node, data in database.read_membership(connection).directory:
        try:
            record = in_record(data)
        except DecodeError as error:
            problems.append(f"the record of member {node} can't be read: {error}")
            continue
        yield {
            "node": node,
            "name": record.name,
            "peer_urls": list(record.peer_urls),
            "client_urls": list(record.client_urls),
            "peer_key": record.peer_key.decode(errors="replace"),
        }


def _storage(connection: apsw.Connection) -> Iterator[dict[str, Any]]:
    # sqlite-utils asks its connection only for what apsw's offers as well.
    schema = sqlite_utils.Database(connection)  # type: ignore[arg-type]
    for name in sorted(schema.table_names()):
        table = schema[name]
        yield {
            "name": name,
            "rows": table.count,
            "columns": " ".join(column.name for column in table.columns),
        }


def _tables(connection: apsw.Connection, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The shard's tables as the state machine counts them, checked against what is stored."""
    if not connection.table_exists("main", "tables"):
        return
    for table in load_tables(connection).values():
        stored = connection.execute(f"SELECT count(*) FROM {table.sql.live_name}").get  # noqa: S608 -- a number
        if stored != table.keys:
            problems.append(f"table {table.name} counts {table.keys} keys, but {stored} are stored")
        yield {
            "id": table.id,
            "name": table.name,
            "revision": table.revision,
            "compacted_revision": table.compacted,
            "history": table.history,
            "keys": table.keys,
            "checksum": f"{table.checksum:016x}",
        }


def main(path: str) -> None:
    """Print the inspection, or {"error": sentence} if there is no replica's database at `path`."""
    try:
        document = dataclasses.asdict(inspect_database(Path(path)))
    except NotADatabase as error:
        document = {"error": str(error)}
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
