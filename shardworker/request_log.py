"""A replica's log as JSON lines, one for each request in it, for programs that check histories. Reads only.

`python -m shardworker.request_log PATH` prints them; the CLI runs that as a process of its own. What came of a request
is told as long as the shard remembers it. Keys and values are in base64, as in protobuf's JSON. Hashes of passwords and
digests of tokens are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from proto.boathouse import restore_pb2
from proto.errors import Corrupt
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2
from shardworker.inspection import database_file
from shardworker.machine.stored_results import read_outcomes
from shardworker.machine.tables import load_tables
from shardworker.raft import EntryKind, decode_change
from shardworker.store import database
from shardworker.store.database import StoreSettings
from shardworker.store.errors import StoreError, translated
from shardworker.store.records import checked_entry, text_is_damage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from shardworker.raft import Entry

BODIES: Final[dict[int, type[Message]]] = {
    frames.ETCD_PUT: rpc_pb2.PutRequest,
    frames.ETCD_DELETE_RANGE: rpc_pb2.DeleteRangeRequest,
    frames.ETCD_TXN: rpc_pb2.TxnRequest,
    frames.ETCD_COMPACT: rpc_pb2.CompactionRequest,
    frames.REGATTA_PUT: regatta_pb2.PutRequest,
    frames.REGATTA_DELETE_RANGE: regatta_pb2.DeleteRangeRequest,
    frames.REGATTA_TXN: regatta_pb2.TxnRequest,
    frames.TABLE_CREATE: frames.TableSpec,
    frames.TABLE_DELETE: frames.TableSpec,
    frames.RAISE_LEVEL: frames.MachineLevel,
    frames.AUTH_ENABLE: rpc_pb2.AuthEnableRequest,
    frames.AUTH_DISABLE: rpc_pb2.AuthDisableRequest,
    frames.AUTH_USER_DELETE: rpc_pb2.AuthUserDeleteRequest,
    frames.AUTH_USER_GRANT_ROLE: rpc_pb2.AuthUserGrantRoleRequest,
    frames.AUTH_USER_REVOKE_ROLE: rpc_pb2.AuthUserRevokeRoleRequest,
    frames.AUTH_ROLE_ADD: rpc_pb2.AuthRoleAddRequest,
    frames.AUTH_ROLE_DELETE: rpc_pb2.AuthRoleDeleteRequest,
    frames.AUTH_ROLE_GRANT_PERMISSION: rpc_pb2.AuthRoleGrantPermissionRequest,
    frames.AUTH_ROLE_REVOKE_PERMISSION: rpc_pb2.AuthRoleRevokePermissionRequest,
    frames.LEASE_GRANT: rpc_pb2.LeaseGrantRequest,
    frames.LEASE_REVOKE: rpc_pb2.LeaseRevokeRequest,
    frames.LEASE_EXPIRE: frames.ExpiredLeases,
    frames.ETCD_ALARM: frames.AlarmChange,
    frames.TABLE_QUOTA: frames.TableQuota,
    frames.TABLE_FREED: frames.TableFreed,
    frames.TABLE_LOAD: restore_pb2.LoadRequest,
    frames.REPLICATE_CHANGES: frames.ReplicatedChanges,
    frames.REPLICATE_SNAPSHOT: frames.ReplicatedPairs,
    frames.FOLLOW_COMMANDS: frames.FollowedCommands,
    frames.FOLLOW_SNAPSHOT: frames.FollowedPart,
    frames.FOLLOWER_POSITION: frames.FollowerPosition,
    frames.COPY_RESET: frames.CopyReset,
    frames.TABLE_ORIGIN: frames.TableOrigin,
}
"""Of commands, by method. What others hold is not told: hashes of passwords, digests of tokens, or what nobody has yet
thought of here."""


def requests(path: Path) -> Iterator[dict[str, Any]]:
    """A document for each request in the log, in order. Raises StoreError or Corrupt."""
    file = database_file(path)
    try:
        connection = database.connect(file, StoreSettings(), vfs=None, role=database.Role.READER)
        try:
            connection.execute("BEGIN")  # a worker that runs beside us may go on: what we see stays one state
            database.check_format(connection, file)
            yield from _requests(connection)
        finally:
            connection.close()
    except apsw.Error as error:
        raise translated(error, "reading the log") from error


def _requests(connection: apsw.Connection) -> Iterator[dict[str, Any]]:
    state = database.read_state(connection)
    has_tables = connection.table_exists("main", "tables")
    names = {table.id: table.name for table in load_tables(connection).values()} if has_tables else {}
    for row in connection.execute("SELECT idx, term, kind, crc, data FROM log ORDER BY idx"):
        entry = checked_entry(*row)
        place = {
            "index": entry.index,
            "term": entry.term,
            "committed": entry.index <= state.commit,
            "applied": entry.index <= state.applied_index,
        }
        if entry.kind is EntryKind.MEMBERSHIP:
            yield place | {"membership": repr(decode_change(entry.data))}
        else:
            outcomes = read_outcomes(connection, entry.index) if has_tables and place["applied"] else {}
            for document in _commands(entry, names, outcomes):
                yield place | document


def _commands(
    entry: Entry, names: dict[int, str], outcomes: dict[bytes, tuple[int, str]]
) -> Iterator[dict[str, Any]]:
    try:
        batch = frames.CommandBatch.FromString(entry.data)
    except DecodeError:
        yield {"unreadable": b64encode(entry.data).decode()}
        return
    for command in batch.commands:
        document = {
            "time_ms": batch.time_ms,
            "table_id": command.table_id,
            "table": names.get(command.table_id, ""),
            "method": _name(command.method),
            "request_id": command.request_id.hex(),
            "user": command.user,
            "request": _body(command),
        }
        outcome = outcomes.get(command.request_id)
        if outcome is not None:
            document["revision"], document["error"] = outcome
        yield document


def _name(method: int) -> str:
    known = frames.Method.DESCRIPTOR.values_by_number.get(method)
    return str(method) if known is None else known.name


def _body(command: frames.Command) -> Any:
    """As protobuf's JSON has it; one that cannot be read as base64; null where it is not told."""
    kind = BODIES.get(command.method)
    if kind is None:
        return None
    with contextlib.suppress(DecodeError):
        return json_format.MessageToDict(kind.FromString(command.body), preserving_proto_field_name=True)
    return b64encode(command.body).decode()


def main(path: str) -> int:
    """Print the lines, or one sentence on stderr."""
    try:
        with text_is_damage("a row of the log"):
            for document in requests(Path(path)):
                sys.stdout.write(json.dumps(document, separators=(",", ":")) + "\n")
        sys.stdout.flush()
    except (StoreError, Corrupt) as error:
        sys.stdout.flush()
        sys.stderr.write(f"{error}\n")
        return 1
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # nobody reads on: nothing is left to say
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
